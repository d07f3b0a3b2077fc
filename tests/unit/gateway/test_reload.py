"""A reload: what changes when, with an engine and a router factory that only take notes."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from unit.fakes import FakeRouter, write_expert_files

from gateway.engine import Engine
from gateway.errors import BackendStartError, ConfigError, RouterNotRenewed
from gateway.experts import MANIFEST_FILE, Expert, ExpertRegistry, Rejected, load_expert
from gateway.leases import LeasePool
from gateway.reload import Reloader, Scanned
from gateway.routing import RouterFactory
from gateway.selection import Selector
from router import Router


class LateRouter(FakeRouter):
    """Gets its second router later."""

    def __init__(self, *routes: str) -> None:
        super().__init__(*routes)
        self.seconds: list[Router] = []

    def add_second(self, second: Router) -> None:
        self.seconds.append(second)
        self.has_second = True


class World:
    """A reloader over a directory, and the order of what it did."""

    def __init__(self, root: Path, *, retry_refused: bool = False) -> None:
        self.root = root
        self.done: list[Any] = []
        self.prepared: list[list[str]] = []
        self.preparing = threading.Event()
        self.while_replaced: Callable[[], None] = lambda: None
        self.refused: dict[str, str] = {}
        self.mistake: ConfigError | None = None
        self.failure: Exception | None = None
        self.while_fitting: Callable[[], None] = lambda: None
        self.make_second: Callable[[list[str]], Router | None] = lambda names: None
        self.registry = ExpertRegistry({})
        self.reloader = Reloader(self.scan, cast("RouterFactory", self), self.registry, retry_refused=retry_refused)
        self.selector = Selector(self.registry, None)

    def scan(self) -> Scanned:
        found = {path.name: load_expert(path, None) for path in sorted(self.root.iterdir())}
        return Scanned(found, [Rejected("broken", "its hash is wrong")])

    def check(self, experts: Sequence[Expert]) -> None:
        self.done.append(("checked", [expert.name for expert in experts]))
        if self.mistake is not None:
            raise self.mistake

    def prepare(self, experts: Sequence[Expert]) -> None:
        self.prepared.append([expert.name for expert in experts])
        self.preparing.set()

    def build(self, experts: Sequence[Expert], *, complete: bool) -> Router:
        assert not complete
        self.done.append(("router", [expert.name for expert in experts]))
        self.while_fitting()
        if self.failure is not None and not isinstance(self.failure, BackendStartError):
            raise self.failure
        return cast("Router", LateRouter(*(expert.name for expert in experts)))

    def build_second(self, experts: Sequence[Expert]) -> Router | None:
        return self.make_second([expert.name for expert in experts])

    async def start(self, pool: LeasePool, experts: Sequence[Expert]) -> dict[str, str]:
        return await self.replace(experts)

    async def replace(self, experts: Sequence[Expert]) -> dict[str, str]:
        await asyncio.to_thread(self.while_replaced)
        self.done.append(("engine", [expert.name for expert in experts]))
        if isinstance(self.failure, BackendStartError):
            raise self.failure
        return {name: why for name, why in self.refused.items() if name in {expert.name for expert in experts}}

    def withdraw(self, expert: str) -> None:
        self.done.append(("withdrawn", expert))

    async def open(self) -> None:
        self.selector.router = await self.reloader.open(cast("Engine", self), cast("LeasePool", self))
        assert self.reloader._completing is not None
        await self.reloader._completing  # so that what a test has made afterwards is made for its own reload
        self.done.clear()

    async def reload(self) -> dict[str, Any]:
        return await self.reloader.reload(cast("Engine", self), self.selector)

    @property
    def served(self) -> list[str]:
        return [expert.name for expert in self.registry]

    @property
    def router(self) -> LateRouter:
        return cast("LateRouter", self.selector.router)

    @property
    def routes(self) -> list[str]:
        return list(self.router.routes)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    for name in ("baking", "cycling"):
        write_expert_files(tmp_path, name)
    world = World(tmp_path)
    await world.open()
    return world


async def test_nothing_new_leaves_the_engine_alone(world: World) -> None:
    assert await world.reload() == {
        "experts": ["baking", "cycling"],
        "rejected": [{"name": "broken", "reason": "its hash is wrong"}],
        "engine_replaced": False,
    }
    assert world.done == [("checked", ["baking", "cycling"]), ("router", ["baking", "cycling"])]


async def test_a_new_expert_is_served_by_name_while_the_router_is_fitted(world: World) -> None:
    write_expert_files(world.root, "gardening")
    meanwhile: list[list[str]] = []
    world.while_fitting = lambda: meanwhile.extend([world.served, world.routes])
    assert (await world.reload())["engine_replaced"] is True
    names = ["baking", "cycling", "gardening"]
    assert meanwhile == [names, ["baking", "cycling"]]
    assert world.done == [("checked", names), ("engine", names), ("router", names)]
    assert world.served == world.routes == names


async def test_the_router_is_fitted_beside_the_engine(world: World) -> None:
    write_expert_files(world.root, "gardening")
    begun: list[bool] = []
    world.while_replaced = lambda: begun.append(world.preparing.wait(5))
    await world.reload()
    assert begun == [True]
    assert world.prepared == [["baking", "cycling", "gardening"]]


async def test_another_scale_is_another_engine(world: World) -> None:
    manifest = world.root / "baking" / MANIFEST_FILE
    manifest.write_text(manifest.read_text() + "scale: 0.5\n")
    assert (await world.reload())["engine_replaced"] is True


@pytest.mark.parametrize("failure", [ConfigError("bad examples"), BackendStartError("it does not come up")])
async def test_a_reload_that_fails_leaves_everything_as_it_was(world: World, failure: Exception) -> None:
    router = world.selector.router
    write_expert_files(world.root, "gardening")
    if isinstance(failure, ConfigError):
        world.mistake = failure
    else:
        world.failure = failure
    with pytest.raises(type(failure)):
        await world.reload()
    assert world.served == ["baking", "cycling"]
    assert world.selector.router is router
    world.failure = world.mistake = None
    assert (await world.reload())["engine_replaced"] is True
    assert "gardening" in world.served


@pytest.mark.parametrize("failure", [ConfigError("the encoder is gone"), OSError("the disk is full")])
async def test_without_a_new_router_a_new_expert_is_served_by_name(world: World, failure: Exception) -> None:
    router = world.selector.router
    write_expert_files(world.root, "gardening")
    world.failure = failure
    with pytest.raises(RouterNotRenewed, match=rf"served by name, but auto decides as before.*{failure}"):
        await world.reload()
    assert world.served == ["baking", "cycling", "gardening"]
    assert world.selector.router is router
    world.failure = None
    assert (await world.reload())["engine_replaced"] is False
    assert "gardening" in world.routes


async def test_an_adapter_that_the_engine_refuses_is_tried_once(world: World) -> None:
    write_expert_files(world.root, "gardening")
    world.refused = {"gardening": "llama.cpp cannot load this adapter"}
    for replaced in (True, False):
        answer = await world.reload()
        assert answer["engine_replaced"] is replaced
        assert answer["experts"] == world.routes == ["baking", "cycling"]
        assert {"name": "gardening", "reason": "llama.cpp cannot load this adapter"} in answer["rejected"]
    assert world.prepared == [["baking", "cycling", "gardening"], ["baking", "cycling"]]


async def test_an_engine_of_somebody_else_is_asked_again(tmp_path: Path) -> None:
    write_expert_files(tmp_path, "baking")
    world = World(tmp_path, retry_refused=True)
    world.refused = {"baking": "not loaded there"}
    await world.open()
    assert world.served == []
    world.refused = {}
    assert (await world.reload())["engine_replaced"] is True
    assert world.served == world.routes == ["baking"]


async def test_an_expert_lost_at_a_restart_is_brought_back_by_a_reload(world: World) -> None:
    world.reloader.refuse("baking", "its file was changed")
    assert world.served == ["cycling"]
    assert (await world.reload())["engine_replaced"] is True
    assert world.served == world.routes == ["baking", "cycling"]


async def test_who_waits_for_an_expert_that_is_gone_hears_so(world: World) -> None:
    shutil.rmtree(world.root / "cycling")
    await world.reload()
    assert ("withdrawn", "cycling") in world.done
    world.reloader.refuse("baking", "the engine cannot load it")
    assert world.done[-1] == ("withdrawn", "baking")


async def test_a_second_router_follows_the_first_that_serves_already(world: World) -> None:
    second, go = cast("Router", FakeRouter("baking", "cycling")), threading.Event()

    def make(names: list[str]) -> Router:
        assert names == ["baking", "cycling"]
        assert go.wait(10)
        return second

    world.make_second = make
    await world.reload()
    assert world.routes == ["baking", "cycling"]
    assert not world.router.has_second
    go.set()
    await until(lambda: world.router.has_second)
    assert world.router.seconds == [second]


async def test_second_routers_of_experts_that_were_replaced_meanwhile_are_dropped_and_not_begun(world: World) -> None:
    started, go, made = threading.Event(), threading.Event(), list[Router]()

    def make(names: list[str]) -> Router:
        started.set()
        assert go.wait(30)
        made.append(cast("Router", FakeRouter(*names)))
        return made[-1]

    world.make_second = make
    await world.reload()
    before = world.router
    assert await asyncio.to_thread(started.wait, 10)
    write_expert_files(world.root, "gardening")
    for _ in range(40):  # more than there are threads to wait in
        await asyncio.wait_for(world.reload(), 10)
    go.set()
    await until(lambda: world.router.has_second)
    assert [one.routes for one in made] == [("baking", "cycling"), ("baking", "cycling", "gardening")]
    assert not before.seconds
    assert world.router.seconds == made[1:]


async def test_without_its_second_router_the_first_decides_alone_and_that_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(names: list[str]) -> Router:
        raise ConfigError("the encoder is broken")

    world.make_second = fail
    await world.reload()
    await until(lambda: "no second router until the next reload" in caplog.text)
    assert "the encoder is broken" in caplog.text
    assert world.routes == ["baking", "cycling"]


async def test_closing_waits_for_no_second_router(world: World) -> None:
    started, go = threading.Event(), threading.Event()

    def make(names: list[str]) -> Router:
        started.set()
        assert go.wait(10)
        return cast("Router", FakeRouter(*names))

    world.make_second = make
    await world.reload()
    assert await asyncio.to_thread(started.wait, 10)
    await asyncio.wait_for(world.reloader.aclose(), 5)
    go.set()
    await asyncio.sleep(0.05)
    assert not world.router.has_second


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
