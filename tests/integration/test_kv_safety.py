"""No request may ever use KV that another expert computed: the pattern X@A, Y@B, X@B, and with ``base``.

Two witnesses: the server's own ``timings.cache_n``, which may not exceed what the same slot's last request under the
same expert explains; and the answer's first-token distribution, which must be the one a cold request gets. Bit equality
is not to be had: batching and cache reuse change the order of sums.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from processes import engine_server, events_of, free_port

from gateway.backend import Backend
from gateway.engine import Engine, EngineConfig
from gateway.errors import ConfigError
from gateway.experts import BASE, Expert
from gateway.http1 import HttpClient
from gateway.kv_probe import kv_is_safe
from gateway.leases import LeasePool
from gateway.pace import Pace
from gateway.process import LaunchSpec
from gateway.scheduler import Scheduler

# Largest absolute difference among the logprobs of the five likeliest first tokens. Measured on these prompts: warm
# from cold 0 to 0.18, under another expert's KV up to 1.8, and never under 0.55 between two experts.
TOLERANCE = 0.4


@dataclass(slots=True)
class Run:
    """One backend behind a lease pool, and every slot's history."""

    backend: Backend
    pool: LeasePool
    last: dict[int, tuple[str, list[int]]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    colds: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    reused: int = 0

    async def ask(self, text: str, expert: str) -> None:
        """One request as the gateway sends it, checked against its slot's history and against the cold answer."""
        tokens = self.tokens[text]
        async with await self.pool.acquire(expert, conversation=text, client="test", wait_s=200) as lease:
            assert lease.slot is not None
            before, history = self.last.get(lease.slot, (expert, []))
            self.last[lease.slot] = (expert, tokens)
            top, cache_n = await first_token(self.backend, text, expert, lease.slot)
        explained = common_prefix(history, tokens) if before == expert else 0
        self.reused += cache_n > 0
        if cache_n > explained:
            self.faults.append(f"{text[:12]!r}@{expert}: {cache_n} tokens of KV reused, {explained} explained")
        distance = apart(self.colds[text, expert], top)
        if distance > TOLERANCE:
            self.faults.append(f"{text[:12]!r}@{expert}: logprobs {distance:.2f} from the cold answer's")

    async def learn_cold(self, requests: Sequence[tuple[str, str]]) -> None:
        for text, expert in sorted(set(requests)):
            asked = {"content": text, "add_special": True}
            self.tokens[text] = (await self.backend._json("POST", "/tokenize", asked))["tokens"]
            self.colds[text, expert], _ = await first_token(self.backend, text, expert, None, cache_prompt=False)


async def first_token(
    backend: Backend, text: str, expert: str, slot: int | None, **fields: Any
) -> tuple[dict[str, float], int]:
    """The twenty likeliest first tokens with their logprobs, and how many tokens of KV were reused."""
    body = {"prompt": text, "max_tokens": 3, "temperature": 0, "logprobs": 20, **fields}
    stream = await backend.open_stream("/v1/completions", body, expert, slot)
    try:
        chunks = [json.loads(e[6:]) async for e in events_of(stream) if e.startswith(b"data: {")]
    finally:
        stream.close()
    tops = next(c["choices"][0]["logprobs"]["content"][0]["top_logprobs"] for c in chunks if c["choices"])
    cache_n = next(chunk["timings"]["cache_n"] for chunk in reversed(chunks) if "timings" in chunk)
    return {row["token"]: row["logprob"] for row in tops}, cache_n


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def apart(cold: dict[str, float], warm: dict[str, float]) -> float:
    likeliest = sorted(cold, key=lambda token: -cold[token])[:5]
    return max(abs(cold[token] - warm.get(token, min(warm.values()))) for token in likeliest)


def texts(count: int) -> list[str]:
    """Prompts of some fifty tokens whose first tokens differ."""
    subjects = ("Comets", "Bread", "Hedges", "Chains", "Moss", "Lenses", "Ovens", "Pedals")
    return [
        f"{subjects[i % 8]} {i}: " + " ".join(f"note {i + k} on {subjects[(i + k) % 8].lower()}," for k in range(9))
        for i in range(count)
    ]


def pattern(names: Sequence[str], count: int) -> list[tuple[str, str]]:
    """X@A, Y@B, X@B, X@base, Y@base, Y@A, and on, with few texts so that every one meets every expert."""
    few, (a, b) = texts(count), names
    requests = []
    for x, y in zip(few[::2], few[1::2], strict=True):
        requests += [(x, a), (y, b), (x, b), (x, BASE), (y, BASE), (y, a), (y, a), (x, BASE), (x, a), (y, b)]
    return requests


@asynccontextmanager
async def running(backend: Backend) -> Any:
    pool = LeasePool(Scheduler(pace=Pace(0.3), max_queue=100, max_queue_per_client=100))
    props = await backend.load_props()
    assert await backend.load_adapters() == []
    pool.backend_up(backend.name, backend, slots=props.slots, experts=backend.experts)
    try:
        yield Run(backend, pool)
    finally:
        await pool.aclose()


@pytest.mark.parametrize("at_once", [1, 5])
@pytest.mark.parametrize("strategy", ["scale_api", "per_request"])
async def test_no_answer_is_computed_with_another_experts_kv_or_weights(
    make_backend: Callable[..., Backend], engine_url: str, pair: list[Expert], strategy: str, at_once: int
) -> None:
    requests = pattern([expert.name for expert in pair], count=4)
    async with running(make_backend(engine_url, strategy=strategy)) as run:
        await run.learn_cold(requests)
        limit = asyncio.Semaphore(at_once)

        async def ask(text: str, expert: str) -> None:
            async with limit:
                await run.ask(text, expert)

        await asyncio.gather(*(ask(*request) for request in requests * 2))
    assert run.faults == []
    if at_once == 1:
        assert run.reused > 0, "the pattern never reused anything, so it proves nothing"


async def test_the_witnesses_see_the_fault_when_the_ram_cache_is_on(
    make_backend: Callable[..., Backend],
    launch: Callable[..., LaunchSpec],
    pair: list[Expert],
    engine_kind: str,
    tmp_path: Path,
) -> None:
    """The contrast: with ``cache_ram_mib=0`` taken away the very same check fails, so it can be trusted."""
    spec = launch(adapters=tuple(str(expert.adapter_path) for expert in pair), cache_ram_mib=8192)
    requests = pattern([expert.name for expert in pair], count=4)
    with engine_server(spec, tmp_path / "engine.log", engine_kind) as url:
        async with running(make_backend(url)) as run:
            await run.learn_cold(requests)
            for text, expert in requests * 2:
                await run.ask(text, expert)
            assert any("KV reused" in fault for fault in run.faults), run.faults
            assert any("logprobs" in fault for fault in run.faults), run.faults
            assert not await kv_is_safe(run.backend)


async def test_the_probe_calls_a_server_without_ram_cache_safe(backend: Backend) -> None:
    assert await kv_is_safe(backend)


def test_the_ram_cache_is_off_unless_somebody_asks() -> None:
    assert LaunchSpec.__dataclass_fields__["cache_ram_mib"].default == 0


@pytest.mark.parametrize("allowed", [False, True])
async def test_an_unsafe_server_of_somebody_else_is_refused_or_used_without_prompt_caching(
    session: HttpClient,
    launch: Callable[..., LaunchSpec],
    pair: list[Expert],
    tmp_path: Path,
    allowed: bool,
) -> None:
    spec = launch(adapters=tuple(str(expert.adapter_path) for expert in pair), cache_ram_mib=8192)
    with engine_server(spec, tmp_path / "engine.log") as url:
        config = EngineConfig("url", None, url=url, api_key=spec.api_key, allow_unsafe_cache=allowed)
        engine = Engine([config], session)
        pool = LeasePool(Scheduler(pace=Pace(1), max_queue=10, max_queue_per_client=10))
        try:
            if not allowed:
                with pytest.raises(ConfigError, match=r"reuses one expert's KV cache for another.*--cache-ram 0"):
                    await engine.start(pool, pair)
                return
            assert await engine.start(pool, pair) == {}
            assert engine.status()[0]["cache_prompt"] is False
            backend = engine.backend("url-1")
            assert backend is not None
            text = texts(1)[0]
            for _ in range(2):
                _, cache_n = await first_token(backend, text, BASE, 0)
                assert cache_n == 0
        finally:
            await engine.aclose()
            await pool.aclose()


async def test_a_server_that_is_not_there_is_one_clear_line(session: HttpClient, pair: list[Expert]) -> None:
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    engine = Engine([EngineConfig("url", None, url=url, start_s=0.5)], session)
    pool = LeasePool(Scheduler(pace=Pace(1), max_queue=10, max_queue_per_client=10))
    with pytest.raises(Exception, match=f"{url}: no healthy llama-server within 0.5 s"):
        await engine.start(pool, pair)
    await engine.aclose()
    await pool.aclose()
