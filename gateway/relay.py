"""Carries one completion from a backend to the client; ends its lease exactly once.

The stream passes through without re-encoding: two byte substitutions are made in whole events (the served expert's
name as ``model``, our facts into the first chunk), both on unescaped quotes, which cannot occur inside a JSON string.
Knows leases and backends; knows nothing of ASGI, of how the expert was selected, or of settings.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
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

_DONE = b"data: [DONE]\n\n"
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
        events: AsyncIterator[bytes],
        first: bytes,
        facts: dict[str, Any],
        deadline_s: float,
        outcome: Outcome,
    ) -> None:
        self.facts = facts
        self.outcome = outcome
        self._request = request
        self._lease = lease
        self._stream = stream
        self._events = events
        self._first: bytes | None = first
        self._deadline_s = deadline_s
        alias = backend.props.alias if backend.props else ""
        self._their_model = b'"model":' + json.dumps(alias, ensure_ascii=False).encode()
        self._our_model = b'"model":' + json.dumps(lease.expert).encode()
        self._marked = False

    async def whole(self) -> dict[str, Any]:
        """The plain body.

        Raises:
            BackendError: the backend failed, refused or ran out of time.
        """
        aggregate = Aggregate(self._request.shape)
        async for event in self._received():
            aggregate.add(event)
        return aggregate.body(self._lease.expert, self.facts)

    async def events(self) -> AsyncIterator[bytes]:
        """The stream for the client. Never raises a gateway error: it becomes an error event, and the end."""
        try:
            async for event in self._received():
                yield self._mark(event)
        except GatewayError as error:
            self.outcome.error = error.code
            yield error_event(error, self._request.shape)

    async def aclose(self) -> None:
        """Stop the generation if it still runs, and give the lease back; idempotent."""
        self._stream.close()
        self._lease.release()

    async def _received(self) -> AsyncIterator[bytes]:
        """The backend's events, watched: errors raised, tokens counted, an early end noticed."""
        last_timed: bytes | None = None
        while True:
            event = await self._next()
            if event is None:
                break
            self._notice(event)
            if b'"timings":' in event:
                last_timed = event
            yield event
            if event == _DONE:
                break
        if last_timed is not None:
            self._count(event_data(last_timed))
        if not self.outcome.finished:
            raise BackendUnavailable("The backend's answer ended before it was complete.")

    async def _next(self) -> bytes | None:
        if self._first is not None:
            event, self._first = self._first, None
            return event
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await anext(self._events, None)
        except TimeoutError as error:
            raise BackendTimeout("The request took longer than this gateway allows.", code="request_timeout") from error

    def _notice(self, event: bytes) -> None:
        if event.startswith(b'data: {"error":'):
            raise _error_in(event)
        outcome = self.outcome
        if outcome.first_token_s is None and _has_token(event):
            outcome.first_token_s = time.monotonic()
        if (
            b'"finish_reason":"' in event
            or b'"type":"response.completed"' in event
            or b'"type":"response.incomplete"' in event
        ):
            outcome.finished = True

    def _mark(self, event: bytes) -> bytes:
        if event.startswith(b":"):
            return event
        event = event.replace(self._their_model, self._our_model)
        if not self._marked and b"data: {" in event:
            self._marked = True
            facts = json.dumps({"pointsman": self.facts}, separators=(",", ":")).encode()
            event = event.replace(b"data: {", b"data: " + facts[:-1] + b",", 1)
        return event

    def _count(self, data: Any) -> None:
        timings = data.get("timings") if isinstance(data, dict) else None
        if isinstance(timings, dict):
            self.outcome.cached_tokens = int(timings.get("cache_n", 0))
            self.outcome.prompt_tokens = self.outcome.cached_tokens + int(timings.get("prompt_n", 0))
            self.outcome.completion_tokens = int(timings.get("predicted_n", 0))
            self.outcome.decode_s = float(timings.get("predicted_ms", 0.0)) / 1000


def _has_token(event: bytes) -> bool:
    return any(
        mark in event
        for mark in (b'"content":"', b'"text":"', b'"reasoning_content":"', b'"tool_calls":', b'"delta":"')
    )


def _error_in(event: bytes) -> BackendError:
    data = event_data(event)
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
        deadline_s = started + self._limits.request_s
        body = request.body
        if not request.stream and request.shape is not Shape.RESPONSE:  # a plain answer always tells its usage
            body = {**body, "stream_options": {"include_usage": True}}
        try:
            async with asyncio.timeout_at(deadline_s):
                stream = await backend.open_stream(request.shape.value, body, selection.expert, lease.slot)
                try:
                    events = stream.events()
                    first = await anext(events, None)
                    if first is None:
                        raise BackendUnavailable("The backend's answer was empty.")
                    if first.startswith(b'data: {"error":'):
                        raise _error_in(first)
                except BaseException:
                    stream.close()
                    raise
        except TimeoutError as error:
            raise BackendTimeout("The request took longer than this gateway allows.", code="request_timeout") from error
        facts = {**selection.facts(), "backend": lease.backend, "queue_ms": round(lease.queue_s * 1000, 2)}
        return Answer(request, lease, backend, stream, events, first, facts, deadline_s, Outcome())
