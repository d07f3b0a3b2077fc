"""Carries one completion from a backend to the client; ends its lease exactly once.

The stream passes through without re-encoding: whole events, as many as have arrived together, are searched, and two
byte substitutions are made in them (the served expert's name as ``model``, our facts into the first chunk). Every mark
looked for holds an unescaped quote or a line end, which cannot occur inside a JSON string.
Knows leases and backends; knows nothing of ASGI, of how the expert was selected, or of settings.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from dataclasses import dataclass
from typing import Any

from .aggregate import Aggregate, event_data
from .backend import Backend, BackendStream, refusal
from .engine import Engine
from .errors import BackendError, BackendTimeout, BackendUnavailable, GatewayError
from .leases import HeldLease, LeasePool
from .schemas import CompletionRequest, Shape
from .selection import Selection

__all__ = ["Answer", "Limits", "Outcome", "Relay", "error_event"]

_DATA = b"data: {"
_DONE = b"data: [DONE]\n\n"
_ERROR = b'data: {"error":'
_TIMINGS = b'"timings":'
_TOKEN_MARKS = (b'"content":"', b'"text":"', b'"reasoning_content":"', b'"tool_calls":', b'"delta":"')
_END_MARKS = (b'"finish_reason":"', b'"type":"response.completed"', b'"type":"response.incomplete"')
_ATTEMPTS = 3  # rule 8: backends, or lives of one backend, tried before the first byte


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: the whole request, and its wait for a lease."""

    request_s: float
    queue_s: float


@dataclass(slots=True)
class Outcome:
    """What metrics and the log want to know of an answer; filled in as it goes."""

    first_token_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    decode_s: float = 0.0
    error: str | None = None
    finished: bool = False


def error_event(error: GatewayError, shape: Shape) -> bytes:
    """An error after the first byte: the event that OpenAI's SDKs raise on, and the end of the stream."""
    if shape is Shape.RESPONSE:
        data = {
            "type": "error",
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "sequence_number": 0,
        }
        return b"event: error\ndata: " + json.dumps(data).encode() + b"\n\n"
    return b"data: " + json.dumps(error.body()).encode() + b"\n\n" + _DONE


class Answer:
    """An answer of which the first event has arrived. Close it whatever happens: that frees slot and lease."""

    def __init__(
        self,
        request: CompletionRequest,
        lease: HeldLease,
        backend: Backend,
        stream: BackendStream,
        first: bytes,
        facts: dict[str, Any],
    ) -> None:
        self.facts = facts
        self.outcome = Outcome()
        self._request = request
        self._lease = lease
        self._stream = stream
        self._next = first
        self._done = False
        self._timed = b""
        alias = backend.props.alias if backend.props else ""
        self._their_model, self._our_model = _model_field(alias), _model_field(lease.expert)
        self._marked = False

    async def whole(self) -> dict[str, Any]:
        """The plain body.

        Raises:
            BackendError: the backend failed, refused or ran out of time.
        """
        aggregate = Aggregate(self._request.shape)
        while events := await self._read():
            aggregate.add(events)
        self._count(aggregate.timings)
        return aggregate.body(self._lease.expert, self.facts)

    async def read(self) -> bytes:
        """The next events for the client, all that have arrived together; ``b""`` after the last.

        Never raises a gateway error: it becomes an error event, and the end.
        """
        if self.outcome.error is not None:
            return b""
        try:
            if events := await self._read():
                return self._mark(events)
            self._count(self._last_timings())
        except GatewayError as error:
            self.outcome.error = error.code
            return error_event(error, self._request.shape)
        return b""

    async def aclose(self) -> None:
        """Stop the generation if it still runs, and give the lease back; idempotent."""
        self._stream.close()
        self._lease.release()

    async def _read(self) -> bytes:
        """The next events, ``b""`` at the end: errors raised, an early end noticed."""
        events = b"" if self._done else self._next or await self._stream.read()
        events, self._next = _before_error(events)
        if events:
            self._notice(events)
            self._done = _DONE in events
            return events
        if self._next:
            raise _error_in(self._next)
        if not self.outcome.finished:
            raise BackendUnavailable("The backend's answer ended before it was complete.")
        return b""

    def _notice(self, events: bytes) -> None:
        outcome = self.outcome
        if outcome.first_token_s is None and _has_any(events, _TOKEN_MARKS):
            outcome.first_token_s = time.monotonic()
        if not outcome.finished and _has_any(events, _END_MARKS):
            outcome.finished = True
        if _TIMINGS in events:
            self._timed = events

    def _mark(self, events: bytes) -> bytes:
        if events.startswith(b":") or b"\n\n:" in events:  # comments, which stay as they are
            each = (event + b"\n\n" for event in events.split(b"\n\n")[:-1])
            return b"".join(event if event.startswith(b":") else self._mark_data(event) for event in each)
        return self._mark_data(events)

    def _mark_data(self, events: bytes) -> bytes:
        events = events.replace(self._their_model, self._our_model)
        if not self._marked:
            at = 0 if events.startswith(_DATA) else events.find(b"\n" + _DATA) + 1
            if at or events.startswith(_DATA):
                self._marked = True
                facts = json.dumps({"pointsman": self.facts}, separators=(",", ":")).encode()
                rest = at + len(_DATA)
                events = events[: rest - 1] + facts[:-1] + b"," + events[rest:]
        return events

    def _last_timings(self) -> Any:
        before, mark, after = self._timed.rpartition(_TIMINGS)
        data = event_data(before.rpartition(b"\n\n")[2] + mark + after.partition(b"\n\n")[0])
        return data.get("timings") if isinstance(data, dict) else None

    def _count(self, timings: Any) -> None:
        """Take the token counts from what the engine told."""
        if isinstance(timings, dict):
            self.outcome.cached_tokens = int(timings.get("cache_n", 0))
            self.outcome.prompt_tokens = self.outcome.cached_tokens + int(timings.get("prompt_n", 0))
            self.outcome.completion_tokens = int(timings.get("predicted_n", 0))
            self.outcome.decode_s = float(timings.get("predicted_ms", 0.0)) / 1000


