"""Is any answer ever computed with another expert's KV or weights? Requests in the pattern X@A, Y@B, X@B, X@base, …

Two witnesses, for each strategy, one client and eight. llama.cpp's own ``timings.cache_n``: every text is new and
asked of each expert once, so nothing can honestly be reused; only the repeat at the end of a round may. And the first
token's logprobs, which must be those of a cold request (``cache_prompt: false``) under the same expert. Bit equality
is not to be had: batching changes the order of sums. "Telling" counts the requests for which the cold answers of all
other experts and of the base lie outside the tolerance, so that a wrong one must have been seen. The engine has the
slots and the answers at once of the embedded default on two cores. Exit code 1 when a request is found contaminated.

    python benchmarks/contamination.py [--requests 300] [--load 0] [--ram-cache]
        [--engine binary --binary PATH]

``--load N`` keeps N more clients busy with answers of every length and expert meanwhile.

``--ram-cache`` adds the contrast: the same requests, each naming its adapters, straight to llama-server with its RAM
prompt cache on, as it is by default. The gateway refuses to serve from such a server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import aiohttp
import serving
from serving import BASE, Engine

TOLERANCE = 0.35  # of the five likeliest first tokens' logprobs; cold requests in one batch were seen to move by 0.32
_SLOTS, _AT_ONCE = 16, 4
_TOGETHER = 12  # rounds go step by step, so many at a time: more texts than slots, so that each is evicted meanwhile
_SHARED_TOKENS = 4  # texts start with a random number: by chance their first digits agree

Ask = Callable[..., Awaitable[dict[str, Any]]]  # a prompt, an expert, other fields


@dataclass
class Witnessed:
    """One way of serving, and what its requests showed."""

    way: str
    clients: int
    requests: int = 0
    foreign_kv: int = 0
    unlike_cold: int = 0
    telling: int = 0
    distances: list[float] = field(default_factory=list)
    honest_reuse: int = 0

    @property
    def contaminated(self) -> int:
        return self.foreign_kv + self.unlike_cold


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--requests", type=int, default=300, help="for each strategy (default: 300)")
    parser.add_argument("--ram-cache", action="store_true", help="show the fault too")
    parser.add_argument("--load", type=int, default=0, help="clients beside the witnesses (default: 0)")
    serving.engine_options(parser)
    sys.exit(asyncio.run(measure(parser.parse_args())))


async def measure(given: argparse.Namespace) -> int:
    experts = serving.load_experts(given.experts)
    names = [expert.name for expert in experts]
    binary = serving.chosen_binary(given)
    results: list[Witnessed] = []
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session:
        with serving.engine(experts, slots=_SLOTS, ctx=1024, binary=binary) as engine:
            at = {"kind": "url", "url": engine.url, "at_once": _AT_ONCE}
            for strategy in ("scale_api", "per_request"):
                scheduler = {"strategy": strategy, "quantum_s": 0.5, "queue_timeout_s": 600}
                with serving.gateway_over(engine, given.experts, engine=at, scheduler=scheduler) as url:
                    ask = through_gateway(session, url)
                    async with under_load(ask, names, given.load):
                        results += await both(f"gateway, {strategy}", ask, engine, session, names, given.requests)
        if given.ram_cache:
            with serving.engine(experts, slots=_SLOTS, ctx=1024, cache_ram_mib=8192, binary=binary) as engine:
                ask = straight(session, engine)
                results += await both("straight, RAM cache on", ask, engine, session, names, given.requests)
    return report(results, given)


@contextlib.asynccontextmanager
async def under_load(ask: Ask, names: Sequence[str], clients: int) -> AsyncIterator[None]:
    """Clients that always want the next expert, with answers of all lengths."""

    async def keep_asking(client: int) -> None:
        for number in itertools.count(client):
            await ask(text(), [*names, BASE][number % (len(names) + 1)], max_tokens=8 * (1 + number % 8))

    tasks = [asyncio.ensure_future(keep_asking(client)) for client in range(clients)]
    try:
        yield
    finally:
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def both(
    way: str, ask: Ask, engine: Engine, session: aiohttp.ClientSession, names: Sequence[str], requests: int
) -> list[Witnessed]:
    """One client, then eight: half of the requests each."""
    return [await witness(way, ask, engine, session, names, requests // 2, clients) for clients in (1, 8)]


async def witness(
    way: str,
    ask: Ask,
    engine: Engine,
    session: aiohttp.ClientSession,
    names: Sequence[str],
    requests: int,
    clients: int,
) -> Witnessed:
    seen = Witnessed(way, clients)
    pairs = itertools.cycle(itertools.permutations(names, 2))
    rounds = [Round(text(), text(), *next(pairs)) for _ in range(max(1, requests // (len(Round.STEPS) + 1)))]
    limit = asyncio.Semaphore(clients)
    asked: list[tuple[str, str, dict[str, Any]]] = []

    async def step(round_: Round, number: int) -> None:
        async with limit:
            for repeat, (prompt, expert) in enumerate(round_.requests(number)):
                answer = await ask(prompt, expert)
                reused = answer["timings"]["cache_n"] > _SHARED_TOKENS
                seen.foreign_kv += reused and not repeat
                seen.honest_reuse += reused and bool(repeat)
                asked.append((prompt, expert, answer))

    for some in (rounds[i : i + _TOGETHER] for i in range(0, len(rounds), _TOGETHER)):
        for number in range(len(Round.STEPS)):
            await asyncio.gather(*(step(round_, number) for round_ in some))
    cold = straight(session, engine, cache_prompt=False)
    colds: dict[str, dict[str, dict[str, float]]] = {}
    for prompt in {prompt for prompt, _, _ in asked}:
        colds[prompt] = {expert: first_token(await cold(prompt, expert)) for expert in (*names, BASE)}
    for prompt, expert, answer in asked:
        own = colds[prompt][expert]
        distance = apart(own, first_token(answer))
        seen.requests += 1
        seen.distances.append(distance)
        seen.unlike_cold += distance > TOLERANCE
        seen.telling += all(apart(own, other) > TOLERANCE for name, other in colds[prompt].items() if name != expert)
    return seen


@dataclass(frozen=True)
class Round:
    """Two texts and two experts; step by step each text meets each expert and the base. The last step repeats."""

    x: str
    y: str
    a: str
    b: str

    STEPS: ClassVar = ("xa", "yb", "xb", "x_", "ya")

    def requests(self, step: int) -> list[tuple[str, str]]:
        text, expert = self.STEPS[step]
        request = (getattr(self, text), BASE if expert == "_" else getattr(self, expert))
        return [request] * (2 if step == len(self.STEPS) - 1 else 1)


def text() -> str:
    """Some twenty tokens that nobody has asked before."""
    return f"{uuid.uuid4().hex[:10]} is a note about {', '.join(random.sample(_WORDS, 5))}"


_WORDS = ("soil", "bread", "stars", "wheels", "water", "flour", "lenses", "chains", "roots", "yeast", "orbits", "crust")


def through_gateway(session: aiohttp.ClientSession, url: str) -> Ask:
    async def ask(prompt: str, expert: str, **fields: Any) -> dict[str, Any]:
        return await post(session, f"{url}/v1/completions", {"model": expert, **body(prompt), **fields}, {})

    return ask


def straight(session: aiohttp.ClientSession, engine: Engine, **fields: Any) -> Ask:
    async def ask(prompt: str, expert: str) -> dict[str, Any]:
        sent = {**body(prompt), "lora": engine.lora(expert), **fields}
        return await post(session, f"{engine.url}/v1/completions", sent, engine.headers)

    return ask


def body(prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": 3, "temperature": 0, "logprobs": 20}


async def post(session: aiohttp.ClientSession, url: str, sent: dict[str, Any], headers: dict[str, str]) -> Any:
    async with session.post(url, json=sent, headers=headers) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {await answer.text()}")
        return await answer.json()


def first_token(answer: dict[str, Any]) -> dict[str, float]:
    rows = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {row["token"]: row["logprob"] for row in rows}


def apart(cold: dict[str, float], warm: dict[str, float]) -> float:
    likeliest = sorted(cold, key=lambda token: -cold[token])[:5]
    return max(abs(cold[token] - warm.get(token, min(warm.values()))) for token in likeliest)


def report(results: list[Witnessed], given: argparse.Namespace) -> int:
    header = ["served by", "clients", "requests", "foreign KV", "unlike cold"]
    header += ["telling", "largest distance", "honest reuse"]
    rows = [
        [r.way, r.clients, r.requests, r.foreign_kv, r.unlike_cold, r.telling, max(r.distances), r.honest_reuse]
        for r in results
    ]
    serving.print_table(header, rows)
    ours = [r for r in results if r.way.startswith("gateway")]
    contrast = [r for r in results if not r.way.startswith("gateway")]
    contaminated = sum(r.contaminated for r in ours)
    serving.finish(
        "contamination",
        requests=sum(r.requests for r in ours),
        contaminated=contaminated,
        engine=given.engine,
        load=given.load,
        tolerance=TOLERANCE,
        telling=sum(r.telling for r in ours),
        largest_distance=round(max(max(r.distances) for r in ours), 3),
        contrast_requests=sum(r.requests for r in contrast),
        contrast_contaminated=sum(r.foreign_kv for r in contrast) if contrast else None,
    )
    return 1 if contaminated else 0


if __name__ == "__main__":
    main()
