"""What does mixed traffic over four experts cost? 48 answers of 48 tokens, 8 clients, on one engine of four slots.

The peer is llama-server itself, each request naming its adapters: with one expert alone (the ceiling), and with the
experts in turn. Beside it the gateway, with one expert (its own cost) and with the four mixed, by both strategies.
``ratio`` is mixed through the gateway over one expert alone straight.

    python benchmarks/throughput.py [--answers 48] [--tokens 48] [--clients 8] [--repeat 1]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import serving
from serving import Engine

Send = Callable[[str, dict[str, Any]], Awaitable[int]]

_QUESTIONS = (
    "How do I begin?",
    "What should I buy first?",
    "What goes wrong most often?",
    "How long does it take to become good at it?",
    "Is it expensive?",
    "Which season is the best for it?",
)


@dataclass(frozen=True)
class Timed:
    """One run: tokens a second over all clients, and each answer's seconds."""

    tokens_s: float
    seconds: list[float]


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--answers", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=1, help="run everything so often and show medians")
    asyncio.run(measure(parser.parse_args()))


async def measure(given: argparse.Namespace) -> None:
    experts = serving.load_experts(given.experts)
    names = [expert.name for expert in experts]
    runs: dict[str, list[Timed]] = {}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3600), connector=connector) as session:
        with serving.engine(experts) as engine:
            direct = straight(session, engine)
            for _ in range(given.repeat):
                for way, mix in (("straight, one expert", names[:1]), ("straight, in turn", names)):
                    runs.setdefault(way, []).append(await run(direct, mix, given))
                for strategy in ("scale_api", "per_request"):
                    scheduler = {"strategy": strategy, "queue_timeout_s": 3600}
                    with serving.gateway_over(engine, given.experts, scheduler=scheduler) as url:
                        ours = through_gateway(session, url)
                        for label, mix in (("one expert", names[:1]), ("mixed", names)):
                            key = f"gateway, {label}, {strategy}"
                            runs.setdefault(key, []).append(await run(ours, mix, given))
    report(runs)


async def run(send: Send, names: Sequence[str], given: argparse.Namespace) -> Timed:
    """Warm up, then answer every request, ``clients`` at a time, the experts in turn."""
    await asyncio.gather(*(send(name, body("Hello", 2)) for name in names))
    waiting = requests(names, given.answers, given.tokens)
    seconds: list[float] = []

    async def client() -> None:
        for name, sent in waiting:
            started = time.monotonic()
            received = await send(name, sent)
            if received != given.tokens:
                raise RuntimeError(f"{received} tokens came in place of {given.tokens}")
            seconds.append(time.monotonic() - started)

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(given.clients)))
    return Timed(given.answers * given.tokens / (time.monotonic() - begun), seconds)


def requests(names: Sequence[str], answers: int, tokens: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Different texts, so that no answer is another's prefix; one iterator for all clients."""
    turns = itertools.cycle(names)
    for number in range(answers):
        yield next(turns), body(f"Question {number}. {_QUESTIONS[number % len(_QUESTIONS)]}", tokens)


def body(text: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    options = {"include_usage": True}
    return {"messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True, "stream_options": options}


def straight(session: aiohttp.ClientSession, engine: Engine) -> Send:
    async def send(expert: str, sent: dict[str, Any]) -> int:
        url = f"{engine.url}/v1/chat/completions"
        return await answer_tokens(session, url, {**sent, "lora": engine.lora(expert)}, engine.headers)

    return send


def through_gateway(session: aiohttp.ClientSession, url: str) -> Send:
    async def send(expert: str, sent: dict[str, Any]) -> int:
        return await answer_tokens(session, f"{url}/v1/chat/completions", {**sent, "model": expert}, {})

    return send


async def answer_tokens(session: aiohttp.ClientSession, url: str, sent: dict[str, Any], headers: dict[str, str]) -> int:
    """Read a whole stream; the tokens its usage tells."""
    async with session.post(url, json=sent, headers=headers) as answer:
        text = await answer.text()
    if answer.status != 200 or '"completion_tokens":' not in text:
        raise RuntimeError(f"{url} answered {answer.status}: {text[-500:]}")
    return int(text.rsplit('"completion_tokens":', 1)[1].split(",")[0].strip(" }"))


def report(runs: dict[str, list[Timed]]) -> None:
    tokens_s = {way: statistics.median(t.tokens_s for t in timed) for way, timed in runs.items()}
    ceiling = tokens_s["straight, one expert"]
    rows = []
    for way, timed in runs.items():
        seconds = [second for t in timed for second in t.seconds]
        row = [way, round(tokens_s[way], 1), serving.percentile(seconds, 0.5), max(seconds), tokens_s[way] / ceiling]
        rows.append(row)
    serving.print_table(["", "tokens/s", "p50 s", "max s", "of one expert alone"], rows)
    serving.finish(
        "throughput",
        tokens_per_s={way: round(value, 1) for way, value in tokens_s.items()},
        ceiling=round(ceiling, 1),
        ratio=round(tokens_s["gateway, mixed, scale_api"] / ceiling, 3),
        ratio_per_request=round(tokens_s["gateway, mixed, per_request"] / ceiling, 3),
        ratio_straight_in_turn=round(tokens_s["straight, in turn"] / ceiling, 3),
    )


if __name__ == "__main__":
    main()
