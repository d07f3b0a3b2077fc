"""The OpenAI endpoints.

Owns reading a request, and the headers and bodies of answers. Decides nothing: selection, scheduling and relaying are
next door.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from router import RouterError

from .auth import OPEN
from .context import Gateway, Record, gateway_of
from .errors import ExpertNotFound, GatewayError, InvalidRequest
from .experts import AUTO, BASE, Expert
from .relay import Answer, error_event
from .schemas import CompletionRequest, Shape, parse_completion, route_turns
from .selection import Selection
from .streaming import ClientGone, EventStream, WhileConnected

__all__ = ["api", "completions"]

_CLIENT_CLOSED = 499
_JSON = (b"content-type", b"application/json")
_INSTRUCTING = ("system", "developer")


class Completions:
    """One of the completion endpoints, as an ASGI application: a stream is written where its request is read."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shape = self._shape
        await _recorded(scope, shape.value, lambda record: _complete(scope, receive, send, record, shape))


async def embeddings(request: Request) -> Response | None:
    return await _recorded(request.scope, "/v1/embeddings", lambda record: _embed(request.receive, record))


async def route(request: Request) -> Response | None:
    return await _recorded(request.scope, "/v1/route", lambda record: _route(request.receive, record))


async def models(request: Request) -> Response:
    gateway = gateway_of(request.scope)
    _client(gateway, request.scope)
    return JSONResponse({"object": "list", "data": _listed(gateway)})


async def model(request: Request) -> Response:
    gateway = gateway_of(request.scope)
    _client(gateway, request.scope)
    name = request.path_params["name"]
    for row in _listed(gateway):
        if row["id"] == name:
            return JSONResponse(row)
    raise ExpertNotFound(f"The model {name[:100]!r} does not exist.", param="model")


completions = {shape.value: Completions(shape) for shape in Shape}
"""By path: they can be called without a table of routes."""

