"""Runs the gateway until it is told to stop: the listening socket, uvicorn, the order of shutting down."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .app import create_app, open_gateway
from .context import Gateway
from .errors import ConfigError
from .settings import Settings
from .streaming import CONNECTION

__all__ = ["Protocol", "quiet_collector", "serve"]

log = logging.getLogger("pointsman")

_COLLECT_AFTER = 10_000
"""Objects made and not freed at which Python looks for cycles. Its own is 700, which a few requests make."""


async def serve(settings: Settings, *, started: float) -> None:
    """Open the gateway, print the ready line, serve until SIGINT or SIGTERM.

    Args:
        started: ``time.monotonic()`` of the program's start, for the ready line.

    Raises:
        ConfigError: the port is taken, or anything ``open_gateway`` refuses.
    """
    listening = _listen(settings.server.host, settings.server.port)
    try:
        async with open_gateway(settings) as gateway:
            app = create_app(gateway, cors_origins=settings.server.cors_origins)
            config = uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=5,
                server_header=False,
            )
            quiet_collector()
            server = _Server(config, gateway, settings.server.shutdown_s, _ready_text(settings, gateway, started))
            await server.serve(sockets=[listening])
    finally:
        listening.close()


def quiet_collector() -> None:
    """What the start has made stays: else Python's collector stops all answers, for tens of milliseconds now and then,
    to look through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named: it costs 40 ms an answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; stop what listens there or choose "
            "another with --port"
        ) from error
    return listening


def _ready_text(settings: Settings, gateway: Gateway, started: float) -> str:
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    url = f"http://{host}:{settings.server.port}"
    names = ", ".join(expert.name for expert in gateway.registry) or "none"
    lines = [
        f"Pointsman is ready at {url}/v1 after {time.monotonic() - started:.1f} s. Experts: {names}.",
        *(f"  not served: {row.name}: {row.reason}" for row in gateway.registry.rejected),
        "Try:",
        f"  curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' \\",
        """    -d '{"model": "auto", "messages": [{"role": "user", "content": "My sourdough came out flat. Why?"}]}'""",
    ]
    return "\n".join(lines)


class Protocol(HttpToolsProtocol):
    """uvicorn's, which tells a request's block that its client has left, and drops a client that does not read.

    uvicorn itself tells by a message, which costs a task a request; and closing waits for a client to take the rest.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._watch = _Watch(self.flow, self.loop)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {"close": self.transport.abort, "watch": self._watch}}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watch.lose()


class _Watch:
    """Who wants to know that the client left. Does not know the protocol: that would keep both from being freed."""

    def __init__(self, flow: FlowControl, loop: asyncio.AbstractEventLoop) -> None:
        self._flow = flow
        self._loop = loop
        self._lost = False
        self._left: Callable[[], None] | None = None

    def __call__(self, left: Callable[[], None] | None) -> None:
        self._left = left
        if left is not None and self._lost:
            self._loop.call_soon(left)
        elif left is not None:
            self._flow.resume_reading()  # paused by a long body: nobody would see the client leave

    def lose(self) -> None:
        self._lost = True
        if self._left is not None:
            self._left()


class _Server(uvicorn.Server):
    """uvicorn, with rule 9 put before its own shutdown: refuse, drain with a limit, stop the engine, then close."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, drain_s: float, ready: str) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._drain_s = drain_s
        self._ready = ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, but the signal is not raised again at the end: that would kill us before all is closed."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self._ready, file=sys.stdout, flush=True)

    async def shutdown(self, sockets: Sequence[socket.socket] | None = None) -> None:
        log.info("shutting down")
        if not await self._gateway.pool.drain(self._drain_s):
            # The streams still running get a clean error event when their backend goes.
            await self._gateway.engine.aclose()
        await super().shutdown(list(sockets) if sockets else None)
