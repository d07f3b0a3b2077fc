"""A client that stops reading and keeps its connection: its lease and its socket go all the same.

The server and the client's socket are real; the backend is scripted and sends without end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from unit.fakes import chat_events, sse
from unit.gateway.test_api import CHAT, World

from gateway.server import Protocol

STALL_S = 0.5
BIG = sse({"choices": [{"index": 0, "finish_reason": None, "delta": {"content": "x" * 65536}}]})


class Endless(list[Any]):
    """A script that never ends, at the speed of whoever reads it."""

    def __bool__(self) -> bool:
        return True

    def pop(self, index: Any = -1) -> Any:
        return BIG


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[World, uvicorn.Server, int]]:
    world = World(tmp_path, chat_events("x")[:1], client_stall_s=STALL_S)
    config = uvicorn.Config(world.app, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        serving = asyncio.ensure_future(server.serve([listening]))
        yield world, server, listening.getsockname()[1]
        server.should_exit = True
        await serving


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_it_loses_its_lease_and_its_socket(served: tuple[World, uvicorn.Server, int]) -> None:
    world, server, port = served
    open_stream = world.backend.open_stream

    async def endless(*arguments: Any, **options: Any) -> Any:
        stream = await open_stream(*arguments, **options)
        stream._script = Endless()
        return stream

    world.backend.open_stream = endless  # type: ignore[method-assign]
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with contextlib.closing(client):
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", port))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(client, head.encode() + body)
        await until(lambda: bool(world.pool.scheduler.leases))
        await until(lambda: not world.pool.scheduler.leases)
        await until(lambda: not server.server_state.connections)
        assert world.backend.streams[0].closed == 1
        assert 'status="499"' in (await world.client.get("/metrics")).text
