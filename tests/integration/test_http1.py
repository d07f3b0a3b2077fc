"""The HTTP client over real sockets, against a server that does what it is told, wrong things too."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop

from gateway.errors import BackendTimeout, BackendUnavailable
from gateway.http1 import HttpClient, Response

OK = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=x\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

Step = bytes | float | str


class Server:
    """Answers request after request, on any connection, with the next script.

    A script's bytes are sent; a number is a pause in seconds; "close" closes; "hang" waits until the client closes.
    """

    def __init__(self) -> None:
        self.scripts: list[list[Step]] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked, self.left = asyncio.Event(), asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        self.requests.append(head + await reader.readexactly(length))
        self.asked.set()
        for step in self.scripts.pop(0) if self.scripts else [LENGTH + b"hello"]:
            if step == "close":
                return False
            if step == "hang":
                await reader.readexactly(1)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
        return True


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    scripted = Server()
    listening = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield scripted
    listening.close()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    opened = HttpClient(connect_s=2.0)
    yield opened
    await opened.aclose()


async def ask(client: HttpClient, server: Server, **more: Any) -> Response:
    options: dict[str, Any] = {"headers": {"X-A": "b"}, "silence_s": 20.0, **more}
    return await client.request("POST", f"{server.url}/path?a=b", body=b"{}", **options)


async def read(response: Response) -> bytes:
    try:
        return await response.read_all()
    finally:
        response.close()


@pytest.mark.parametrize(
    "script",
    [
        [LENGTH + b"hello"],
        [LENGTH, b"he", 0.01, b"llo"],
        [*(bytes([byte]) for byte in LENGTH + b"hello")],
        [CHUNKED + b"2\r\nhe\r\n", 0.01, b"3\r\nllo\r\n0\r\n\r\n"],
        [OK + b"\r\nhello", "close"],
        [b"HTTP/1.1 100 Continue\r\n\r\n", LENGTH + b"hello"],
    ],
    ids=["length", "parts", "bytes", "chunks", "until the end", "after 100"],
)
async def test_a_whole_answer(client: HttpClient, server: Server, script: list[Step]) -> None:
    server.scripts = [script]
    response = await ask(client, server)
    assert (response.status, response.content_type) == (200, "text/plain")
    assert await read(response) == b"hello"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /path?a=b HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nX-A: b" in head
    assert body == b"{}"


async def test_pieces_are_there_as_soon_as_they_come(client: HttpClient, server: Server) -> None:
    server.scripts = [[CHUNKED + b"5\r\nfirst\r\n", "hang"]]
    response = await ask(client, server)
    assert await response.read() == b"first"
    response.close()


async def test_a_connection_serves_again_unless_told_otherwise(client: HttpClient, server: Server) -> None:
    for _ in range(3):
        assert await read(await ask(client, server)) == b"hello"
    assert server.connections == 1
    for _ in range(2):
        assert await read(await ask(client, server, keep=False)) == b"hello"
    assert b"\r\nConnection: close" in server.requests[-1]
    assert b"\r\nConnection: close" not in server.requests[0]
    assert await read(await ask(client, server)) == b"hello"
    assert server.connections == 3  # the kept one was taken, and given up, by the first that said close


@pytest.mark.parametrize("goodbye", [["close"], [LENGTH + b"hello", "close"]], ids=["unheard", "after an answer"])
async def test_an_idle_connection_the_server_closed_costs_nothing(
    client: HttpClient, server: Server, goodbye: list[Step]
) -> None:
    await read(await ask(client, server))
    server.scripts = [goodbye]
    assert await read(await ask(client, server)) == b"hello"
    assert await read(await ask(client, server)) == b"hello"
    assert server.connections == 2


async def test_an_idle_connection_too_old_is_not_used(server: Server) -> None:
    client = HttpClient(keep_s=0.0)
    for _ in range(2):
        await read(await ask(client, server))
    assert server.connections == 2
    await client.aclose()


@pytest.mark.parametrize(
    "script",
    [
        ["close"],
        [b"HTTP/1.1 200", "close"],
        [b"no HTTP at all\r\n\r\n"],
        [LENGTH + b"he", "close"],
        [CHUNKED + b"2\r\nhe\r\n", "close"],
        [CHUNKED + b"zz\r\n"],
    ],
    ids=["nothing", "half a head", "garbage", "half a body", "no last chunk", "no chunk"],
)
async def test_an_answer_that_breaks_is_unavailable(client: HttpClient, server: Server, script: list[Step]) -> None:
    server.scripts = [script]
    with pytest.raises(BackendUnavailable):
        await read(await ask(client, server))


@pytest.mark.parametrize("script", [["hang"], [LENGTH, "hang"], [CHUNKED + b"2\r\nhe\r\n", "hang"]])
async def test_silence_is_a_timeout_and_ends_the_connection(
    client: HttpClient, server: Server, script: list[Step]
) -> None:
    server.scripts = [script]
    with pytest.raises(BackendTimeout):
        await read(await ask(client, server, silence_s=0.05))
    await asyncio.wait_for(server.left.wait(), 20)


async def test_what_comes_slowly_is_no_silence(client: HttpClient, server: Server) -> None:
    server.scripts = [[LENGTH, *(step for byte in b"hello" for step in (0.1, bytes([byte])))]]
    assert await read(await ask(client, server, silence_s=0.35)) == b"hello"


async def test_nobody_listening_is_unavailable(client: HttpClient, server: Server) -> None:
    server.url = "http://127.0.0.1:1"
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        await ask(client, server)


async def test_a_long_body_arrives_whole_though_it_is_read_slowly(client: HttpClient, server: Server) -> None:
    body = bytes(range(256)) * 40_000  # more than a socket takes at once
    response = await client.request("POST", f"{server.url}/", headers={}, body=body, silence_s=20.0)
    assert await read(response) == b"hello"
    assert server.requests[0].endswith(b"\r\n\r\n" + body)


async def test_a_server_that_leaves_while_it_is_written_to_is_unavailable(client: HttpClient) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.transport.abort()

    async with await asyncio.start_server(leave, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        with pytest.raises(BackendUnavailable, match="broke"):
            await client.request("POST", url, headers={}, body=bytes(50_000_000), silence_s=20.0)


def test_a_reset_right_behind_a_piece_is_noticed_on_the_gateways_own_loop() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"5\r\nworld\r\n")
        own = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        writer.transport.abort()

    async def run() -> None:
        async with await asyncio.start_server(leave, "127.0.0.1", 0) as listening:
            client = HttpClient()
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
            response = await client.request("GET", url, headers={}, silence_s=20.0)
            with pytest.raises(BackendUnavailable, match="broke"):
                await read(response)

    uvloop.run(run())


async def test_headers_without_end_are_silence(client: HttpClient, server: Server) -> None:
    server.scripts = [[OK + b"X-Long: " + b"x" * 1_200_000, "hang"]]
    with pytest.raises((BackendTimeout, BackendUnavailable)):
        await asyncio.wait_for(ask(client, server, silence_s=0.3), 10)


async def test_ipv6_by_number(client: HttpClient) -> None:
    scripted = Server()
    async with await asyncio.start_server(scripted.serve, "::1", 0) as listening:
        scripted.url = f"http://[::1]:{listening.sockets[0].getsockname()[1]}"
        assert await read(await ask(client, scripted)) == b"hello"


async def test_closing_early_closes_the_connection(client: HttpClient, server: Server) -> None:
    server.scripts = [[CHUNKED + b"2\r\nhe\r\n", "hang"]]
    response = await ask(client, server)
    response.close()
    await asyncio.wait_for(server.left.wait(), 20)
    response.close()


async def test_cancelling_closes_the_connection(client: HttpClient, server: Server) -> None:
    server.scripts = [["hang"]]
    asking = asyncio.ensure_future(ask(client, server))
    await asyncio.wait_for(server.asked.wait(), 20)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(server.left.wait(), 20)


@pytest.mark.parametrize("script", [["hang"], [CHUNKED, *([0.02, b"1\r\nx\r\n"] * 500)]], ids=["silent", "busy"])
async def test_an_answer_ends_when_its_time_is_over(client: HttpClient, server: Server, script: list[Step]) -> None:
    server.scripts = [script]
    until_s = asyncio.get_running_loop().time() + 0.2
    with pytest.raises(BackendTimeout, match="longer than this gateway allows"):
        await read(await ask(client, server, until_s=until_s))
    await asyncio.wait_for(server.left.wait(), 20)


async def test_time_that_is_over_while_connecting_is_no_unreachable_backend() -> None:
    client = HttpClient(connect_s=600.0)
    listening = socket.socket()
    with contextlib.closing(listening), contextlib.ExitStack() as waiting:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)  # and nobody accepts: the next connection but one waits
        for _ in range(3):
            other = waiting.enter_context(contextlib.closing(socket.socket()))
            other.setblocking(False)
            other.connect_ex(listening.getsockname())
        until_s = asyncio.get_running_loop().time() + 0.2
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        with pytest.raises(BackendTimeout) as caught:
            await asyncio.wait_for(client.request("GET", url, headers={}, silence_s=600.0, until_s=until_s), 20)
        assert caught.value.code == "request_timeout"


async def test_a_reader_who_is_slow_has_no_more_time(client: HttpClient, server: Server) -> None:
    server.scripts = [[OK + b"\r\n", *([b"x" * 65536] * 400), "hang"]]  # more than is read ahead
    response = await ask(client, server, until_s=asyncio.get_running_loop().time() + 0.5)
    await asyncio.wait_for(server.left.wait(), 20)
    with pytest.raises(BackendTimeout):
        await read(response)


async def test_time_that_is_over_still_gives_what_had_come(client: HttpClient, server: Server) -> None:
    server.scripts = [[CHUNKED + b"2\r\nhe\r\n", "hang"]]
    response = await ask(client, server, until_s=asyncio.get_running_loop().time() + 0.2)
    await asyncio.wait_for(server.left.wait(), 20)
    assert await response.read() == b"he"
    with pytest.raises(BackendTimeout):
        await response.read()
    response.close()


async def test_who_does_not_read_makes_the_server_wait(client: HttpClient, server: Server) -> None:
    sent = 0
    piece = b"x" * 65536

    class Counting(list[Step]):
        def __iter__(self) -> Any:
            nonlocal sent
            yield OK + b"\r\n"
            for _ in range(400):
                sent += 1
                yield piece
            yield "close"

    server.scripts = [Counting()]
    response = await ask(client, server, silence_s=0.2)
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.5)  # longer than the silence allowed: it is us who are silent
    assert sent < 200
    assert len(await read(response)) == 400 * len(piece)
