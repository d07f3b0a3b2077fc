"""Where does the gateway's time for a plain answer go, and what is the least that its foundations leave?

Sixteen clients ask a mock engine's fixed completion through the gateway, alone on the first core and never idle, while
py-spy samples its stack from outside. A sample belongs to the innermost part of the list below that it is in. The floor
is the bare relay of the overhead benchmark, in turns with it: uvicorn, our HTTP client, no gateway.

    python benchmarks/hot_path.py [--seconds 20]
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import load
import peers
import proxies
import serving

SPY = "py-spy==0.4.3"
RATE = 400
ROUNDS = 4
PARTS = (
    ("event loop and sockets (uvloop)", ("asyncio/runners.py",)),
    ("HTTP to and from the client (uvicorn)", ("uvicorn/",)),
    ("a connection to the engine, its HTTP", ("gateway/http1.py", "asyncio/timeouts.py")),
    ("the log line", ("logging/", "gateway/logs.py")),
    ("metrics and the request's record", ("prometheus_client/", "gateway/metrics.py", "gateway/context.py")),
    (
        "the lease",
        ("gateway/leases.py", "gateway/scheduler.py", "gateway/slots.py", "gateway/waiting.py", "gateway/pace.py"),
    ),
    ("a plain answer out of the stream", ("gateway/aggregate.py",)),
    ("reading and checking the request", ("gateway/schemas.py", "json/")),
    ("relaying", ("gateway/relay.py", "gateway/backend.py", "gateway/streaming.py")),
    ("endpoint, defaults, headers", ("gateway/",)),
)
OTHER = "other"


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for gateway and floor, each (default: 20)")
    given = parser.parse_args()
    python = peers.peer_python("py-spy", [SPY])
    ask = load.chat("base", "Why did my sourdough bread not rise?", stream=False)
    ours, floor = list[float](), list[float]()
    with contextlib.ExitStack() as stack:
        mock = stack.enter_context(proxies.mock(given.experts))
        settings = proxies.settings_over_mock(mock, given.experts)
        gateway = proxies.pinned(stack, serving.gateway_process(settings))
        relay = proxies.pinned(stack, proxies.bare_relay(mock))
        port = int(gateway.url.rsplit(":", 1)[1])

        def answers_a_second(of: int, seconds: float) -> float:
            return load.requests_for(of, lambda number: ask, 16, seconds, warm_s=seconds / 4)[1]

        for _ in range(ROUNDS):
            ours.append(answers_a_second(port, given.seconds / ROUNDS))
            floor.append(answers_a_second(relay, given.seconds / ROUNDS))
        with sampled(python, gateway.pid, given.seconds) as samples:
            answers_a_second(port, given.seconds + 2)
    counts = Counter({part: samples[part] for part, _ in PARTS} | {OTHER: samples[OTHER]})
    answer_us, floor_us = (1e6 / statistics.median(found) for found in (ours, floor))
    total = counts.total()
    rows = [[part, f"{count / total:.1%}", round(answer_us * count / total)] for part, count in counts.items() if count]
    serving.print_table(["part", "share", "us an answer"], rows)
    print(f"\nan answer takes {answer_us:.0f} us of the core, through the bare relay {floor_us:.0f} us")
    serving.finish(
        "hot_path",
        answer_us=round(answer_us),
        floor_us=round(floor_us),
        us_by_part={part: us for part, _, us in rows},
        samples=total,
        ratio=round(answer_us / floor_us, 2),
    )


@contextlib.contextmanager
def sampled(python: Path, pid: int, seconds: float) -> Iterator[Counter[str]]:
    """Sample the main thread's stack during the block; the counts are there at its end."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stacks.txt"
        command = [str(python.with_name("py-spy")), "record", "--pid", str(pid), "--rate", str(RATE)]
        options = ["--duration", str(round(seconds)), "--format", "raw", "--output", str(out)]
        spy = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        yield counts
        _, said = spy.communicate(timeout=seconds + 60)
        if spy.returncode:
            raise RuntimeError(f"py-spy failed: {said.decode(errors='replace')[-500:]}")
        for line in out.read_text(encoding="utf-8").splitlines():
            frames, _, count = line.rpartition(" ")
            if "asyncio/runners.py" in frames:  # the event loop's thread
                counts[part_of(frames.split(";"))] += int(count)


def part_of(frames: list[str]) -> str:
    """The part that a stack, outermost frame first, belongs to."""
    for frame in reversed(frames):
        for part, places in PARTS:
            if any(place in frame for place in places):
                return part
    return OTHER


if __name__ == "__main__":
    main()
