"""Puts a stream's events together into the one plain answer a non-stream client asked for.

The engine is always asked to stream, so that a client that leaves frees its slot at once; this builds the body
llama-server would have sent. Nearly all events differ from the one before in their piece of text alone: of those the
text is taken and the rest is not read again. Knows the three shapes of ``schemas.Shape``, nothing of HTTP.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from .errors import BackendUnavailable
from .schemas import Shape

__all__ = ["Aggregate", "event_data"]


def event_data(event: bytes) -> Any:
    """The JSON of an SSE event's ``data`` lines; None for comments, ``[DONE]`` and events without data.

    Raises:
        BackendUnavailable: the data is not JSON.
    """
    if event.startswith(b"data: ") and b"\n" not in event:  # nearly all
        data = event[6:].strip()
    else:
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
    return None if data in (b"", b"[DONE]") else _from_json(data)


def _from_json(data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError as error:
        raise BackendUnavailable(f"The backend sent an event that is not JSON: {data[:200]!r}") from error


class Aggregate:
    """Feed it all events in order, then take ``body``."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._top: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._alike: _Alike | None = None

    def add(self, events: bytes) -> None:
        """Add whole events, one or more.

        Raises:
            BackendUnavailable: the data of one is not JSON.
        """
        for event in events.split(b"\n\n"):
            if event and not (self._alike is not None and self._alike.takes(event)):
                self._read(event)

    def _read(self, event: bytes) -> None:
        self._end_alike()
        data = event_data(event)
        if not isinstance(data, dict):
            return
        if self._shape is Shape.RESPONSE:
            self._add_response(data)
            return
        choices = data.pop("choices", None) or []
        for choice in choices:
            self._add_choice(choice)
        if len(choices) == 1:
            self._alike = self._alike_to(event, choices[0])
        self._top.update(data)

    def _alike_to(self, event: bytes, chunk: dict[str, Any]) -> _Alike | None:
        """For the events after this one: what it adds to, if that is a piece of text and nothing else."""
        if chunk.get("finish_reason") is not None or chunk.get("logprobs") is not None:
            return None
        choice, delta = self._choices[chunk.get("index", 0)], chunk.get("delta") or {}
        if self._shape is Shape.COMPLETION:
            return _Alike.to(event, choice, "text", chunk.get("text"))
        if len(delta) != 1 or "role" in delta:
            return None
        key, text = delta.popitem()
        return _Alike.to(event, choice["message"], key, text)

    def _end_alike(self) -> None:
        if self._alike is not None:
            self._alike.end()
            self._alike = None

    def _add_response(self, data: dict[str, Any]) -> None:
        if data.get("type") in ("response.completed", "response.incomplete"):
            self._top = dict(data["response"])
            if "timings" in data:
                self._top["timings"] = data["timings"]

    @property
    def timings(self) -> Any:
        """The engine's, last told; None so far."""
        return self._top.get("timings")

    def body(self, expert: str, facts: dict[str, Any]) -> dict[str, Any]:
        """The whole answer; ``model`` is the expert that served.

        Raises:
            BackendUnavailable: the stream ended before the answer was finished.
        """
        self._end_alike()
        if self._shape is Shape.RESPONSE:
            if not self._top:
                raise BackendUnavailable("The backend's answer ended before it was complete.")
            return {**self._top, "model": expert, "pointsman": facts}
        choices = [self._choices[index] for index in sorted(self._choices)]
        if not choices or any(choice.get("finish_reason") is None for choice in choices):
            raise BackendUnavailable("The backend's answer ended before it was complete.")
        object_ = "chat.completion" if self._shape is Shape.CHAT else "text_completion"
        rest = {k: v for k, v in self._top.items() if k not in ("id", "object", "created", "model")}
        head = {"id": self._top.get("id"), "object": object_, "created": self._top.get("created"), "model": expert}
        return {**head, "choices": choices, **rest, "pointsman": facts}

    def _add_choice(self, chunk: dict[str, Any]) -> None:
        index = chunk.get("index", 0)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = self._empty(index)
        if (reason := chunk.get("finish_reason")) is not None:
            choice["finish_reason"] = reason
        if (logprobs := chunk.get("logprobs")) is not None:
            self._add_logprobs(choice, logprobs)
        if self._shape is Shape.COMPLETION:
            choice["text"] += chunk.get("text") or ""
        elif delta := chunk.get("delta"):
            _add_delta(choice["message"], delta)

    def _empty(self, index: int) -> dict[str, Any]:
        common: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None}
        if self._shape is Shape.COMPLETION:
            return {"text": "", **common}
        return {"message": {"role": "assistant", "content": None, "refusal": None}, **common}

    @staticmethod
    def _add_logprobs(choice: dict[str, Any], logprobs: Any) -> None:
        if not isinstance(logprobs, dict):
            return
        kept = choice["logprobs"] = choice["logprobs"] or {}
        for key, value in logprobs.items():
            if isinstance(value, list):
                kept.setdefault(key, []).extend(value)
            else:
                kept.setdefault(key, value)


class _Alike:
    """Events that are alike byte for byte, but for the piece of text that each adds to ``target[key]``."""

    def __init__(self, head: bytes, tail: bytes, target: dict[str, Any], key: str) -> None:
        self._head, self._tail = head, tail
        self._target, self._key = target, key
        self._texts: list[bytes] = []

    @classmethod
    def to(cls, event: bytes, target: dict[str, Any], key: str, text: Any) -> _Alike | None:
        """To this one, which adds ``text``; None where that cannot be found in its bytes for sure."""
        if not isinstance(text, str):
            return None
        before, mark, after = event.partition(b'"%b":"' % key.encode())
        found, quote, rest = after.partition(b'"')
        if not mark or mark in rest or found != text.encode():
            return None
        return cls(before + mark, quote + rest, target, key)

    def takes(self, event: bytes) -> bool:
        """Whether this event is one of them; then its text is taken.

        It begins after the head's quote, and where it has no quote itself nor ends in a backslash, at the tail's quote
        it ends.
        """
        head, tail = self._head, self._tail
        if not (event.startswith(head) and event.endswith(tail)) or len(event) < len(head) + len(tail):
            return False
        text = event[len(head) : -len(tail)]
        if b'"' in text or text.endswith(b"\\"):
            return False
        self._texts.append(text)
        return True

    def end(self) -> None:
        """Add the texts taken.

        Raises:
            BackendUnavailable: they are not what JSON allows in a string.
        """
        if self._texts:
            self._target[self._key] += _from_json(b'"%b"' % b"".join(self._texts))


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if isinstance(value, str) and key != "role":
            message[key] = (message.get(key) or "") + value
        elif key == "tool_calls":
            for call in value or ():
                _add_tool_call(message.setdefault("tool_calls", []), call)
        elif value is not None:
            message[key] = value


def _add_tool_call(calls: list[dict[str, Any]], chunk: dict[str, Any]) -> None:
    index = chunk.get("index", 0)
    while len(calls) <= index:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[index], chunk.get("function") or {}
    call["id"] = chunk.get("id") or call["id"]
    call["type"] = chunk.get("type") or call["type"]
    for key in ("name", "arguments"):
        call["function"][key] += function.get(key) or ""
