"""The ASGI side of an answer: wait for it while watching the client, then stream it event by event.

Owns client disconnects, keep-alive comments and write stalls. Knows nothing of what is streamed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["ClientGone", "EventStream", "while_connected"]

SSE_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
_WRITE_STALL_S = 60.0
_KEEP_ALIVE = b": keep-alive\n\n"


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: asyncio.Future[Any], limit_s: float | None = None) -> bool:
    """Wait until ``work`` is done (True) or ``limit_s`` has passed (False); cancel it when the client leaves.

    Raises:
        ClientGone: after ``work`` has been cancelled and has cleaned up.
    """
    gone = asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait({gone, work}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return True
        if gone.done():
            await _cancel(work)
            raise ClientGone
        return False
    except asyncio.CancelledError:
        await _cancel(work)
        raise
    finally:
        await _cancel(gone)


async def _cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


class EventStream(Response):
    """Streams ``events``; ``close`` runs at the end, whatever the end is: finished, client gone, write stalled.

    Args:
        keep_alive_s: a comment is sent when no event came for this long.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        headers: Mapping[str, str],
        keep_alive_s: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({**SSE_HEADERS, **headers})
        self._events = events
        self._close = close
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming = asyncio.ensure_future(self._stream(send))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({streaming, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (streaming, gone):
                await _cancel(task)
            await asyncio.shield(asyncio.ensure_future(self._close()))
        error = None if streaming.cancelled() else streaming.exception()
        if error is not None and not isinstance(error, (TimeoutError, OSError)):  # those: the client stalled or left
            raise error

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        iterator = aiter(self._events)
        pending: asyncio.Future[bytes | None] = asyncio.ensure_future(_next(iterator))
        try:
            while True:
                done, _ = await asyncio.wait({pending}, timeout=self._keep_alive_s)
                event = pending.result() if done else _KEEP_ALIVE
                if event is None:
                    break
                async with asyncio.timeout(_WRITE_STALL_S):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                if done:
                    pending = asyncio.ensure_future(_next(iterator))
        finally:
            await _cancel(pending)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _next(iterator: AsyncIterator[bytes]) -> bytes | None:
    return await anext(iterator, None)
