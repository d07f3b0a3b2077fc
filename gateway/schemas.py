"""The request fields that the gateway reads; every other field passes to the backend untouched.

Owns the checks of a request body and what is taken out of it: the texts to route on, the token limit, the slots it
needs. Knows nothing of experts, routing or backends.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .errors import InvalidRequest

__all__ = ["CompletionRequest", "Shape", "parse_completion", "route_turns"]

# Fields with which a client could choose weights or slots past the scheduler.
# Allowed: what says that the gateway may choose. Neither goes on to the backend.
_RESERVED: dict[str, tuple[Any, ...]] = {"lora": (None,), "id_slot": (None, -1), "slot_id": (None, -1)}


class Shape(enum.Enum):
    """Which of OpenAI's completion endpoints; the value is the path, here and at llama-server."""

    CHAT = "/v1/chat/completions"
    COMPLETION = "/v1/completions"
    RESPONSE = "/v1/responses"

    @property
    def token_fields(self) -> tuple[str, ...]:
        """The names of the output limit, the one sent to the backend first."""
        if self is Shape.RESPONSE:
            return ("max_output_tokens",)
        return ("max_tokens", "max_completion_tokens", "n_predict")


class CompletionRequest(NamedTuple):
    """A checked request. ``turns``: the user's texts, oldest first; ``width``: slots needed."""

    shape: Shape
    body: dict[str, Any]
    model: str | None
    turns: tuple[str, ...]
    stream: bool
    width: int
    opening: str
    """Identifies the conversation: a hash of its system text and first user turn."""


def parse_completion(shape: Shape, body: Any, *, max_tokens: int) -> CompletionRequest:
    """Check a completion body and take out what the gateway needs; the body is copied.

    Its output limit, if there is one, stands under one name afterwards: the first of ``shape.token_fields``.

    Raises:
        InvalidRequest: names the field, the value and what is allowed.
    """
    if not isinstance(body, dict):
        raise InvalidRequest(f"The body must be a JSON object, found {_kind(body)}.")
    for field, allowed in _RESERVED.items():
        if body.get(field) not in allowed:
            raise InvalidRequest(f"{field!r} is set by the gateway; choose an expert with 'model'.", param=field)
    body = {key: value for key, value in body.items() if key not in _RESERVED}
    model = _typed(body, "model", str, None)
    turns, opening = _TEXTS[shape](body)
    if shape is not Shape.CHAT and not turns:
        raise InvalidRequest("There is no text to answer.", param="prompt" if shape is Shape.COMPLETION else "input")
    _limit_tokens(shape, body, max_tokens)
    width = _whole(body, "n", 1, 1, 128)
    if shape is Shape.COMPLETION and isinstance(body["prompt"], list) and isinstance(body["prompt"][0], (str, list)):
        width *= len(body["prompt"])
    return CompletionRequest(
        shape=shape,
        body=body,
        model=model,
        turns=turns,
        stream=bool(_typed(body, "stream", bool, False)),
        width=width,
        opening=hashlib.sha256(opening.encode("utf-8", "surrogatepass")).hexdigest(),
    )


def route_turns(body: Any) -> tuple[str, ...]:
    """The user turns of a ``/v1/route`` body: ``{"messages": […]}`` or ``{"input": "…"}``.

    Raises:
        InvalidRequest: neither, or not texts.
    """
    if not isinstance(body, dict):
        raise InvalidRequest(f"The body must be a JSON object, found {_kind(body)}.")
    if body.get("messages") is not None:
        turns, _ = _chat_texts(body)
    else:
        turns, _ = _response_texts(body)
    if not turns:
        raise InvalidRequest("There is no user text to route on.", param="messages" if "messages" in body else "input")
    return turns


def _limit_tokens(shape: Shape, body: dict[str, Any], max_tokens: int) -> None:
    limits = [_whole(body, f, 1, 1, max_tokens) for f in shape.token_fields if body.get(f) not in (None, -1)]
    for field in shape.token_fields:
        body.pop(field, None)
    if limits:
        body[shape.token_fields[0]] = min(limits)


