"""What does mixed traffic over several experts cost, against one expert alone?

Closed loop: so many clients, each asks again as soon as it is answered. The experts are drawn evenly (uniform) or so
that the first is asked most (zipf: 1, 1/2, 1/3, 1/4); "alone" is the first and no other. Ways of serving, the same
requests in the same order:

- one expert, straight to llama-server: the ceiling
- mixed, straight to llama-server, each request naming its adapters
- mixed, through a naive gateway: in order of arrival, a swap whenever the expert changes
- mixed, through Pointsman with its own engine, by both strategies

The ways take turns, ``--rounds`` times, since a machine's speed drifts; engines that are not asked are idle. Tokens/s
count while every client has a request under way: not the end of a round, when there is not enough left to ask.
``ratio`` is Pointsman (its default strategy) over the ceiling, the lesser of the mixes. A wait is the time to an
answer's first token. For Pointsman, each request's time in the queue is held against the bound that
docs/ARCHITECTURE.md states for its place in line.

    python benchmarks/mixed.py [--clients 8] [--rounds 3] [--answers 48] [--tokens 48] [--mixes uniform,zipf,alone]
        [--only WORD]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import serving
from naive import NaiveGateway
from serving import Engine

from gateway.settings import Settings

_QUESTIONS = (
    "How do I begin?",
    "What should I buy first?",
    "What goes wrong most often?",
    "How long does it take to become good at it?",
    "Is it expensive?",
    "Which season is the best for it?",
)
CEILING = "one expert, straight"
_WEIGHTS: dict[str, Callable[[int], float]] = {
    "uniform": lambda rank: 1.0,
    "zipf": lambda rank: 1 / rank,
    "alone": lambda rank: float(rank == 1),
}
_QUEUE_MS = re.compile(rb'"queue_ms":([0-9.]+)')


@dataclass
class Timed:
    """One request: its place among its expert's outstanding ones as it was sent, and seconds."""

    place: int
    first_s: float
    whole_s: float
    queue_s: float


Send = Callable[[str, dict[str, Any], Callable[[], None]], Awaitable[tuple[float, float]]]
"""Send a request under an expert, and call back for each token; returns seconds to the first one, and seconds in the
gateway's queue."""


@dataclass
class Run:
    """All rounds of one way with one mix."""

    tokens: int = 0
    seconds: float = 0.0
    answers: list[Timed] = field(default_factory=list)

    @property
    def tokens_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def waits(self) -> list[float]:
        return [answer.first_s for answer in self.answers]


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=48, help="of each way in each round")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=4, help="answers computed at the same time, everywhere")
    parser.add_argument("--mixes", default="uniform,zipf", help="of uniform, zipf, alone; comma-separated")
    parser.add_argument("--only", default="", help="only the ways with this word in their names, and the ceiling")
    given = parser.parse_args()
    if given.answers <= given.clients:
        parser.error(f"--answers {given.answers}: more than --clients {given.clients} are needed")
    if unknown := set(given.mixes.split(",")) - set(_WEIGHTS):
        parser.error(f"--mixes {', '.join(sorted(unknown))}: allowed are {', '.join(_WEIGHTS)}")
    sys.exit(asyncio.run(measure(given)))


async def measure(given: argparse.Namespace) -> int:
    experts = serving.load_experts(given.experts, at_least=4)[:4]
    names = [expert.name for expert in experts]
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3600), connector=connector)
        )
        engine = stack.enter_context(serving.engine(experts, slots=given.at_once))
        direct = straight(session, engine)
        ways = {"straight": direct, "naive gateway": through_naive(NaiveGateway(session, engine), direct)}
        ways = {way: send for way, send in ways.items() if given.only in way}
        for strategy in ("scale_api", "per_request"):
            if given.only not in (way := f"Pointsman, {strategy}"):
                continue
            sections = {
                "scheduler": {"strategy": strategy, "queue_timeout_s": 3600},
                "engine": {"at_once": given.at_once, "port": serving.free_port("127.0.0.1")},
                "experts": {"dir": str(given.experts)},
            }
            ways[way] = through_gateway(session, stack.enter_context(serving.gateway(sections)))
        runs = {(CEILING, ""): Run(), **{(way, mix): Run() for way in ways for mix in given.mixes.split(",")}}
        for number in range(given.rounds):
            for (way, mix), total in runs.items():
                await run(ways.get(way, direct), draw(mix or "alone", names, given.answers, number), given, total)
                print(f"{way} {mix}: {total.tokens_s:.1f} tokens/s", file=sys.stderr)
    return report(runs, given)


def draw(mix: str, names: Sequence[str], answers: int, seed: int) -> list[str]:
    """The expert of each request: the same for every way."""
    weights = [_WEIGHTS[mix](rank) for rank in range(1, len(names) + 1)]
    return random.Random(seed).choices(names, weights, k=answers)


