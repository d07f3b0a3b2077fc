"""The client's side of an answer: a block that ends when the client leaves, and a stream of events written to it.

Owns client disconnects, keep-alive comments and clients that stop reading. Knows nothing of what is streamed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from starlette.types import Receive, Scope, Send

__all__ = ["CONNECTION", "ClientGone", "EventStream", "WhileConnected"]

CONNECTION = "pointsman.connection"
"""ASGI extension of our server: ``close()`` drops the client's connection at once, unsent bytes or not; ``watch(left)``
has ``left`` called when the client leaves, or has left already, until ``watch(None)``."""

_SSE_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_KEEP_ALIVE = b": keep-alive\n\n"


def _connection(scope: Scope) -> dict[str, Any]:
    found: dict[str, Any] = scope.get("extensions", {}).get(CONNECTION, {})
    return found


class ClientGone(Exception):
    """The client closed its connection, or stopped reading; there is nobody to answer."""


class WhileConnected:
    """``async with``: the block is cancelled when the client leaves, and ``ClientGone`` comes out of it.

    The request's body must have been read. Our server tells; under any other a task waits for the message.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._watch = _connection(scope).get("watch") or self._watch_messages
        self._receive = receive
        self._watching: asyncio.Task[None] | None = None
        self._left = False
        self._task: asyncio.Task[Any] | None = None

    def leave(self) -> None:
        """Treat the client as gone; call it from outside the block's task."""
        if not self._left and self._task is not None:
            self._left = True
            self._task.cancel()

    async def __aenter__(self) -> WhileConnected:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        self._watch(self.leave)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch(None)
        task, self._task = self._task, None
        ours = self._left and task is not None and task.uncancel() <= self._cancelling
        if ours and kind is asyncio.CancelledError:
            raise ClientGone from error

    def _watch_messages(self, left: Callable[[], None] | None) -> None:
        if left is not None:
            self._watching = asyncio.get_running_loop().create_task(self._until_gone(left))
        elif self._watching is not None:
            self._watching.cancel()

    async def _until_gone(self, left: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        left()


class EventStream:
    """``async with``: writes events to a client, and a comment when there was none for ``keep_alive_s``.

    The status is sent with the first event or comment, so that what fails before can still be an answer of its own.

    Args:
        client: told when a write has been stuck for ``stall_s``: the client holds its connection and does not read.
    """

    def __init__(self, scope: Scope, send: Send, client: WhileConnected, keep_alive_s: float, stall_s: float) -> None:
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        """Sent with the status; set it before the first event."""
        self.begun = False
        self._abort: Callable[[], None] = _connection(scope).get("close", lambda: None)
        self._send = send
        self._client = client
        self._keep_alive_s = keep_alive_s
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._wrote_s = self._loop.time()
        self._writing = False
        self._comment: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EventStream:
        self._timer = self._loop.call_later(min(self._keep_alive_s, self._stall_s), self._look)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stop()

    async def write(self, events: bytes) -> None:
        """Send whole events; waits while the client reads slower than they come."""
        if not self.begun:
            await self._begin()
        await self._write_body(events, more=True)

    async def finish(self) -> None:
        """End the answer."""
        if self._comment is not None:
            self._comment.cancel()
        self._keep_alive_s = float("inf")
        await self._write_body(b"", more=False)

    async def _begin(self) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": 200, "headers": [*_SSE_HEADERS, *self.headers]})

    async def _write_body(self, body: bytes, *, more: bool) -> None:
        self._writing, self._wrote_s = True, self._loop.time()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self._writing = False

    def _stop(self) -> None:
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()

    def _look(self) -> None:
        """One timer a stream, set anew only when it fires: an event costs no timer."""
        limit_s = self._stall_s if self._writing else self._keep_alive_s
        left = self._wrote_s + limit_s - self._loop.time()
        if left <= 0 and self._writing:
            self._abort()
            self._client.leave()
            return
        if left <= 0:
            self._comment = self._loop.create_task(self.write(_KEEP_ALIVE))
            left = self._keep_alive_s
        self._timer = self._loop.call_later(min(left, self._stall_s), self._look)
