"""The client of the overhead and soak benchmarks: bare protocols on a fast event loop, so that it costs little itself.

Sends prepared requests over kept connections and notes when answers end, or when the words of a paced stream arrive.
Knows nothing of who answers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvloop

__all__ = ["chat", "is_whole", "paced", "requests_for"]

_STAMP = re.compile(rb'"content": ?" ?(\d{10,})"')


def chat(model: str, text: str, *, stream: bool, path: str = "/v1/chat/completions") -> bytes:
    """One request, ready to be sent."""
    messages = [{"role": "user", "content": text}]
    sent = {"model": model, "messages": messages, "max_tokens": 16, "stream": stream}
    body = json.dumps(sent).encode()
    return (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer any\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)
    )


class _Client(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last one is whole, until the time is up.

    ``seconds``: of the answers that ended between ``since`` and ``until``.
    """

    def __init__(self, requests: Iterator[bytes], since: float, until: float) -> None:
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._since = since
        self._until = until

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        self._received = b""
        self._begun = time.perf_counter()
        if self._begun > self._until:
            self._finish(None)
        else:
            self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if is_whole(self._received):
            if not self._received.startswith(b"HTTP/1.1 200"):
                self._finish(RuntimeError(self._received[:500].decode()))
                return
            now = time.perf_counter()
            if self._since <= now < self._until:
                self.seconds.append(now - self._begun)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(RuntimeError(f"the connection was closed: {exc}"))

    def _finish(self, error: Exception | None) -> None:
        if not self.done.done():
            if error:
                self.done.set_exception(error)
            else:
                self.done.set_result(None)
        self._transport.abort()


def is_whole(response: bytes) -> bool:
    """Whether these bytes are one whole HTTP response, framed by length or in chunks."""
    at = response.find(b"\r\n\r\n")
    if at < 0:
        return False
    head = response[:at].lower()
    if b"transfer-encoding: chunked" in head:
        return response.endswith(b"\r\n0\r\n\r\n")
    return len(response) >= at + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])


def requests_for(
    port: int, requests: Callable[[int], bytes], clients: int, seconds: float, *, warm_s: float = 0.0
) -> tuple[list[float], float]:
    """Ask with so many clients for so long; returns each answer's seconds, and answers a second.

    Args:
        warm_s: for so long before that, unnoticed.
        requests: makes the n-th request.
    """

    async def run() -> tuple[list[float], float]:
        loop = asyncio.get_running_loop()
        numbered = map(requests, itertools.count())
        since = time.perf_counter() + warm_s
        made = [
            await loop.create_connection(lambda: _Client(numbered, since, since + seconds), "127.0.0.1", port)
            for _ in range(clients)
        ]
        await asyncio.gather(*(client.done for _, client in made))
        all_seconds = [second for _, client in made for second in client.seconds]
        return all_seconds, len(all_seconds) / seconds

    return uvloop.run(run())


class _Paced(asyncio.Protocol):
    """Reads one paced stream: when its first word came, and how long each word was on its way."""

    def __init__(self, request: bytes) -> None:
        self.first_s: float | None = None
        self.transit_s: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._begun_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        for stamp in _STAMP.findall(data):
            if self.first_s is None:
                self.first_s = (now - self._begun_ns) / 1e9
            self.transit_s.append((now - int(stamp)) / 1e9)
        self._tail = (self._tail + data)[-16:]
        if self._tail.endswith(b"\r\n0\r\n\r\n") and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError("the stream broke"))


def paced(port: int, request: bytes, streams: int) -> tuple[list[float], list[float]]:
    """Read so many paced streams one after another; returns seconds to each first word, and each word's seconds."""

    async def run() -> tuple[list[float], list[float]]:
        first, transit = [], []
        for _ in range(streams):
            transport, client = await asyncio.get_running_loop().create_connection(
                lambda: _Paced(request), "127.0.0.1", port
            )
            await client.done
            transport.abort()
            first.append(client.first_s or 0.0)
            transit += client.transit_s
        return first, transit

    return uvloop.run(run())