async def run(send: Send, drawn: Sequence[str], given: argparse.Namespace, total: Run) -> None:
    """Warm up, then answer every request, ``clients`` at a time."""
    for name in sorted(set(drawn)):
        await send(name, body("Hello", 2), lambda: None)
    coming = enumerate(drawn)
    outstanding: Counter[str] = Counter()
    begun, all_at_work = time.monotonic(), True
    asked_before = len(total.answers)

    def count() -> None:
        if all_at_work:
            total.tokens += 1

    async def client() -> None:
        nonlocal all_at_work
        for number, name in coming:
            outstanding[name] += 1
            place, started = outstanding[name], time.monotonic()
            text = f"Question {asked_before + number}. {_QUESTIONS[number % len(_QUESTIONS)]}"
            first_s, queue_s = await send(name, body(text, given.tokens), count)
            total.answers.append(Timed(place, first_s, time.monotonic() - started, queue_s))
            outstanding[name] -= 1
        if all_at_work:
            all_at_work = False
            total.seconds += time.monotonic() - begun

    await asyncio.gather(*(client() for _ in range(given.clients)))


def body(text: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    options = {"include_usage": True}
    return {"messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True, "stream_options": options}


def straight(session: aiohttp.ClientSession, engine: Engine) -> Send:
    async def send(expert: str, sent: dict[str, Any], token: Callable[[], None]) -> tuple[float, float]:
        url = f"{engine.url}/v1/chat/completions"
        return await answer(session, url, {**sent, "lora": engine.lora(expert)}, engine.headers, token)

    return send


def through_naive(naive: NaiveGateway, direct: Send) -> Send:
    async def send(expert: str, sent: dict[str, Any], token: Callable[[], None]) -> tuple[float, float]:
        started = time.monotonic()
        async with naive.lease(expert):
            queue_s = time.monotonic() - started
            first_s, _ = await direct(expert, sent, token)
        return queue_s + first_s, queue_s

    return send


def through_gateway(session: aiohttp.ClientSession, url: str) -> Send:
    async def send(expert: str, sent: dict[str, Any], token: Callable[[], None]) -> tuple[float, float]:
        return await answer(session, f"{url}/v1/chat/completions", {**sent, "model": expert}, {}, token)

    return send


async def answer(
    session: aiohttp.ClientSession,
    url: str,
    sent: dict[str, Any],
    headers: dict[str, str],
    token: Callable[[], None],
) -> tuple[float, float]:
    """Read a whole stream and check that every token came."""
    started, first_s, queue_s, tail = time.monotonic(), math.nan, math.nan, b""
    async with session.post(url, json=sent, headers=headers) as response:
        async for line in response.content:
            if b'"content":"' in line:
                token()
                if math.isnan(first_s):
                    first_s = time.monotonic() - started
            # Not the header: a client that has waited long gets its headers before it leaves the queue.
            if math.isnan(queue_s) and (found := _QUEUE_MS.search(line)):
                queue_s = float(found[1]) / 1000
            tail = line if b'"completion_tokens":' in line else tail
    if response.status != 200 or f'"completion_tokens":{sent["max_tokens"]}'.encode() not in tail:
        raise RuntimeError(f"{url} answered {response.status}, at last {tail[-500:]!r}")
    return first_s, queue_s


# -- results ------------------------------------------------------------------------------------------------------


def bound_s(answer: Timed, longest_s: float, experts: int, at_once: int) -> float:
    """What docs/ARCHITECTURE.md promises the request in this place; a swap takes some milliseconds."""
    swap_s = 0.05
    head_s = Settings().scheduler.quantum_s + swap_s + (experts - 1) * (longest_s + swap_s)
    return math.ceil(answer.place / at_once) * (head_s + longest_s)


def report(runs: dict[tuple[str, str], Run], given: argparse.Namespace) -> int:
    ceiling = runs[CEILING, ""].tokens_s
    rows, facts, within = [], [], True
    for (way, mix), timed in runs.items():
        longest_s = max((a.whole_s - a.queue_s for a in timed.answers if a.queue_s == a.queue_s), default=math.nan)
        kept = (
            ""
            if "Pointsman" not in way
            else all(a.queue_s <= bound_s(a, longest_s, 4, given.at_once) for a in timed.answers)
        )
        within = within and kept in ("", True)
        waits = [serving.percentile(timed.waits, share) for share in (0.5, 0.95, 1.0)]
        rows.append([way, mix, round(timed.tokens_s, 1), timed.tokens_s / ceiling, *waits, kept])
        facts.append(
            {"way": way, "mix": mix, "tokens_s": round(timed.tokens_s, 1), "wait_s": [round(w, 2) for w in waits]}
        )
    header = ["", "mix", "tokens/s", "of one expert alone", "wait p50, s", "p95", "max", "within the bound"]
    serving.print_table(header, rows)

    def least(word: str) -> float | None:
        found = [
            timed.tokens_s / ceiling for (way, mix), timed in runs.items() if word in way and mix not in ("", "alone")
        ]
        return round(min(found), 3) if found else None

    serving.finish(
        "mixed",
        clients=given.clients,
        rounds=given.rounds,
        at_once=given.at_once,
        ceiling=round(ceiling, 1),
        ratio=least("scale_api"),
        ratio_per_request=least("per_request"),
        ratio_straight_mixed=least("straight"),
        ratio_naive=least("naive"),
        within_bound=within,
        ways=facts,
    )
    return 0 if within else 1


if __name__ == "__main__":
    main()
