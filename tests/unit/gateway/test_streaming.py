"""The client's side of an answer: leaving, comments while nothing comes, and a client that stops reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.streaming import CONNECTION, ClientGone, EventStream, WhileConnected

LONG_S = 30.0


class Client:
    """An ASGI client: ``leave`` disconnects it; while ``reading`` is cleared it takes nothing."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.aborted = 0
        self._got_one = asyncio.Condition()
        self.scope = {"type": "http", "extensions": {CONNECTION: {"close": self._abort}}}

    def _abort(self) -> None:
        self.aborted += 1

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reading.wait()
        self.got.append(message)
        async with self._got_one:
            self._got_one.notify_all()

    async def gets(self, body: bytes, count: int) -> None:
        async with self._got_one:
            await self._got_one.wait_for(lambda: self.bodies.count(body) >= count)

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.got if message["type"] == "http.response.body"]


async def streamed(
    client: Client,
    work: Callable[[EventStream], Awaitable[None]],
    *,
    keep_alive_s: float = LONG_S,
    stall_s: float = LONG_S,
) -> None:
    async with WhileConnected(client.scope, client.receive) as connected:
        stream = EventStream(client.scope, client.send, connected, keep_alive_s, stall_s)
        stream.headers = [(b"x-a", b"b")]
        async with stream:
            await work(stream)


async def test_who_leaves_ends_the_block_which_cleans_up() -> None:
    client, cleaned = Client(), []

    async def block() -> None:
        async with WhileConnected(client.scope, client.receive):
            asyncio.get_running_loop().call_soon(client.gone.set)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned.append("yes")

    with pytest.raises(ClientGone):
        await block()
    assert cleaned == ["yes"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_client_that_stays_changes_nothing() -> None:
    client = Client()
    async with WhileConnected(client.scope, client.receive):
        await asyncio.sleep(0)
    client.gone.set()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancellation_from_outside_stays_one() -> None:
    client, begun = Client(), asyncio.Event()

    async def block() -> None:
        async with WhileConnected(client.scope, client.receive):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(block())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    client = Client()
    with pytest.raises(KeyError):
        async with WhileConnected(client.scope, client.receive):
            raise KeyError


async def test_events_go_out_as_they_are_after_one_head() -> None:
    client = Client()

    async def work(stream: EventStream) -> None:
        assert client.got == []
        await stream.write(b"data: 1\n\n")
        await stream.write(b"data: 2\n\ndata: 3\n\n")
        await stream.finish()

    await streamed(client, work)
    assert client.got[0]["status"] == 200
    assert dict(client.got[0]["headers"]) == {
        b"content-type": b"text/event-stream",
        b"cache-control": b"no-cache",
        b"x-accel-buffering": b"no",
        b"x-a": b"b",
    }
    assert client.bodies == [b"data: 1\n\n", b"data: 2\n\ndata: 3\n\n", b""]
    assert [message.get("more_body") for message in client.got] == [None, True, True, False]


async def test_silence_is_filled_with_comments_before_and_between_events() -> None:
    client = Client()

    async def work(stream: EventStream) -> None:
        await client.gets(b": keep-alive\n\n", 2)
        await stream.write(b"data: 1\n\n")
        await client.gets(b": keep-alive\n\n", 3)
        await stream.finish()

    await asyncio.wait_for(streamed(client, work, keep_alive_s=0.02), 20)
    assert [message["type"] for message in client.got].count("http.response.start") == 1
    before = client.bodies.index(b"data: 1\n\n")
    assert set(client.bodies[:before]) == {b": keep-alive\n\n"}
    assert client.bodies[-1] == b""


async def test_there_is_no_comment_after_the_end() -> None:
    client = Client()

    async def work(stream: EventStream) -> None:
        await stream.write(b"data: 1\n\n")
        await stream.finish()
        await asyncio.sleep(0.1)

    await streamed(client, work, keep_alive_s=0.01)
    assert client.bodies[-1] == b""


@pytest.mark.parametrize("at", ["an event", "the end"])
async def test_a_client_that_stops_reading_is_dropped(at: str) -> None:
    client = Client()

    async def work(stream: EventStream) -> None:
        await stream.write(b"data: 1\n\n")
        client.reading.clear()
        await (stream.write(b"data: 2\n\n") if at == "an event" else stream.finish())

    with pytest.raises(ClientGone):
        await asyncio.wait_for(streamed(client, work, stall_s=0.05), 20)
    assert client.aborted == 1
    assert client.bodies == [b"data: 1\n\n"]


async def test_a_client_that_reads_slowly_is_not() -> None:
    client = Client()

    async def work(stream: EventStream) -> None:
        for _ in range(4):
            client.reading.clear()
            asyncio.get_running_loop().call_later(0.05, client.reading.set)
            await stream.write(b"data: 1\n\n")
        await stream.finish()

    await streamed(client, work, stall_s=5.0)
    assert client.aborted == 0
    assert client.bodies == [b"data: 1\n\n"] * 4 + [b""]
