"""How long does a short request for one expert wait while another expert is under constant load?

Straight to llama-server (each request naming its adapters) it waits until the load pauses: the first running generation
fixes the batch, and newcomers under the same adapter keep joining. Through the gateway it waits for the end of a turn.
The bound is the quantum, plus the longest running answer of the load, plus the swap.

    python benchmarks/starvation.py [--seconds 60] [--probes 5] [--engine binary --binary PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import serving
from serving import Engine

QUANTUM_S = 2.0
_LOAD_TOKENS, _PROBE_TOKENS = 96, 8

Send = Callable[[str, dict[str, Any]], Awaitable[float]]


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="give a probe up after this long (default: 60)")
    parser.add_argument("--probes", type=int, default=5, help="short requests, one after another (default: 5)")
    serving.engine_options(parser)
    sys.exit(asyncio.run(measure(parser.parse_args())))


async def measure(given: argparse.Namespace) -> int:
    experts = serving.load_experts(given.experts)
    names = (experts[0].name, experts[1].name)
    rows: list[list[Any]] = []
    facts: dict[str, Any] = {}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=connector) as session:
        with serving.engine(experts, binary=serving.chosen_binary(given)) as engine:
            waits, longest = await starve(straight(session, engine), names, engine.slots, given.seconds, 1)
            rows.append(["straight to llama-server", *columns(waits, longest, given.seconds), "none"])
            facts["straight_wait_s"], facts["straight_served"] = round(max(waits), 2), max(waits) < given.seconds
            for strategy in ("scale_api", "per_request"):
                scheduler = {"strategy": strategy, "quantum_s": QUANTUM_S, "queue_timeout_s": 600}
                with serving.gateway_over(engine, given.experts, scheduler=scheduler) as url:
                    send = through_gateway(session, url)
                    waits, longest = await starve(send, names, engine.slots, given.seconds, given.probes)
                bound = QUANTUM_S + longest + 0.5  # the probe's own prompt and the swap: well under half a second
                rows.append([f"gateway, {strategy}", *columns(waits, longest, given.seconds), bound])
                facts[strategy] = {"wait_s": round(max(waits), 2), "bound_s": round(bound, 2)}
    serving.print_table(["served by", "probes", "served", "wait p50", "wait max", "load's longest", "bound"], rows)
    kept = all(facts[s]["wait_s"] <= facts[s]["bound_s"] for s in ("scale_api", "per_request"))
    ratio = facts["straight_wait_s"] / facts["scale_api"]["wait_s"]
    serving.finish(
        "starvation", engine=given.engine, quantum_s=QUANTUM_S, within_bound=kept, ratio=round(ratio, 1), **facts
    )
    return 0 if kept else 1


def columns(waits: list[float], longest: float, limit_s: float) -> list[Any]:
    served = sum(wait < limit_s for wait in waits)
    most: Any = max(waits) if served == len(waits) else f"over {limit_s:g}"
    return [len(waits), served, serving.percentile(waits, 0.5), most, longest]


async def starve(
    send: Send, names: tuple[str, str], slots: int, limit_s: float, probes: int
) -> tuple[list[float], float]:
    """Waits for the first token of each probe, and the load's longest answer, both in seconds."""
    waits: list[float] = []
    load = Load(send, names[0], slots)
    try:
        while len(load.answers) < slots:  # noqa: ASYNC110 -- warm, and every slot taken
            await asyncio.sleep(0.1)
        for number in range(probes):
            started = time.monotonic()
            try:
                async with asyncio.timeout(limit_s):
                    waits.append(await send(names[1], body(f"Probe {number}: one word, please.", _PROBE_TOKENS)))
            except TimeoutError:
                waits.append(time.monotonic() - started)
            await asyncio.sleep(QUANTUM_S / 2)
    finally:
        await load.end()
    return waits, max(load.answers)


class Load:
    """Two requests a slot under way, always; ``answers`` are the seconds each ran, first token to last."""

    def __init__(self, send: Send, expert: str, slots: int) -> None:
        self.answers: list[float] = []
        self._send, self._expert = send, expert
        self._ending = False
        self._tasks = [asyncio.create_task(self._keep_asking(worker)) for worker in range(2 * slots)]

    async def _keep_asking(self, worker: int) -> None:
        for number in itertools.count():
            if self._ending:
                return
            started = time.monotonic()
            first_s = await self._send(self._expert, body(f"Load {worker}, {number}: tell a story.", _LOAD_TOKENS))
            self.answers.append(time.monotonic() - started - first_s)

    async def end(self) -> None:
        """Let what runs come to its end, so that its length counts too."""
        self._ending = True
        await asyncio.wait(self._tasks, timeout=300)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def body(text: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": True}


def straight(session: aiohttp.ClientSession, engine: Engine) -> Send:
    async def send(expert: str, sent: dict[str, Any]) -> float:
        url = f"{engine.url}/v1/chat/completions"
        return await first_token_s(session, url, {**sent, "lora": engine.lora(expert)}, engine.headers)

    return send


def through_gateway(session: aiohttp.ClientSession, url: str) -> Send:
    async def send(expert: str, sent: dict[str, Any]) -> float:
        return await first_token_s(session, f"{url}/v1/chat/completions", {**sent, "model": expert}, {})

    return send


async def first_token_s(
    session: aiohttp.ClientSession, url: str, sent: dict[str, Any], headers: dict[str, str]
) -> float:
    """Read the whole stream; seconds from the request to its first token."""
    started, first = time.monotonic(), None
    async with session.post(url, json=sent, headers=headers) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {await answer.text()}")
        async for line in answer.content:
            if line.startswith(b'data: {"error"'):
                raise RuntimeError(line.decode())
            if first is None and b'"content":"' in line:
                first = time.monotonic() - started
    if first is None:
        raise RuntimeError(f"{url} sent no token")
    return first


if __name__ == "__main__":
    main()
