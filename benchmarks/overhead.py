"""What does the gateway add to a request? Straight to a mock engine, through nginx, two bare relays, LiteLLM and us.

The mock (mock_engine.py) answers a fixed completion of 16 words at once, so all that is measured is passing it on.
Every proxy is one process on the first core, where it is alone while it works; client and mock have the other. The bare
relay (bare_relay.py) is the floor for whatever stands on uvicorn and our HTTP client, and, encoding each text before it
passes it on, for whatever routes by this encoder; the FastAPI relay (fastapi_relay.py) is what others begin with before
they do anything. ``auto`` has the router choose: warm (the same text each time) and cold (every text new, so that the
encoder runs). The second table reads streams whose words come a millisecond apart and tell when they were sent. The
ways take turns, since a machine's speed drifts; a figure is the median of the rounds, and beside it stands the best
round: the others shared the core with somebody. A ratio is the median of each round's own. Only answers that end in a
round's time count, while all clients ask.

    python benchmarks/overhead.py [--seconds 6] [--rounds 6] [--without-litellm]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import load
import mock_engine
import proxies
import serving

from gateway.app import router_factory
from gateway.settings import Settings

_CLIENTS = (1, 16)
_TEXT = "Why did my sourdough bread not rise?"
_STREAMS = 5
_PAUSE_S = 0.001
"""Between two decisions of the encoder by itself, as a client with one request at a time leaves it."""


@dataclass(frozen=True)
class Cell:
    """One way, plain or streamed, with so many clients."""

    p50_ms: float
    p99_ms: float
    per_s: float


@dataclass(frozen=True)
class Paced:
    """One way's paced streams; ``cpu_us``: of the proxy, for each word, NaN where it does not tell."""

    first_ms: float
    word_us: float
    word_p99_us: float
    cpu_us: float


@dataclass(frozen=True)
class Way:
    """From client to mock. ``paced``: whether its paced streams are read, too; ``tells_cpu``: of its process."""

    name: str
    port: int
    requests: Callable[[str, bool], Callable[[int], bytes]]
    model: str = "base"
    paced: bool = True
    tells_cpu: bool = False
    patience: float = 1.0
    """How much longer its rounds are: of few answers, many must count."""


def warm(model: str, stream: bool) -> Callable[[int], bytes]:
    request = load.chat(model, _TEXT, stream=stream)
    return lambda number: request


def cold(model: str, stream: bool) -> Callable[[int], bytes]:
    """Eight words, never the same."""
    started = time.time_ns()
    return lambda number: load.chat(model, f"Why did my bread {started + number} not rise?", stream=stream)


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each way and number of clients (default: 6)")
    parser.add_argument("--rounds", type=int, default=6, help="turns the ways take in that time (default: 6)")
    parser.add_argument("--without-litellm", action="store_true", help="leave LiteLLM out")
    given = parser.parse_args()
    with proxies.on_first_core():  # one core, one thread, as the gateway will have
        decide, encoder = decision(given)
    with contextlib.ExitStack() as stack:
        ways = open_ways(stack, given, encoder)
        cells: dict[tuple[str, bool, int], list[Cell]] = {}
        streams: dict[str, list[Paced]] = {}
        encoder_ms = []
        for _ in range(given.rounds):
            encoder_ms.append(time_decision(decide))
            for way in ways:
                for stream in (False, True):
                    for clients in _CLIENTS:
                        cell = measure(way, stream, clients, given.seconds / given.rounds)
                        cells.setdefault((way.name, stream, clients), []).append(cell)
                if way.paced:
                    streams.setdefault(way.name, []).append(read_paced(way))
    report(
        cells,
        {name: Paced(*middle(found)) for name, found in streams.items()},
        statistics.median(encoder_ms),
    )


def open_ways(stack: contextlib.ExitStack, given: argparse.Namespace, encoder: Path) -> list[Way]:
    """Every way, its proxy running."""
    mock = stack.enter_context(proxies.mock(given.experts))
    ways = [Way("straight", mock, warm)]
    if (port := proxies.pinned(stack, proxies.nginx(mock))) is not None:
        ways.append(Way("nginx", port, warm))
    ways.append(Way("bare relay", proxies.pinned(stack, proxies.bare_relay(mock)), warm))
    encoding = proxies.pinned(stack, proxies.bare_relay(mock, encoder))
    ways.append(Way("bare relay, encoding", encoding, cold, paced=False))
    ways.append(Way("FastAPI relay", proxies.pinned(stack, proxies.fastapi_relay(mock)), warm))
    ours = proxies.pinned(stack, proxies.gateway_over_mock(mock, given.experts))
    ways += [
        Way("Pointsman, named", ours, warm, tells_cpu=True),
        Way("Pointsman, auto warm", ours, warm, "auto", paced=False),
        Way("Pointsman, auto cold", ours, cold, "auto", paced=False),
    ]
    if not given.without_litellm:
        ways.append(Way("LiteLLM", proxies.pinned(stack, proxies.litellm(mock)), warm, patience=3.0))
    return ways


def middle(found: Sequence[Cell | Paced]) -> list[float]:
    """The median of each field."""
    return [statistics.median(values) for values in zip(*(astuple(one) for one in found), strict=True)]


