"""Backends added, replaced and drained while others come up or go down: llama-servers that only answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from unit.fakes import BASE_IDENTITY, write_expert_files

from gateway.engine import Engine, EngineConfig
from gateway.errors import BackendError, BackendUnavailable
from gateway.experts import BASE, Expert, load_expert
from gateway.http1 import HttpClient
from gateway.leases import LeasePool
from gateway.pace import Pace
from gateway.scheduler import Scheduler


class Answer:
    """``http1.Response`` of a whole JSON body."""

    content_type = "application/json"

    def __init__(self, data: Any, status: int = 200) -> None:
        self.status, self._data = status, data

    async def read_all(self, limit_bytes: int = 0) -> bytes:
        return json.dumps(self._data).encode()

    def close(self) -> None: ...


class Servers:
    """``http1.HttpClient`` to any number of llama-servers with the same adapters loaded."""

    def __init__(self, adapters: list[str]) -> None:
        self.adapters = adapters
        self.dead: set[str] = set()
        self.slow: dict[str, asyncio.Event] = {}
        """Hosts that answer nothing before the event."""
        self.broken_props = False

    async def request(self, method: str, url: str, **given: Any) -> Answer:
        host, _, path = url.removeprefix("http://").partition("/")
        if host in self.slow:
            await self.slow[host].wait()
        if host in self.dead:
            raise BackendUnavailable("refused")
        match path:
            case "props":
                data = {"total_slots": 2, "default_generation_settings": {"n_ctx": 100}, "chat_template": ""}
                return Answer(data, 500 if self.broken_props else 200)
            case "lora-adapters":
                return Answer([{"id": i, "path": path, "scale": 0.0} for i, path in enumerate(self.adapters)])
            case "completion":
                return Answer({"timings": {"cache_n": 0, "prompt_n": 50}})
        return Answer({"status": "ok"})


def config(host: str) -> EngineConfig:
    return EngineConfig("url", None, url=f"http://{host}", start_s=5, health_every_s=0.01, probe_every_s=0)


class World:
    def __init__(self, root: Path) -> None:
        self.experts = {name: self.expert(root, name) for name in ("baking", "cycling")}
        self.servers = Servers([str(expert.adapter_path) for expert in self.experts.values()])
        self.engine = Engine([config("one"), config("two")], cast("HttpClient", self.servers))
        scheduler = Scheduler(pace=Pace(1.0), max_queue=10, max_queue_per_client=10)
        self.pool = LeasePool(scheduler, on_down=self.engine.report_failure, on_retired=self.engine.retired)

    def expert(self, root: Path, name: str) -> Expert:
        base = {**BASE_IDENTITY.model_dump(), "chat_template_sha256": hashlib.sha256(b"").hexdigest()}
        return load_expert(write_expert_files(root, name, base=base), None)

    def only(self, *names: str) -> list[Expert]:
        return [self.experts[name] for name in names]

    @property
    def served(self) -> dict[str, Any]:
        return {str(row["url"]): row["experts"] for row in self.engine.status()}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    assert await made.engine.start(made.pool, made.only("baking")) == {}
    yield made
    await made.engine.aclose()
    await made.pool.aclose()


async def test_a_backend_that_comes_up_during_a_replacement_serves_what_is_new(world: World) -> None:
    world.servers.slow["three"] = asyncio.Event()
    adding = asyncio.ensure_future(world.engine.add(config("three")))
    await asyncio.sleep(0)
    replacing = asyncio.ensure_future(world.engine.replace(world.only("cycling")))
    await asyncio.sleep(0.01)
    world.servers.slow.pop("three").set()
    await adding
    assert await replacing == {}
    assert world.served == {f"http://{host}": [BASE, "cycling"] for host in ("one", "two", "three")}


async def test_a_backend_drained_while_it_is_down_is_forgotten_everywhere(world: World) -> None:
    world.servers.dead.add("one")
    world.engine.report_failure("url-1")
    world.engine.drain("url-1")
    assert [row["name"] for row in world.engine.status()] == ["url-2"]
    assert list(world.pool.scheduler.backends) == ["url-2"]


async def test_a_replacement_that_fails_leaves_what_was_served(world: World) -> None:
    world.servers.broken_props = True
    with pytest.raises(BackendError):
        await world.engine.replace(world.only("cycling"))
    world.servers.broken_props = False
    await world.engine.add(config("three"))
    assert set(map(tuple, world.served.values())) == {("baking", BASE)}
    world.engine.report_failure("url-1")
    async with asyncio.timeout(60):
        while not all(row["up"] for row in world.engine.status()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert set(map(tuple, world.served.values())) == {("baking", BASE)}
