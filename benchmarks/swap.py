"""What does one swap of the active expert cost, with nothing to drain?

One client, one engine. The floor is what a swap needs of the engine by itself: ``POST /lora-adapters`` and the ``GET``
that proves it. A request to the gateway that finds another expert active waits for its lease exactly as long as the
swap takes; the gateway tells that wait in ``x-pointsman-queue-ms``. The last columns are whole requests for one token:
the same expert again, and each time another one, so that what the switch itself costs inside the engine shows as well.

    python benchmarks/swap.py [--repeats 60]
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import serving

_STRATEGIES = ("scale_api", "per_request")


@dataclass
class Times:
    """Milliseconds: the wait for a lease, and the whole request; each with the expert that was active, and another."""

    wait_same: list[float] = field(default_factory=list)
    wait_other: list[float] = field(default_factory=list)
    whole_same: list[float] = field(default_factory=list)
    whole_other: list[float] = field(default_factory=list)


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=60, help="requests of each sort (default: 60)")
    given = parser.parse_args()
    experts = serving.load_experts(given.experts)
    names = [expert.name for expert in experts]
    with serving.engine(experts) as engine:
        floor = time_floor(engine, names, given.repeats)
        ways = {"straight, per-request lora": ask_both(straight(engine), names, given.repeats)}
        for strategy in _STRATEGIES:
            with serving.gateway_over(engine, given.experts, scheduler={"strategy": strategy}) as url:
                ways[f"gateway, {strategy}"] = ask_both(through_gateway(url), names, given.repeats)
    report(floor, ways)


def time_floor(engine: serving.Engine, names: list[str], repeats: int) -> list[float]:
    """Milliseconds of a bare swap: POST, then GET, over a kept connection."""
    times: list[float] = []
    with httpx.Client(base_url=engine.url, headers=engine.headers) as client:
        for name in itertools.islice(itertools.cycle(names), repeats + 3):
            begun = time.perf_counter()
            client.post("/lora-adapters", json=engine.lora(name)).raise_for_status()
            client.get("/lora-adapters").raise_for_status()
            times.append((time.perf_counter() - begun) * 1000)
    return times[3:]


Ask = Callable[[httpx.Client, str], float]


def straight(engine: serving.Engine) -> tuple[str, Ask]:
    def ask(client: httpx.Client, name: str) -> float:
        client.post(
            "/v1/chat/completions", json={**body(), "lora": engine.lora(name)}, headers=engine.headers
        ).raise_for_status()
        return 0.0

    return engine.url, ask


def through_gateway(url: str) -> tuple[str, Ask]:
    def ask(client: httpx.Client, name: str) -> float:
        answer = client.post("/v1/chat/completions", json={**body(), "model": name}).raise_for_status()
        return float(answer.headers["x-pointsman-queue-ms"])

    return url, ask


def body() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1, "temperature": 0}


def pairs(names: list[str], repeats: int) -> Iterator[tuple[str, bool]]:
    """Expert after expert, each asked twice: the first time it is another one."""
    for name in itertools.islice(itertools.cycle(names), repeats):
        yield name, True
        yield name, False


def ask_both(way: tuple[str, Ask], names: list[str], repeats: int) -> Times:
    url, ask = way
    times = Times()
    with httpx.Client(base_url=url, timeout=60) as client:
        for name in names:
            ask(client, name)
        for name, other in pairs(names, repeats):
            begun = time.perf_counter()
            waited = ask(client, name)
            whole = (time.perf_counter() - begun) * 1000
            (times.wait_other if other else times.wait_same).append(waited)
            (times.whole_other if other else times.whole_same).append(whole)
    return times


def report(floor: list[float], ways: dict[str, Times]) -> None:
    def p50(values: list[float]) -> float:
        return serving.percentile(values, 0.5)

    rows: list[list[Any]] = [["floor: POST, GET", p50(floor), serving.percentile(floor, 0.99), "", "", ""]]
    for way, times in ways.items():
        told = way.startswith("gateway")
        waits = [p50(times.wait_other), serving.percentile(times.wait_other, 0.99)] if told else ["", ""]
        same, other = p50(times.whole_same), p50(times.whole_other)
        rows.append([way, *waits, same, other, other - same])
    header = ["way", "swap p50 ms", "swap p99 ms", "same expert ms", "another ms", "difference ms"]
    serving.print_table(header, rows)
    swaps = {strategy: p50(ways[f"gateway, {strategy}"].wait_other) for strategy in _STRATEGIES}
    serving.finish(
        "swap",
        floor_ms=round(p50(floor), 3),
        swap_ms={strategy: round(ms, 3) for strategy, ms in swaps.items()},
        gateway_adds_ms={strategy: round(ms - p50(floor), 3) for strategy, ms in swaps.items()},
        ratio=round(swaps["scale_api"] / p50(floor), 3),
    )


if __name__ == "__main__":
    main()