@functools.lru_cache(maxsize=1024)
def _model_field(name: str) -> bytes:
    """As llama-server writes it; an expert's name is ASCII."""
    return b'"model":' + json.dumps(name, ensure_ascii=False).encode()


def _has_any(events: bytes, marks: tuple[bytes, ...]) -> bool:
    for mark in marks:  # noqa: SIM110  (any() takes three times as long)
        if mark in events:
            return True
    return False


def _before_error(events: bytes) -> tuple[bytes, bytes]:
    """Split at the first error event: what stands before it, and the rest (empty when there is none)."""
    if events.startswith(_ERROR):
        return b"", events
    at = events.find(b"\n\n" + _ERROR) + 2
    return (events[:at], events[at:]) if at > 1 else (events, b"")


def _error_in(events: bytes) -> BackendError:
    """What the error event at the head of ``events`` says."""
    data = event_data(events.split(b"\n\n", 1)[0])
    error = data.get("error") if isinstance(data, dict) else None
    status = error.get("code") if isinstance(error, dict) else None
    return refusal(status if isinstance(status, int) else 500, json.dumps(data).encode())


class Relay:
    """Begins answers: a lease, a backend, the first event; another try when a backend fails before it (rule 8)."""

    def __init__(self, pool: LeasePool, engine: Engine, limits: Limits) -> None:
        self._pool = pool
        self._engine = engine
        self._limits = limits

    async def begin(self, request: CompletionRequest, selection: Selection, *, client: str) -> Answer:
        """Return an answer of which the first event is here. Cancelling frees the place, the lease and the slot.

        Raises:
            GatewayError: whatever went wrong before the first event.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        for attempt in range(1, _ATTEMPTS + 1):
            wait_s = self._limits.queue_s - (loop.time() - started)
            lease = await self._pool.acquire(
                selection.expert,
                conversation=f"{client}/{request.opening}",
                client=client,
                wait_s=max(0.001, wait_s),
                width=request.width,
            )
            try:
                return await self._open(request, selection, lease, started)
            except (BackendUnavailable, BackendTimeout) as error:
                lease.release()
                if error.code == "request_timeout":
                    raise
                await self._engine.suspect(lease.backend)
                if attempt == _ATTEMPTS:
                    raise
            except BaseException:
                lease.release()
                raise
        raise BackendUnavailable("No backend could answer.")

    async def _open(self, request: CompletionRequest, selection: Selection, lease: HeldLease, started: float) -> Answer:
        backend = self._engine.backend(lease.backend)
        if backend is None:
            raise BackendUnavailable(f"Backend {lease.backend} went away.", status=503, retry_after_s=1)
        body = request.body
        if not request.stream and request.shape is not Shape.RESPONSE:  # a plain answer always tells its usage
            body = {**body, "stream_options": {"include_usage": True}}
        until_s = started + self._limits.request_s
        stream = await backend.open_stream(request.shape.value, body, selection.expert, lease.slot, until_s=until_s)
        try:
            first = await stream.read()
            if not first:
                raise BackendUnavailable("The backend's answer was empty.")
            if first.startswith(_ERROR):
                raise _error_in(first)
        except BaseException:
            stream.close()
            raise
        facts = {**selection.facts(), "backend": lease.backend, "queue_ms": round(lease.queue_s * 1000, 2)}
        return Answer(request, lease, backend, stream, first, facts)
