"""The engine's life with real children: bad adapters, a killed server, rolling replacement, a taken port."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import events_of
from tiny_experts import manifest_of, write_expert

from gateway.base import BaseIdentity
from gateway.engine import Engine, EngineConfig
from gateway.errors import BackendStartError, BackendUnavailable, ConfigError
from gateway.experts import BASE, MANIFEST_FILE, Expert, load_expert
from gateway.http1 import HttpClient
from gateway.leases import LeasePool
from gateway.pace import Pace
from gateway.process import LaunchSpec
from gateway.scheduler import Scheduler
from training.versions import write_manifest

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
START_S = 200.0  # for a busy machine; a quiet one needs two

Opened = Callable[..., AbstractAsyncContextManager[tuple[Engine, LeasePool]]]


@pytest.fixture
def opened(session: HttpClient, launch: Callable[..., LaunchSpec]) -> Opened:
    """Make an engine and its pool, started unless ``experts`` is None; closed at the end of the block."""

    @asynccontextmanager
    async def make(
        experts: list[Expert] | None, on_refused: Callable[[str, str], None] = lambda name, reason: None, **spec: Any
    ) -> AsyncIterator[tuple[Engine, LeasePool]]:
        config = EngineConfig("embedded", launch(**spec), start_s=START_S)
        engine = Engine([config], session, on_refused=on_refused)
        scheduler = Scheduler(pace=Pace(1), max_queue=100, max_queue_per_client=100)
        pool = LeasePool(scheduler, on_down=engine.report_failure, on_retired=engine.retired)
        try:
            if experts is not None:
                await engine.start(pool, experts)
            yield engine, pool
        finally:
            await engine.aclose()
            await pool.aclose()

    return make


async def ask(engine: Engine, pool: LeasePool, expert: str) -> bytes:
    """One chat request through a lease; its last event."""
    async with endless(engine, pool, expert, max_tokens=2) as events:
        return [event async for event in events][-1]


@asynccontextmanager
async def endless(engine: Engine, pool: LeasePool, expert: str, **fields: Any) -> AsyncIterator[AsyncIterator[bytes]]:
    """The events of a stream that outlasts every test."""
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3900, "ignore_eos": True, **fields}
    async with await pool.acquire(expert, conversation="c", client="t", wait_s=START_S) as lease:
        backend = engine.backend(lease.backend)
        assert backend is not None
        stream = await backend.open_stream(CHAT, body, expert, lease.slot)
        try:
            yield events_of(stream)
        finally:
            stream.close()


async def until(check: Callable[[], bool], limit_s: float = START_S) -> None:
    async with asyncio.timeout(limit_s):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def only_pid(engine: Engine) -> int:
    (row,) = engine.status()
    assert isinstance(row["pid"], int)
    return row["pid"]


async def test_a_gguf_llama_cpp_cannot_load_is_refused_and_the_others_are_served(
    opened: Opened, pair: list[Expert], base_identity: BaseIdentity, tmp_path: Path
) -> None:
    """Its hash matches its manifest: only the engine can tell that it is broken."""
    broken = write_expert(tmp_path, "broken", base_identity, seed=3, examples=["x"])
    adapter = broken.adapter_path.read_bytes()
    broken.adapter_path.write_bytes(adapter[: len(adapter) // 2])
    write_manifest(manifest_of(broken.directory, base_identity), broken.directory / MANIFEST_FILE)
    experts = [pair[0], load_expert(broken.directory, base_identity), pair[1]]
    async with opened(None) as (engine, pool):
        refused = await engine.start(pool, experts)
        assert list(refused) == ["broken"]
        assert str(broken.adapter_path) in refused["broken"]
        assert "\n" not in refused["broken"]
        assert engine.status()[0]["experts"] == sorted([BASE, pair[0].name, pair[1].name])
        assert await ask(engine, pool, pair[1].name) == DONE


async def test_an_adapter_for_another_model_is_refused_and_the_others_are_served(
    opened: Opened, pair: list[Expert], base_identity: BaseIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiny_experts._HIDDEN", 128)
    alien = write_expert(tmp_path, "alien", base_identity, seed=3, examples=["x"])
    async with opened(None) as (engine, pool):
        assert list(await engine.start(pool, [alien, pair[0]])) == ["alien"]
        assert await ask(engine, pool, pair[0].name) == DONE


async def test_a_killed_engine_comes_back_and_the_next_request_works(opened: Opened, pair: list[Expert]) -> None:
    async with opened(pair) as (engine, pool):
        first = only_pid(engine)
        async with endless(engine, pool, pair[0].name) as events:
            await anext(events)
            os.kill(first, signal.SIGKILL)
            with pytest.raises(BackendUnavailable):
                async for _ in events:
                    pass
        await until(lambda: only_pid(engine) != first and engine.any_up)
        assert await ask(engine, pool, pair[0].name) == DONE
        assert only_pid(engine) != first
        assert engine.restarts == 1


async def test_a_stopped_engine_is_noticed_by_its_silence_and_restarted(opened: Opened, pair: list[Expert]) -> None:
    """A hang, not an end: SIGSTOP. Two missed health checks end it, and with it what waits for it."""
    async with opened(pair) as (engine, pool):
        first = only_pid(engine)
        async with endless(engine, pool, pair[0].name) as events:
            await anext(events)
            os.kill(first, signal.SIGSTOP)
            with pytest.raises(BackendUnavailable):
                async for _ in events:
                    pass
        await until(lambda: only_pid(engine) != first and engine.any_up)
        assert await ask(engine, pool, BASE) == DONE


async def test_an_engine_that_stops_while_it_is_checked_is_started_again(opened: Opened, pair: list[Expert]) -> None:
    async with opened(pair) as (engine, pool):
        first = only_pid(engine)
        backend = engine.backend("embedded-1")
        assert backend is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: only_pid(engine) != first)
        second = only_pid(engine)
        while not await backend.is_healthy():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        os.kill(second, signal.SIGSTOP)  # between its first answer and its last check
        assert not engine.any_up
        await until(lambda: only_pid(engine) not in (first, second) and engine.any_up)
        assert await ask(engine, pool, pair[1].name) == DONE


@pytest.mark.parametrize("change", ["other", "gone"])
async def test_an_adapter_changed_on_disk_is_not_loaded_by_a_restart(
    opened: Opened, base_identity: BaseIdentity, tmp_path: Path, change: str
) -> None:
    """Its manifest was checked against the file that was there; the restart would load another under its name."""
    kept, lost = (write_expert(tmp_path, name, base_identity, seed=8, examples=["x"]) for name in ("kept", "lost"))
    refused: dict[str, str] = {}
    async with opened([kept, lost], on_refused=refused.__setitem__) as (engine, pool):
        first = only_pid(engine)
        lost.adapter_path.unlink()
        if change == "other":
            shutil.copy(kept.adapter_path, lost.adapter_path)
            with lost.adapter_path.open("ab") as file:
                file.write(b"more")
        os.kill(first, signal.SIGKILL)
        await until(lambda: only_pid(engine) != first and engine.any_up)
        assert engine.status()[0]["experts"] == sorted([BASE, "kept"])
        assert list(refused) == ["lost"]
        assert str(lost.adapter_path) in refused["lost"]
        assert await ask(engine, pool, "kept") == DONE


async def test_a_suspicion_of_an_earlier_life_does_not_bring_down_the_next(opened: Opened, pair: list[Expert]) -> None:
    """A request noticed the broken connection, asked whether the engine is healthy, and is answered after a restart."""
    async with opened(pair) as (engine, pool):
        first = only_pid(engine)
        os.kill(first, signal.SIGSTOP)
        suspecting = asyncio.ensure_future(engine.suspect("embedded-1"))
        await asyncio.sleep(0.2)  # its question is under way
        os.kill(first, signal.SIGKILL)
        await until(lambda: only_pid(engine) != first and engine.any_up)
        await suspecting
        assert engine.any_up
        assert await ask(engine, pool, BASE) == DONE
        assert engine.restarts == 1


async def test_replace_rolls_over_while_a_stream_runs(opened: Opened, pair: list[Expert]) -> None:
    async with opened(pair[:1], ctx_per_slot=4096) as (engine, pool):
        old = only_pid(engine)
        async with endless(engine, pool, pair[0].name) as events:
            await anext(events)
            assert await engine.replace(pair) == {}
            assert await ask(engine, pool, pair[1].name) == DONE
            for _ in range(20):
                assert b'"content":' in await anext(events), "the stream did not outlast the replacement"
            assert len(engine.status()) == 2
        await until(lambda: len(engine.status()) == 1, 20)
        assert only_pid(engine) != old


async def test_a_replacement_that_does_not_start_leaves_the_old_backend_serving(
    opened: Opened, pair: list[Expert], base_gguf: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base.gguf"
    shutil.copy(base_gguf, base)
    async with opened(pair[:1], model=str(base)) as (engine, pool):
        base.unlink()
        with pytest.raises(BackendStartError):
            await engine.replace(pair)
        assert await ask(engine, pool, pair[0].name) == DONE
        assert len(engine.status()) == 1


async def test_a_taken_engine_port_is_one_clear_line(opened: Opened) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with opened(None, port=port) as (engine, pool):
            with pytest.raises(ConfigError, match=f"engine port {port} on 127.0.0.1 is taken: stop what") as caught:
                await engine.start(pool, [])
            assert "\n" not in caught.value.message


async def test_a_base_that_is_no_model_is_one_clear_line(opened: Opened, tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF" + bytes(100))
    async with opened(None, model=str(base)) as (engine, pool):
        with pytest.raises(BackendStartError, match="the engine ended while starting: ") as caught:
            await engine.start(pool, [])
        assert "\n" not in caught.value.message


async def test_a_binary_that_is_not_there_is_one_clear_line(
    session: HttpClient, launch: Callable[..., LaunchSpec]
) -> None:
    engine = Engine([EngineConfig("binary", launch(), executable="no-such-llama-server")], session)
    pool = LeasePool(Scheduler(pace=Pace(1), max_queue=10, max_queue_per_client=10))
    with pytest.raises(ConfigError, match="cannot run 'no-such-llama-server': No such file"):
        await engine.start(pool, [])
    await engine.aclose()
    await pool.aclose()
