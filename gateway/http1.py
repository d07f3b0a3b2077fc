"""A lean HTTP/1.1 client for the backends: answers are read piece by piece, as they arrive.

Owns connections, the framing of requests and answers, and their timeouts; says what went wrong in the gateway's own
errors. Only what a gateway needs of its own engines: no redirects, proxies, cookies or compression. Knows nothing of
llama-server. ``benchmarks/http_clients.py`` measures it against aiohttp and httpx.
"""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
from collections.abc import Awaitable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from .errors import BackendError, BackendTimeout, BackendUnavailable

__all__ = ["HttpClient", "Response"]

_BODY = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_HIGH_WATER_BYTES = 1024 * 1024  # unread bytes of an answer at which the server has to wait


class HttpClient:
    """Connections to any number of servers. Use it from one event loop; close it at the end.

    Args:
        connect_s: the longest wait for a connection.
        keep_s: an idle connection is kept for this long; less than the 5 s after which llama-server closes it.
    """

    def __init__(self, *, connect_s: float = 5.0, keep_s: float = 4.0) -> None:
        self._connect_s = connect_s
        self._keep_s = keep_s
        self._idle: dict[str, list[_Connection]] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        silence_s: float,
        until_s: float = math.inf,
        keep: bool = True,
    ) -> Response:
        """Send a request and return its answer when the headers are here; the caller closes it.

        Args:
            silence_s: the longest time without a byte from the server.
            until_s: the event loop's time at which whatever there is of the answer is broken off.
            keep: whether the connection may serve another request afterwards.

        Raises:
            BackendUnavailable: no connection, or it broke.
            BackendTimeout: the server was silent for too long, or the time is over.
        """
        origin, netloc, target = _split(url)
        head = _head(method, target, netloc, headers, body, keep)
        while True:
            connection = self._idle_connection(origin)
            reused = connection is not None
            if connection is None:
                connection = await self._connect(origin, until_s)
            response = Response(self, origin, connection, keep)
            try:
                await connection.ask(head, body, silence_s, until_s)
                return response
            except BackendUnavailable:
                response.close()
                if not reused or connection.answered:  # an idle connection may have been closed as we took it
                    raise
            except BaseException:
                response.close()
                raise

    async def aclose(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)

    def put_back(self, origin: str, connection: _Connection) -> None:
        connection.idle_since_s = connection.loop.time()
        self._idle.setdefault(origin, []).append(connection)

    def _idle_connection(self, origin: str) -> _Connection | None:
        """The connection used last; those too old are closed."""
        connections = self._idle.get(origin, [])
        while connections:
            connection = connections.pop()
            if connection.open and connection.loop.time() - connection.idle_since_s < self._keep_s:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: str, until_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        host, port, context = _address(origin)
        patient_until_s = loop.time() + self._connect_s
        try:
            async with asyncio.timeout_at(min(patient_until_s, until_s)):
                _, connection = await loop.create_connection(lambda: _Connection(loop), host, port, ssl=context)
        except TimeoutError as error:
            if until_s <= patient_until_s:
                raise _too_long() from error
            raise BackendUnavailable(
                f"The backend cannot be reached: no connection to {host} within {self._connect_s:g} s"
            ) from error
        except OSError as error:
            raise BackendUnavailable(f"The backend cannot be reached: {error}") from error
        return connection


@functools.lru_cache(maxsize=256)
def _split(url: str) -> tuple[str, str, str]:
    """Scheme and host; host; path and query."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme}://{parts.netloc}", parts.netloc, target


@functools.lru_cache(maxsize=256)
def _address(origin: str) -> tuple[str, int, ssl.SSLContext | None]:
    parts = urlsplit(origin)
    secure = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if secure else 80), _tls() if secure else None


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: it reads the machine's certificates."""
    return ssl.create_default_context()