api = [
    *(Route(path, endpoint, methods=["POST"]) for path, endpoint in completions.items()),
    Route("/v1/embeddings", embeddings, methods=["POST"]),
    Route("/v1/route", route, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/models/{name}", model),
]


# -- one request --------------------------------------------------------------------------------------------------


def _client(gateway: Gateway, scope: Scope) -> str:
    """The client's name for limits and logs: its key's name, or its address when no keys are in use.

    Raises:
        AuthenticationError: keys are in use and it has none.
    """
    keyring = gateway.keyring
    if keyring.is_open:
        address = scope.get("client")
        return f"{OPEN}:{address[0]}" if address else OPEN
    headers = Headers(scope=scope)
    return keyring.client(headers.get("authorization"), headers.get("x-api-key"))


async def _read_json(receive: Receive, allowed: int) -> Any:
    """A body of ``allowed`` bytes at most. Raises: InvalidRequest: too large (413), or not JSON."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > allowed:
            raise InvalidRequest(
                f"The body has more than the {allowed} bytes allowed.", status=413, code="request_too_large"
            )
    try:
        return from_json(body)  # half of json's time
    except ValueError:  # or half of a surrogate pair, which json takes, as only some fields may not have it
        pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from error


async def _recorded(
    scope: Scope, endpoint: str, work: Callable[[Record], Awaitable[Response | None]]
) -> Response | None:
    """Do the work, and have it counted and logged whatever becomes of it. None: there is nothing (more) to send."""
    gateway = gateway_of(scope)
    record = Record(gateway, scope, endpoint)
    try:
        record.client = _client(gateway, scope)
        gateway.limiter.take(record.client)
        return await work(record)
    except ClientGone:
        record.finish(_CLIENT_CLOSED)
        return None
    except GatewayError as error:
        record.failed(error)
        raise
    except BaseException:
        record.outcome.error = "internal_error"
        record.finish(500)
        raise


async def _complete(scope: Scope, receive: Receive, send: Send, record: Record, shape: Shape) -> None:
    gateway = record.gateway
    body = await _read_json(receive, gateway.max_body_bytes)
    wanted = parse_completion(shape, body, max_tokens=gateway.max_tokens)
    selection = await gateway.selector.select(wanted.model, wanted.turns)
    record.selected(selection)
    if gateway.label_log is not None:
        gateway.label_log.consider(selection, wanted.turns)
    if gateway.log_prompts:
        record.extra["turns"] = list(wanted.turns)
    if wanted.stream:
        await _stream(scope, receive, send, record, wanted, selection)
        return
    async with WhileConnected(scope, receive):
        answer = await _begin(gateway, wanted, selection, record)
        record.outcome = answer.outcome
        try:
            whole = await answer.whole()
        finally:
            await answer.aclose()
    record.finish(200)
    content = to_json(whole, inf_nan_mode="null")
    length = (b"content-length", str(len(content)).encode())
    headers = [_JSON, length, *_headers(answer.facts)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _stream(
    scope: Scope, receive: Receive, send: Send, record: Record, wanted: CompletionRequest, selection: Selection
) -> None:
    """Begin the answer and write it. After ``keep_alive_s`` without its first event the client gets its 200 first."""
    gateway = record.gateway
    try:
        async with WhileConnected(scope, receive) as client:
            stream = EventStream(scope, send, client, gateway.keep_alive_s, gateway.client_stall_s)
            stream.headers = _headers(selection.facts())
            async with stream:

                def move(to: Selection) -> bool:
                    if stream.begun:
                        return False
                    stream.headers = _headers(to.facts())
                    return True

                try:
                    answer = await _begin(gateway, wanted, selection, record, move)
                except GatewayError as error:
                    if not stream.begun:
                        raise
                    record.outcome.error = error.code
                    await stream.write(error_event(error, wanted.shape))
                else:
                    record.outcome = answer.outcome
                    stream.headers = _headers(answer.facts)
                    await _write(answer, stream)
                await stream.finish()
    except ClientGone:
        if not record.outcome.finished:
            raise  # it left before the last token
    record.finish(200)


async def _begin(
    gateway: Gateway,
    wanted: CompletionRequest,
    selection: Selection,
    record: Record,
    move: Callable[[Selection], bool] = lambda to: True,
) -> Answer:
    """Begin the answer. Who left the choice to us is routed anew when the expert is withdrawn while it waits.

    Args:
        move: told of the new selection; whether that may serve in place of the old one: not once the client was told
            which expert does.
    """
    while True:
        filled = _with_defaults(gateway, wanted, gateway.registry.get(selection.expert))
        try:
            return await gateway.relay.begin(filled, selection, client=record.client)
        except ExpertNotFound:
            if selection.requested != AUTO:
                raise
            # Not before: a client that waits is told which expert serves it while this looks for another.
            selection = await gateway.selector.select(wanted.model, wanted.turns)
            if not move(selection):
                raise
        record.selected(selection)


async def _write(answer: Answer, stream: EventStream) -> None:
    try:
        while events := await answer.read():
            await stream.write(events)
    finally:
        await answer.aclose()


def _with_defaults(gateway: Gateway, wanted: CompletionRequest, expert: Expert | None) -> CompletionRequest:
    """Fill in what the client left out: the expert's generation defaults and system prompt, thinking, a token limit."""
    body, limit = dict(wanted.body), wanted.shape.token_fields[0]
    if expert is not None:
        for key, value in expert.manifest.generation.items():
            field = limit if key == "max_tokens" else key
            if body.get(field) is None:  # an SDK sends null for what its caller left out
                body[field] = value
        prompt = expert.manifest.system_prompt
        instructed = wanted.shape is not Shape.CHAT or any(m.get("role") in _INSTRUCTING for m in body["messages"])
        if prompt and not instructed:
            body["messages"] = [{"role": "system", "content": prompt}, *body["messages"]]
    if gateway.thinking_off and wanted.shape is not Shape.COMPLETION:
        given = body.get("chat_template_kwargs")
        body["chat_template_kwargs"] = {"enable_thinking": False, **(given if isinstance(given, dict) else {})}
    body.setdefault(limit, gateway.default_tokens)
    return wanted._replace(body=body)


def _headers(facts: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(_header(key), str(value).encode("latin-1")) for key, value in facts.items() if value is not None]


@functools.cache
def _header(fact: str) -> bytes:
    return f"x-pointsman-{fact.replace('_', '-')}".encode("latin-1")


def _listed(gateway: Gateway) -> list[dict[str, Any]]:
    enabled = [expert for expert in gateway.registry if gateway.registry.is_enabled(expert.name)]
    return [_virtual(gateway, AUTO), _virtual(gateway, BASE), *(_model(expert) for expert in enabled)]


def _virtual(gateway: Gateway, name: str) -> dict[str, Any]:
    texts = {
        AUTO: "Chooses the expert for the topic of each request; the base model when none fits.",
        BASE: "The base model, without an expert.",
    }
    return {
        "id": name,
        "object": "model",
        "created": int(gateway.started),
        "owned_by": "pointsman",
        "description": texts[name],
    }


def _model(expert: Expert) -> dict[str, Any]:
    manifest = expert.manifest
    return {
        "id": manifest.name,
        "object": "model",
        "created": int(manifest.created.timestamp()),
        "owned_by": "pointsman",
        "parent": BASE,
        "description": f"{manifest.title}: {manifest.description}",
        "version": manifest.version,
    }


# -- the router, seen from outside --------------------------------------------------------------------------------


async def _route(receive: Receive, record: Record) -> Response:
    gateway = record.gateway
    selector, asked = gateway.selector, await _read_json(receive, gateway.max_body_bytes)
    turns, explanation = route_turns(asked), None
    if _wants_explanation(asked):
        selection, explanation = await selector.explain(turns)
    else:
        selection = await selector.select(AUTO, turns)
    record.selected(selection)
    record.finish(200)
    body: dict[str, Any] = {
        "object": "route",
        "expert": selection.expert,
        "reason": selection.reason,
        "score": selection.score,
        "threshold": selection.threshold,
        "scores": dict(sorted(selection.scores.items(), key=lambda item: -item[1])),
        "route_ms": round(selection.route_s * 1000, 3),
        "second": selection.second,
    }
    if selection.note:
        body["note"] = selection.note
    if explanation is not None:
        facts = explanation.to_dict()
        decision = facts.pop("decision")
        body["explanation"] = {**facts, **{key: decision[key] for key in ("runner_up", "margin", "turns")}}
    return JSONResponse(body)


def _wants_explanation(asked: Mapping[str, Any]) -> bool:
    explain = asked.get("explain") or False
    if not isinstance(explain, bool):
        raise InvalidRequest(f"'explain' is {explain!r}; true and false are allowed.", param="explain")
    return explain


async def _embed(receive: Receive, record: Record) -> Response:
    gateway = record.gateway
    body = await _read_json(receive, gateway.max_body_bytes)
    texts, encoding = _embedding_input(body)
    router = gateway.selector.router
    if router is None:
        raise InvalidRequest("There is no encoder: no expert is served.", status=503, code="no_encoder")
    try:
        vectors, tokens = await router.embed(texts)
    except RouterError as error:
        raise InvalidRequest(f"The encoder failed: {error}", status=503, code="encoder_failed") from error
    record.outcome.prompt_tokens = tokens
    record.finish(200)
    rows = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": rows, "model": gateway.encoder, "usage": usage})


def _embedding_input(body: Any) -> tuple[list[str], str]:
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        message = "'input' must be a text or a list of texts, none empty; token ids are not supported."
        raise InvalidRequest(message, param="input")
    if len(texts) > 2048:
        raise InvalidRequest(f"'input' has {len(texts)} texts; at most 2048 are allowed.", param="input")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        message = f"'encoding_format' is {encoding!r}; 'float' and 'base64' are allowed."
        raise InvalidRequest(message, param="encoding_format")
    if body.get("dimensions") is not None:
        raise InvalidRequest("'dimensions' cannot be chosen with this encoder.", param="dimensions")
    return texts, encoding


def _encoded(vector: np.ndarray[Any, np.dtype[np.float32]], encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]