def _chat_texts(body: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(
            f"'messages' must be a list of at least one message, found {_kind(messages)}.", param="messages"
        )
    return _message_texts(messages, "messages")


def _message_texts(messages: Sequence[Any], field: str) -> tuple[tuple[str, ...], str]:
    turns: list[str] = []
    system = ""
    for index, message in enumerate(messages):
        where = f"{field}[{index}]"
        if not isinstance(message, dict):
            raise InvalidRequest(f"{where!r} must be an object, found {_kind(message)}.", param=where)
        role = message.get("role", "user" if field == "input" and message.get("type", "message") == "message" else None)
        if not isinstance(role, str) and message.get("type", "message") == "message":
            raise InvalidRequest(f"{where + '.role'!r} must be a string, found {_kind(role)}.", param=f"{where}.role")
        text = _content_text(message.get("content"), f"{where}.content")
        if role == "user":
            turns.append(text)
        elif role in ("system", "developer"):
            system += text
    return tuple(turn for turn in turns if turn.strip()), system + "\0" + (turns[0] if turns else "")


def _content_text(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return _encodable(content or "", where)
    if not isinstance(content, list):
        raise InvalidRequest(f"{where!r} must be a string or a list of parts, found {_kind(content)}.", param=where)
    texts: list[str] = []
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise InvalidRequest(
                f"'{where}[{index}]' must be an object, found {_kind(part)}.", param=f"{where}[{index}]"
            )
        text = part.get("text")
        if text is not None and not isinstance(text, str):
            raise InvalidRequest(f"'{where}[{index}].text' must be a string, found {_kind(text)}.", param=where)
        texts.append(_encodable(text or "", where))
    return "\n".join(texts)


def _encodable(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{where!r} holds half of a surrogate pair at position {error.start}, which is not text."
        raise InvalidRequest(message, param=where) from error
    return text


def _completion_texts(body: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    prompt = body.get("prompt")
    if isinstance(prompt, str) and prompt:
        return (_encodable(prompt, "prompt"),), prompt
    if isinstance(prompt, list) and prompt:
        texts = [item for item in prompt if isinstance(item, str)]
        if len(texts) in (0, len(prompt)):
            # Token ids cannot be routed on: an empty turn, which the router answers with the fallback.
            joined = _encodable("\n".join(texts), "prompt")
            return (joined,), joined or repr(prompt)
    raise InvalidRequest(
        f"'prompt' must be a string, a list of strings or a list of tokens, not empty; found {_kind(prompt)}.",
        param="prompt",
    )


def _response_texts(body: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    given = body.get("input")
    instructions = body.get("instructions") if isinstance(body.get("instructions"), str) else ""
    if isinstance(given, str):
        _encodable(given, "input")
        return ((given,) if given.strip() else ()), f"{instructions}\0{given}"
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        given = [{"role": "user", "content": item} for item in given]
    if not isinstance(given, list):
        raise InvalidRequest(f"'input' must be a string or a list of items, found {_kind(given)}.", param="input")
    turns, opening = _message_texts(given, "input")
    return turns, f"{instructions}\0{opening}"


_TEXTS = {Shape.CHAT: _chat_texts, Shape.COMPLETION: _completion_texts, Shape.RESPONSE: _response_texts}


def _typed(body: Mapping[str, Any], field: str, type_: type, default: Any) -> Any:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, type_):
        raise InvalidRequest(f"{field!r} must be a {type_.__name__}, found {value!r}.", param=field)
    return value


def _whole(body: Mapping[str, Any], field: str, default: int, least: int, most: int) -> int:
    value = body.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidRequest(f"{field!r} is {value!r}; a whole number from {least} to {most} is allowed.", param=field)
    return value


def _kind(value: Any) -> str:
    names = {type(None): "nothing", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "an empty list" if value == [] else names.get(type(value), "a number")