def times_as_many(rounds: dict[tuple[str, bool, int], list[Cell]], way: str, *, stream: bool) -> float:
    """How many of a named expert's answers to one of ``way``'s, 16 clients: the median of the rounds."""
    ours, theirs = rounds["Pointsman, named", stream, 16], rounds[way, stream, 16]
    return statistics.median(our.per_s / their.per_s for our, their in zip(ours, theirs, strict=True))


def decision(given: argparse.Namespace) -> tuple[Callable[[str], object], Path]:
    """A routing decision with nothing around it, and where its encoder lies."""
    experts = serving.load_experts(given.experts, at_least=1)
    factory = router_factory(Settings())
    fitted, embedder = factory.fit_on(factory.read_source(experts))
    return lambda text: fitted.encode([text], embedder.read([text])), embedder.folder


def time_decision(decide: Callable[[str], object]) -> float:
    """Milliseconds (p50) of a decision on texts as ``cold`` makes them, on the proxies' core."""
    with proxies.on_first_core():
        seconds = []
        for number in range(60):
            text = f"Why did my bread {time.time_ns() + number} not rise?"
            time.sleep(_PAUSE_S)
            begun = time.perf_counter()
            decide(text)
            seconds.append(time.perf_counter() - begun)
    return serving.percentile(seconds[10:], 0.5) * 1000


def measure(way: Way, stream: bool, clients: int, seconds: float) -> Cell:
    requests = way.requests(way.model, stream)
    seconds *= way.patience
    times, per_s = load.requests_for(way.port, requests, clients, seconds, warm_s=seconds / 3)
    return Cell(*(serving.percentile(times, share) * 1000 for share in (0.5, 0.99)), per_s)


def read_paced(way: Way) -> Paced:
    def cpu_s() -> float:
        return proxies.metric(way.port, "process_cpu_seconds_total") if way.tells_cpu else math.nan

    request = load.chat(way.model, "paced", stream=True)
    load.paced(way.port, request, 1)
    before = cpu_s()
    first, words = load.paced(way.port, request, _STREAMS)
    cpu_us = (cpu_s() - before) / (_STREAMS * mock_engine.PACED_WORDS) * 1e6
    p50, p99 = (serving.percentile(words, share) * 1e6 for share in (0.5, 0.99))
    return Paced(serving.percentile(first, 0.5) * 1000, p50, p99, cpu_us)


def report(rounds: dict[tuple[str, bool, int], list[Cell]], streams: dict[str, Paced], encoder_ms: float) -> None:
    cells = {key: Cell(*middle(found)) for key, found in rounds.items()}
    best = {key: max(cell.per_s for cell in found) for key, found in rounds.items()}
    rows = [
        [
            way,
            "streamed" if stream else "plain",
            clients,
            cell.p50_ms,
            cell.p99_ms,
            round(cell.per_s),
            round(best[way, stream, clients]),
        ]
        for (way, stream, clients), cell in cells.items()
    ]
    serving.print_table(["way", "answer", "clients", "p50 ms", "p99 ms", "requests/s", "in the best round"], rows)
    print()
    floor = streams["straight"]
    paced = [
        [
            way,
            s.first_ms,
            s.first_ms - floor.first_ms,
            s.word_us,
            s.word_us - floor.word_us,
            s.word_p99_us,
            "" if math.isnan(s.cpu_us) else s.cpu_us,
        ]
        for way, s in streams.items()
    ]
    header = ["way", "first word ms", "added ms", "a word's way us", "added us", "p99 us", "CPU us a word"]
    serving.print_table(header, paced)
    ours, straight = cells["Pointsman, named", False, 1], cells["straight", False, 1]
    auto = {kind: cells[f"Pointsman, auto {kind}", False, 1].p50_ms - ours.p50_ms for kind in ("warm", "cold")}
    encoding_ms = cells["bare relay, encoding", False, 1].p50_ms - cells["bare relay", False, 1].p50_ms
    print(
        f"\nA routing decision on a new text takes {encoder_ms:.2f} ms by itself (p50) and adds {auto['cold']:.2f} ms; "
        f"encoding alone adds {encoding_ms:.2f} ms to the bare relay."
    )
    per_s = {f"{w}, {'streamed' if s else 'plain'}, {c}": round(cell.per_s) for (w, s, c), cell in cells.items()}
    ratios = {
        f"{kind} to {way}": round(times_as_many(rounds, way, stream=stream), 3)
        for stream, kind in ((False, "plain"), (True, "streamed"))
        for way in ("straight", "nginx", "bare relay", "FastAPI relay", "LiteLLM")
        if (way, stream, 16) in cells
    }
    serving.finish(
        "overhead",
        p50_ms=round(ours.p50_ms, 3),
        added_p50_ms=round(ours.p50_ms - straight.p50_ms, 3),
        added_first_word_ms=round(streams["Pointsman, named"].first_ms - floor.first_ms, 3),
        added_word_us_by_way={way: round(s.word_us - floor.word_us, 1) for way, s in streams.items()},
        added_word_us=round(streams["Pointsman, named"].word_us - floor.word_us, 1),
        word_cpu_us=round(streams["Pointsman, named"].cpu_us, 1),
        auto_adds_ms={kind: round(ms, 3) for kind, ms in auto.items()},
        router_ms=round(encoder_ms, 3),
        encoding_adds_ms=round(encoding_ms, 3),
        best_per_s=round(best["Pointsman, named", False, 16]),
        requests_per_s=per_s,
        ratios=ratios,
        ratio=ratios.get("plain to LiteLLM", ratios["plain to straight"]),
    )


if __name__ == "__main__":
    main()
