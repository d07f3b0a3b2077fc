"""What does the gateway add to a request? One client, straight to a mock engine and through nginx, LiteLLM and us.

The mock (mock_engine.py) answers a fixed completion of 16 words at once, so all that is measured is passing it on.
Every proxy is one process on a core of its own; client and mock share the other. ``auto`` has the router choose: warm
(the same text each time) and cold (every text new, so that the encoder runs). The second table reads streams whose
words come a millisecond apart and tell when they were sent.

    python benchmarks/overhead.py [--seconds 3] [--without-litellm]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import load
import mock_engine
import proxies
import serving

from gateway.app import router_factory
from gateway.settings import Settings

_CLIENTS = (1, 16)
_TEXT = "Why did my sourdough bread not rise?"
_STREAMS = 20


@dataclass(frozen=True)
class Cell:
    """One way, plain or streamed, with so many clients."""

    p50_ms: float
    p99_ms: float
    per_s: float


@dataclass(frozen=True)
class Paced:
    """One way's paced streams; ``cpu_us``: of the proxy, for each word, where it tells."""

    first_ms: float
    word_us: float
    word_p99_us: float
    cpu_us: float | None


def warm(model: str, stream: bool) -> Callable[[int], bytes]:
    request = load.chat(model, _TEXT, stream=stream)
    return lambda number: request


def cold(model: str, stream: bool) -> Callable[[int], bytes]:
    """Eight words, never the same."""
    started = time.time_ns()
    return lambda number: load.chat(model, f"Why did my bread {started + number} not rise?", stream=stream)


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each way and number of clients (default: 3)")
    parser.add_argument("--without-litellm", action="store_true", help="leave LiteLLM out")
    given = parser.parse_args()
    cells: dict[tuple[str, bool, int], Cell] = {}
    streams: dict[str, Paced] = {}
    encoder_ms = time_encoder(given)
    proxies.keep_apart()
    with proxies.mock(given.experts) as mock:
        measure(cells, "straight", mock, warm, "base", given.seconds)
        streams["straight"] = read_paced(mock, "base", None)
        with contextlib.ExitStack() as stack:
            if (port := proxies.pinned(stack, proxies.nginx(mock))) is not None:
                measure(cells, "nginx", port, warm, "base", given.seconds)
                streams["nginx"] = read_paced(port, "base", None)
        with contextlib.ExitStack() as stack:
            port = proxies.pinned(stack, proxies.gateway_over_mock(mock, given.experts))
            measure(cells, "Pointsman, named", port, warm, "base", given.seconds)
            measure(cells, "Pointsman, auto warm", port, warm, "auto", given.seconds)
            measure(cells, "Pointsman, auto cold", port, cold, "auto", given.seconds)
            streams["Pointsman, named"] = read_paced(port, "base", port)
        if not given.without_litellm:
            with contextlib.ExitStack() as stack:
                port = proxies.pinned(stack, proxies.litellm(mock))
                measure(cells, "LiteLLM", port, warm, "base", given.seconds)
                streams["LiteLLM"] = read_paced(port, "base", None)
    report(cells, streams, encoder_ms)


def time_encoder(given: argparse.Namespace) -> float:
    """Milliseconds (p50) of a routing decision with nothing around it, for texts as ``cold`` makes them, in here."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    try:
        experts = serving.load_experts(given.experts, at_least=1)
        fitted, embedder = router_factory(Settings()).fitted(experts)
        seconds = []
        for number in range(200):
            text = f"Why did my bread {time.time_ns() + number} not rise?"
            begun = time.perf_counter()
            fitted.encode([text], embedder.embed([text]))
            seconds.append(time.perf_counter() - begun)
        return serving.percentile(seconds[20:], 0.5) * 1000
    finally:
        os.sched_setaffinity(0, cores)


def measure(
    cells: dict[tuple[str, bool, int], Cell],
    way: str,
    port: int,
    requests: Callable[[str, bool], Callable[[int], bytes]],
    model: str,
    seconds: float,
) -> None:
    for stream in (False, True):
        for clients in _CLIENTS:
            load.requests_for(port, requests(model, stream), clients, seconds / 5)
            times, per_s = load.requests_for(port, requests(model, stream), clients, seconds)
            p50, p99 = (serving.percentile(times, share) * 1000 for share in (0.5, 0.99))
            cells[way, stream, clients] = Cell(p50, p99, per_s)


def read_paced(port: int, model: str, tells_cpu: int | None) -> Paced:
    request = load.chat(model, "paced", stream=True)
    load.paced(port, request, 2)
    before = proxies.metric(tells_cpu, "process_cpu_seconds_total") if tells_cpu else 0.0
    first, words = load.paced(port, request, _STREAMS)
    cpu_us = None
    if tells_cpu:
        cpu_s = proxies.metric(tells_cpu, "process_cpu_seconds_total") - before
        cpu_us = cpu_s / (_STREAMS * mock_engine.PACED_WORDS) * 1e6
    p50, p99 = (serving.percentile(words, share) * 1e6 for share in (0.5, 0.99))
    return Paced(serving.percentile(first, 0.5) * 1000, p50, p99, cpu_us)


def report(cells: dict[tuple[str, bool, int], Cell], streams: dict[str, Paced], encoder_ms: float) -> None:
    rows = [
        [way, "streamed" if stream else "plain", clients, cell.p50_ms, cell.p99_ms, round(cell.per_s)]
        for (way, stream, clients), cell in cells.items()
    ]
    serving.print_table(["way", "answer", "clients", "p50 ms", "p99 ms", "requests/s"], rows)
    print()
    floor = streams["straight"]
    paced = [
        [way, s.first_ms, s.first_ms - floor.first_ms, s.word_us, s.word_us - floor.word_us, s.word_p99_us, s.cpu_us]
        for way, s in streams.items()
    ]
    header = ["way", "first word ms", "added ms", "a word's way us", "added us", "p99 us", "CPU us a word"]
    serving.print_table(header, paced)
    ours, straight = cells["Pointsman, named", False, 1], cells["straight", False, 1]
    auto = {kind: cells[f"Pointsman, auto {kind}", False, 1].p50_ms - ours.p50_ms for kind in ("warm", "cold")}
    print(
        f"\nA routing decision on a new text takes {encoder_ms:.2f} ms by itself (p50), nearly all of it the encoder."
    )
    per_s = {f"{w}, {'streamed' if s else 'plain'}, {c}": round(cell.per_s) for (w, s, c), cell in cells.items()}
    peer = cells.get(("LiteLLM", False, 16))
    ratios = {
        f"to_{way}": round(cells["Pointsman, named", False, 16].per_s / cells[way, False, 16].per_s, 3)
        for way in ("straight", "nginx", "LiteLLM")
        if (way, False, 16) in cells
    }
    serving.finish(
        "overhead",
        p50_ms=round(ours.p50_ms, 3),
        added_p50_ms=round(ours.p50_ms - straight.p50_ms, 3),
        added_first_word_ms=round(streams["Pointsman, named"].first_ms - floor.first_ms, 3),
        added_word_us=round(streams["Pointsman, named"].word_us - floor.word_us, 1),
        word_cpu_us=round(streams["Pointsman, named"].cpu_us or 0.0, 1),
        auto_adds_ms={kind: round(ms, 3) for kind, ms in auto.items()},
        router_ms=round(encoder_ms, 3),
        requests_per_s=per_s,
        ratios=ratios,
        ratio=ratios.get("to_LiteLLM") if peer else ratios["to_straight"],
    )


if __name__ == "__main__":
    main()
