"""When a backend counts as broken, and what then happens to it: a scripted backend, no process, no socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from gateway.backend import Backend, Props
from gateway.errors import BackendUnavailable
from gateway.keeper import Keeper, Listener
from gateway.kv_probe import Proofs
from gateway.member import EngineConfig, Member
from gateway.process import EngineProcess, LaunchSpec


class Scripted:
    """``backend.Backend`` as far as a keeper uses it."""

    def __init__(self) -> None:
        self.name, self.url = "url-1", "http://far"
        self.healthy, self.generating = True, True
        self.last_event_s = float("-inf")
        self.props: Props | None = None
        self.experts = frozenset({"base"})
        self.cache_prompt = True
        self.probes = 0
        self.misses = self.checks = 0
        self.timeouts_s: list[float] = []
        self.loading_s = 0.0

    def expect(self, paths: Any, scales: Any) -> None: ...

    async def is_healthy(self, timeout_s: float = 2.0) -> bool:
        self.checks += 1
        self.timeouts_s.append(timeout_s)
        missed, self.misses = self.misses > 0, max(0, self.misses - 1)
        return self.healthy and not missed

    async def load_props(self) -> Props:
        await asyncio.sleep(self.loading_s)
        self.props = Props(slots=2, n_ctx=100, chat_template="", alias="x", build="b")
        return self.props

    async def load_adapters(self) -> list[str]:
        return []

    async def probe(self, timeout_s: float = 30.0) -> None:
        self.probes += 1
        if not self.generating:
            raise BackendUnavailable("it generates nothing")


class World:
    def __init__(self, *, probe_every_s: float = 0.01) -> None:
        self.backend = Scripted()
        config = EngineConfig("url", None, url="http://far", health_every_s=0.001, probe_every_s=probe_every_s)
        self.member = Member(config, cast("Backend", self.backend), None, ())
        self.told: list[str] = []
        self.running = 0
        listener = Listener(
            up=lambda member: self.told.append("up"),
            down=lambda member: self.told.append("down"),
            refused=lambda member, name, reason: self.told.append(name),
            running=lambda member: self.running,
        )
        self.keeper = Keeper(self.member, listener)

    async def serve(self) -> None:
        await self.keeper.bring_up()
        self.keeper.enlist()
        self.keeper.watch()

    async def until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not check():  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.keeper.stop()


async def test_one_that_does_not_answer_goes_down_unless_it_is_generating(world: World) -> None:
    await world.serve()
    world.backend.last_event_s = time.monotonic() + 1000.0
    world.backend.healthy = False
    await asyncio.sleep(0.05)
    assert world.told == ["up"]
    world.backend.last_event_s = time.monotonic()
    await world.until(lambda: world.told == ["up", "down"])


async def test_one_that_starts_may_be_silent_for_longer_than_one_that_serves(world: World) -> None:
    world.backend.loading_s = 0.05
    await world.keeper.bring_up()
    assert len(world.backend.timeouts_s) > 1
    assert set(world.backend.timeouts_s) == {world.member.config.start_timeout_s}
    world.backend.timeouts_s.clear()
    world.keeper.enlist()
    world.keeper.watch()
    await world.until(lambda: len(world.backend.timeouts_s) > 1)
    assert set(world.backend.timeouts_s) == {world.member.config.health_timeout_s}


async def test_one_health_check_that_fails_is_a_hiccup(world: World) -> None:
    await world.serve()
    for checked in range(10, 100, 10):
        await world.until(lambda checked=checked: world.backend.checks >= checked)  # type: ignore[misc]
        world.backend.misses = 1
    await world.until(lambda: world.backend.checks >= 110)
    assert world.told == ["up"]


async def test_an_idle_backend_that_generates_nothing_goes_down_though_it_looks_healthy(world: World) -> None:
    await world.serve()
    await world.until(lambda: world.backend.probes > 3)
    assert world.told == ["up"]
    world.backend.generating = False
    await world.until(lambda: "down" in world.told)
    assert not world.member.up


async def test_it_serves_again_only_when_it_generates(world: World) -> None:
    await world.serve()
    world.backend.generating = False
    await world.until(lambda: "down" in world.told)
    probes = world.backend.probes
    await world.until(lambda: world.backend.probes > probes)
    assert world.told == ["up", "down"]
    world.backend.generating = True
    await world.until(lambda: world.told == ["up", "down", "up"])
    assert world.member.lives == 2


async def test_a_busy_backend_is_not_probed(world: World) -> None:
    world.running = 1
    await world.serve()
    probes = world.backend.probes
    world.backend.generating = False
    await asyncio.sleep(0.05)
    assert (world.backend.probes, world.told) == (probes, ["up"])


async def test_one_that_answered_lately_is_not_probed(world: World) -> None:
    await world.serve()
    probes = world.backend.probes
    world.backend.last_event_s = time.monotonic() + 1000.0
    await asyncio.sleep(0.05)
    assert world.backend.probes <= probes + 1  # one may have been under way


async def test_probing_can_be_switched_off() -> None:
    world = World(probe_every_s=0.0)
    await world.serve()
    probes = world.backend.probes
    await asyncio.sleep(0.05)
    assert world.backend.probes == probes
    await world.keeper.stop()


async def test_one_that_never_came_up_is_tried_until_it_does(world: World) -> None:
    world.backend.generating = False
    world.keeper.watch()
    await world.until(lambda: world.backend.probes > 1)
    assert world.told == []
    world.backend.generating = True
    await world.until(lambda: world.told == ["up"])


def test_failures_count_only_in_a_row() -> None:
    world = World()
    assert [world.member.count_failure() for _ in range(2)] == [1, 2]
    world.backend.last_event_s = time.monotonic() + 1.0
    assert world.member.count_failure() == 1


@pytest.mark.parametrize("ours", [True, False])
async def test_a_child_of_ours_shows_once_that_it_keeps_kv_apart_and_somebody_elses_server_every_time(
    world: World, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    asked = []

    async def safe(backend: Backend) -> bool:
        asked.append(backend)
        return len(asked) > 1

    monkeypatch.setattr("gateway.keeper.kv_is_safe", safe)
    world.backend.experts = frozenset({"base", "baking"})
    proofs = Proofs()

    async def check() -> None:
        launch = LaunchSpec(__file__, (), "a", port=1, slots=1, ctx_per_slot=1, threads=1, gpu_layers=0, alias="b")
        config = replace(world.member.config, allow_unsafe_cache=True, launch=launch if ours else None)
        member = Member(config, cast("Backend", world.backend), None, ())
        if ours:
            member.process = cast("EngineProcess", object())
        await Keeper(member, world.keeper._listener, proofs).check(first=True)

    for _ in range(2):  # what has failed is asked again
        await check()
    assert (len(asked), world.backend.cache_prompt) == (2, False)
    await check()
    assert len(asked) == (2 if ours else 3)
    await Keeper(world.member, world.keeper._listener, proofs).check(first=False)
    assert len(asked) == (2 if ours else 3)