class Response:
    """An answer whose headers have arrived."""

    def __init__(self, client: HttpClient, origin: str, connection: _Connection, keep: bool) -> None:
        self._client = client
        self._origin = origin
        self._connection: _Connection | None = connection
        self._keep = keep

    @property
    def status(self) -> int:
        return self._open.status

    @property
    def content_type(self) -> str:
        """Lower-case, without parameters."""
        return self._open.content_type.split(";")[0].strip().lower()

    def read(self) -> Awaitable[bytes]:
        """All of the body that has arrived since the last call, at least one byte; ``b""`` at its end.

        Raises:
            BackendUnavailable: the connection broke.
            BackendTimeout: the server was silent for too long, or the time is over.
        """
        return self._open.read()

    async def read_all(self, limit_bytes: int = 64 * 1024 * 1024) -> bytes:
        """The whole body, or what has come of it when it is longer than ``limit_bytes``."""
        body = bytearray()
        while len(body) < limit_bytes and (piece := await self.read()):
            body += piece
        return bytes(body)

    def close(self) -> None:
        """Give the connection back if the answer is complete, else break it off; idempotent."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.finish() and self._keep:
            self._client.put_back(self._origin, connection)
        else:
            connection.abort()

    @property
    def _open(self) -> _Connection:
        if self._connection is None:
            raise BackendError("The answer was read after it had been closed.")
        return self._connection


class _Connection(asyncio.Protocol):
    """One socket and the answer that is being read from it; driven by the event loop and by httptools."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.open = True
        self.idle_since_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._silence_s = self._last_s = 0.0
        self._until_s = math.inf
        self._begin()

    def _begin(self) -> None:
        """What is known of an answer before its first byte."""
        self.status = 0
        self.content_type = ""
        self.answered = False
        """Whether any byte of the answer has come."""
        self._framed = False  # has a length or chunks: its end is known
        self._headed = False
        self._complete = False
        self._reusable = False
        self._error: BackendError | None = None
        self._body: list[bytes] = []
        self._unread_bytes = 0
        self.on_body = self._body.append  # httptools calls it once a chunk

    # -- for the client and the response --------------------------------------------------------------------------

    async def ask(self, head: bytes, body: bytes | None, silence_s: float, until_s: float) -> None:
        """Send a request; returns when the headers of its answer are here."""
        if self.answered:
            self._begin()
        self._parser = httptools.HttpResponseParser(self)
        self._silence_s, self._until_s = silence_s, until_s
        self._last_s = self.loop.time()
        self._timer = self.loop.call_at(min(self._last_s + silence_s, until_s), self._check_time)
        if self._transport is None or not self.open:
            raise BackendUnavailable("The connection to the backend broke: it was closed.")
        self._transport.write(head + body if body else head)
        while not self._headed:
            await self._more()

    async def read(self) -> bytes:
        while not self._body:
            if self._complete:
                return b""
            await self._more()
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._unread_bytes = 0
        if self._paused and self._transport is not None:
            self._paused, self._last_s = False, self.loop.time()
            self._transport.resume_reading()
        return data

    def finish(self) -> bool:
        """End this answer; whether the connection can serve another request."""
        self._stop_timer()
        self._parser = None  # they refer to each other: left so, only the collector frees them
        return self.open and self._complete and self._reusable and not self._paused

    def fail(self, error: BackendError) -> None:
        """Close, and have the reader raise ``error`` unless the answer is complete."""
        if self._error is None and not self._complete:
            self._error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        """Wait until something happens; raises what went wrong before."""
        if self._error is not None:
            raise self._error
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_time(self) -> None:
        """One timer an answer, set anew only when it fires: a piece costs no timer."""
        self._timer = None
        if self._complete:
            return
        now = self.loop.time()
        silent_at_s = now + 1.0 if self._paused else self._last_s + self._silence_s  # paused: we do not read
        if now >= self._until_s:
            self.fail(_too_long())
        elif now >= silent_at_s:
            self.fail(BackendTimeout("The backend sent nothing for too long."))
        else:
            self._timer = self.loop.call_at(min(silent_at_s, self._until_s), self._check_time)

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._parser is None:  # nothing was asked: whatever this is, the connection is of no use any more
            self.abort()
            return
        self._last_s = self.loop.time()
        self.answered = True
        self._unread_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(BackendUnavailable(f"The backend does not speak HTTP: {error}"))
        if self._unread_bytes > _HIGH_WATER_BYTES and self._body and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._headed and not self._framed and exc is None and self._error is None:
            self._complete = True
        if self._complete or self._error is not None:
            self._wake()
            return
        self.fail(BackendUnavailable(f"The connection to the backend broke: {exc or 'it was closed'}"))

    # -- httptools ------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"content-type":
            self.content_type = value.decode("latin-1")
        elif lower in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self._headed = self.status >= 200
        self._framed = self._framed or self.status in (204, 304)

    def on_message_complete(self) -> None:
        self._complete = self._headed
        if self._complete and self._parser is not None:
            self._reusable = self._parser.should_keep_alive()  # told only here: the parser forgets the headers next
            self._stop_timer()


def _too_long() -> BackendTimeout:
    return BackendTimeout("The request took longer than this gateway allows.", code="request_timeout")


def _head(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes | None, keep: bool) -> bytes:
    lines = _lines(method, target, host, tuple(headers.items()), keep)
    return lines + (b"\r\n" if body is None else _BODY % len(body))


@functools.lru_cache(maxsize=256)
def _lines(method: str, target: str, host: str, headers: tuple[tuple[str, str], ...], keep: bool) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    if not keep:
        lines.append("Connection: close")
    return "\r\n".join([*lines, ""]).encode("latin-1")
