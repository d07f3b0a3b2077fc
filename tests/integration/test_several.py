"""Two real engines behind one pool: placement, failover, drain and add at run time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from processes import events_of, free_port

from gateway.engine import Engine, EngineConfig
from gateway.errors import InvalidRequest
from gateway.experts import BASE, Expert
from gateway.http1 import HttpClient
from gateway.leases import HeldLease, LeasePool
from gateway.pace import Pace
from gateway.process import LaunchSpec
from gateway.scheduler import Scheduler

START_S = 200.0  # for a busy machine; a quiet one needs two
CHAT = "/v1/chat/completions"


class World:
    def __init__(self, configs: list[EngineConfig], session: HttpClient) -> None:
        self.engine = Engine(configs, session)
        scheduler = Scheduler(pace=Pace(1.0), max_queue=100, max_queue_per_client=100)
        self.pool = LeasePool(scheduler, on_down=self.engine.report_failure, on_retired=self.engine.retired)

    async def lease(self, expert: str) -> HeldLease:
        return await self.pool.acquire(expert, conversation=expert, client="t", wait_s=START_S)

    async def answer(self, lease: HeldLease, tokens: int = 2) -> AsyncIterator[bytes]:
        """The events of one request on this lease, which it gives back at the end."""
        backend = self.engine.backend(lease.backend)
        assert backend is not None
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens, "ignore_eos": True}
        async with lease:
            stream = await backend.open_stream(CHAT, body, lease.expert, lease.slot)
            try:
                async for event in events_of(stream):
                    yield event
            finally:
                stream.close()

    async def ask(self, expert: str) -> str:
        """One whole request; the backend that served it."""
        lease = await self.lease(expert)
        events = [event async for event in self.answer(lease)]
        assert events[-1] == b"data: [DONE]\n\n"
        return lease.backend

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.engine.status() if row["name"] == name)

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(START_S):
            while not check():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.fixture
def config(launch: Callable[..., LaunchSpec]) -> Callable[..., EngineConfig]:
    def make(**own: Any) -> EngineConfig:
        return EngineConfig("embedded", launch(slots=2), start_s=START_S, **own)

    return make


@pytest.fixture
async def world(session: HttpClient, config: Callable[..., EngineConfig], pair: list[Expert]) -> AsyncIterator[World]:
    """Two children: the first serves all, the second only one expert (and the base), one answer at a time."""
    made = World([config(), config(experts=frozenset({pair[1].name}), at_once=1)], session)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(made.pool.aclose)
        stack.push_async_callback(made.engine.aclose)
        assert await made.engine.start(made.pool, pair) == {}
        yield made


async def test_two_engines_share_the_work_and_outlive_each_other(
    world: World, config: Callable[..., EngineConfig], pair: list[Expert]
) -> None:
    all_, some = [str(row["name"]) for row in world.engine.status()]
    if set(world.row(all_)["experts"]) != {BASE, pair[0].name, pair[1].name}:  # they came up in the other order
        all_, some = some, all_
    assert set(world.row(some)["experts"]) == {BASE, pair[1].name}
    assert world.row(some)["at_once"] == 1

    # Each expert stays on a backend of its own, and both answer at the same time.
    first, second = await world.lease(pair[0].name), await world.lease(pair[1].name)
    assert (first.backend, second.backend) == (all_, some)
    for lease in (first, second):
        assert [event async for event in world.answer(lease)]
    assert [await world.ask(expert.name) for expert in pair] == [all_, some]
    assert await world.engine.generates(idle_s=0.0, timeout_s=START_S)

    # One is killed: what it served goes to the other, until it is back.
    os.kill(world.row(some)["pid"], signal.SIGKILL)
    await world.until(lambda: not world.row(some)["up"])
    assert await world.ask(pair[1].name) == all_
    await world.until(lambda: bool(world.row(some)["up"]))

    # One is drained while it answers: the answer comes to its end, new ones go elsewhere, and it is gone.
    lease = await world.lease(pair[0].name)
    events = world.answer(lease, tokens=60)
    await anext(events)
    with pytest.raises(InvalidRequest, match="There is no backend 'nobody'; there are: "):
        world.engine.drain("nobody")
    added = await world.engine.add(config())
    world.engine.drain(all_)
    assert world.row(all_)["retiring"]
    assert await world.ask(pair[0].name) == added
    assert [event async for event in events][-1] == b"data: [DONE]\n\n"
    await world.until(lambda: all_ not in [row["name"] for row in world.engine.status()])
    with pytest.raises(InvalidRequest, match=f"{added} is the last backend that serves {pair[0].name}: add") as caught:
        world.engine.drain(added)
    assert caught.value.status == 409
    world.engine.drain(some)
    await world.until(lambda: len(world.engine.status()) == 1)
    assert [await world.ask(expert.name) for expert in pair] == [added, added]


async def test_one_that_does_not_start_is_tried_again_while_the_other_serves(
    session: HttpClient, config: Callable[..., EngineConfig], pair: list[Expert]
) -> None:
    dead = EngineConfig("url", None, url=f"http://127.0.0.1:{free_port('127.0.0.1')}", start_s=0.2)
    world = World([dead, config()], session)
    try:
        assert await world.engine.start(world.pool, pair) == {}
        up = [row["name"] for row in world.engine.status() if row["up"]]
        assert len(world.engine.status()) == 2
        assert [await world.ask(pair[0].name)] == up
        assert await world.engine.generates(idle_s=0.0, timeout_s=START_S), "every expert has one that generates"
        assert await world.engine.replace(pair[:1]) == {}
        assert len(world.engine.status()) >= 2
    finally:
        await world.engine.aclose()
        await world.pool.aclose()


async def test_none_that_starts_is_an_error(session: HttpClient) -> None:
    urls = [f"http://127.0.0.1:{free_port('127.0.0.1')}" for _ in range(2)]
    world = World([EngineConfig("url", None, url=url, start_s=0.2) for url in urls], session)
    with pytest.raises(Exception, match="none of the backends came up"):
        await world.engine.start(world.pool, [])
    await world.engine.aclose()
    await world.pool.aclose()
