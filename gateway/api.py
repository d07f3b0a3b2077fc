"""The OpenAI endpoints.

Owns reading a request, and the headers and bodies of answers. Decides nothing: selection, scheduling and relaying are
next door.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from router import RouterError

from .auth import OPEN
from .context import Gateway, Record, gateway_of
from .errors import ExpertNotFound, GatewayError, InvalidRequest
from .experts import AUTO, BASE, Expert
from .relay import Answer, error_event
from .schemas import CompletionRequest, Shape, parse_completion, route_turns
from .selection import Selection
from .streaming import ClientGone, EventStream, while_connected

__all__ = ["api", "client_of", "read_json"]

api = APIRouter()

_CLIENT_CLOSED = 499
_INSTRUCTING = ("system", "developer")


@api.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    return await _recorded(request, Shape.CHAT.value, lambda record: _complete(request, record, Shape.CHAT))


@api.post("/v1/completions")
async def completions(request: Request) -> Response:
    return await _recorded(request, Shape.COMPLETION.value, lambda record: _complete(request, record, Shape.COMPLETION))


@api.post("/v1/responses")
async def responses(request: Request) -> Response:
    return await _recorded(request, Shape.RESPONSE.value, lambda record: _complete(request, record, Shape.RESPONSE))


@api.post("/v1/embeddings")
async def embeddings(request: Request) -> Response:
    return await _recorded(request, "/v1/embeddings", lambda record: _embed(request, record))


@api.post("/v1/route")
async def route(request: Request) -> Response:
    return await _recorded(request, "/v1/route", lambda record: _route(request, record))


@api.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    client_of(request)
    gateway = gateway_of(request)
    enabled = [expert for expert in gateway.registry if gateway.registry.is_enabled(expert.name)]
    listed = [_virtual(gateway, AUTO), _virtual(gateway, BASE), *(_model(expert) for expert in enabled)]
    return {"object": "list", "data": listed}


@api.get("/v1/models/{name}")
async def model(request: Request, name: str) -> dict[str, Any]:
    for row in (await models(request))["data"]:
        if row["id"] == name:
            found: dict[str, Any] = row
            return found
    raise ExpertNotFound(f"The model {name[:100]!r} does not exist.", param="model")


# -- one request --------------------------------------------------------------------------------------------------


def client_of(request: Request) -> str:
    """The client's name for limits and logs: its key's name, or its address when no keys are in use.

    Raises:
        AuthenticationError: keys are in use and it has none.
    """
    headers = request.headers
    name = gateway_of(request).keyring.client(headers.get("authorization"), headers.get("x-api-key"))
    return f"{OPEN}:{request.client.host}" if name == OPEN and request.client else name


async def read_json(request: Request) -> Any:
    """The body. Raises: InvalidRequest: too large (413), or not JSON."""
    allowed = gateway_of(request).max_body_bytes
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > allowed:
            message = f"The body has more than the {allowed} bytes allowed."
            raise InvalidRequest(message, status=413, code="request_too_large")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from error


async def _recorded(request: Request, endpoint: str, work: Callable[[Record], Awaitable[Response]]) -> Response:
    gateway = gateway_of(request)
    record = Record(gateway, request, endpoint)
    try:
        record.client = client_of(request)
        gateway.limiter.take(record.client)
        return await work(record)
    except ClientGone:
        record.finish(_CLIENT_CLOSED)
        return Response(status_code=_CLIENT_CLOSED)
    except GatewayError as error:
        record.failed(error)
        raise
    except BaseException:
        record.outcome.error = "internal_error"
        record.finish(500)
        raise


async def _complete(request: Request, record: Record, shape: Shape) -> Response:
    gateway = gateway_of(request)
    wanted = parse_completion(shape, await read_json(request), max_tokens=gateway.max_tokens)
    selection = await gateway.selector.select(wanted.model, wanted.turns)
    record.selected(selection)
    if gateway.label_log is not None:
        gateway.label_log.consider(selection, wanted.turns)
    if gateway.log_prompts:
        record.extra["turns"] = list(wanted.turns)
    _set_defaults(gateway, wanted, gateway.registry.get(selection.expert))
    begun = asyncio.ensure_future(gateway.relay.begin(wanted, selection, client=record.client))
    if wanted.stream:
        return await _stream(request, record, wanted, selection, begun)
    await while_connected(request, begun)
    answer = begun.result()
    record.outcome = answer.outcome
    try:
        whole = asyncio.ensure_future(answer.whole())
        await while_connected(request, whole)
        body = whole.result()
    finally:
        await answer.aclose()
    record.finish(200)
    return JSONResponse(body, headers=_headers(answer.facts))


async def _stream(
    request: Request, record: Record, wanted: CompletionRequest, selection: Selection, begun: asyncio.Future[Answer]
) -> Response:
    gateway = gateway_of(request)
    task = asyncio.ensure_future(begun)
    if await while_connected(request, task, gateway.keep_alive_s):
        answer = task.result()
        record.outcome = answer.outcome
        events, facts = answer.events(), answer.facts
    else:  # nothing yet: commit to the 200, and keep the connection alive with comments
        events, facts = _late_events(task, record, wanted.shape), selection.facts()

    async def close() -> None:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            await task.result().aclose()
        finished = record.outcome.finished or record.outcome.error is not None
        record.finish(200 if finished else _CLIENT_CLOSED)

    return EventStream(events, close, _headers(facts), gateway.keep_alive_s)


async def _late_events(task: asyncio.Future[Answer], record: Record, shape: Shape) -> Any:
    try:
        answer = await asyncio.shield(task)
    except GatewayError as error:
        record.outcome.error = error.code
        yield error_event(error, shape)
        return
    record.outcome = answer.outcome
    async for event in answer.events():
        yield event


def _set_defaults(gateway: Gateway, wanted: CompletionRequest, expert: Expert | None) -> None:
    """Fill in what the client left out: the expert's generation defaults and system prompt, thinking, a token limit."""
    body, limit = wanted.body, wanted.shape.token_fields[0]
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


def _headers(facts: Mapping[str, Any]) -> dict[str, str]:
    return {f"x-pointsman-{key.replace('_', '-')}": str(value) for key, value in facts.items() if value is not None}


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


async def _route(request: Request, record: Record) -> Response:
    selector, asked = gateway_of(request).selector, await read_json(request)
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


async def _embed(request: Request, record: Record) -> Response:
    gateway, body = gateway_of(request), await read_json(request)
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
