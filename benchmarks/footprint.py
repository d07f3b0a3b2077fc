"""How long does the gateway take to be ready, and how much memory does it hold, with all models in the cache?

Starts ``pointsman serve`` as a user does, with its own engine. Beside it, in the same run: the engine alone until it is
healthy, which is the floor of any start. Memory is that of the gateway's process, without the engine's.

    python benchmarks/footprint.py [--repeats 3]
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import serving
import yaml

_READY = re.compile(r"is ready at (\S+)/v1 after ([\d.]+) s")
_HEAVY = ("torch", "transformers", "sklearn", "scipy", "sentence_transformers")


@dataclass(frozen=True)
class Start:
    """One start: seconds until the ready line, and what the process holds then."""

    ready_s: float
    rss_mb: float
    peak_mb: float
    threads: int
    heavy: tuple[str, ...]


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    experts = serving.load_experts(given.experts)
    start(given.experts)  # fills the caches, the operating system's too
    starts = [start(given.experts) for _ in range(given.repeats)]
    floors = []
    for _ in range(given.repeats):
        begun = time.monotonic()
        with serving.engine(experts, ctx=4096):
            floors.append(time.monotonic() - begun)
    report(starts, floors)


def start(experts: Path) -> Start:
    ports = {"server": {"port": serving.free_port("127.0.0.1")}, "engine": {"port": serving.free_port("127.0.0.1")}}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "gateway.yaml"
        config.write_text(yaml.safe_dump({**ports, "experts": {"dir": str(experts)}}))
        begun = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
            cwd=serving.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None
        try:
            if _READY.search(child.stdout.readline()) is None:
                raise RuntimeError("the gateway did not become ready")
            return held(child.pid, time.monotonic() - begun)
        finally:
            child.terminate()
            child.wait()


def held(pid: int, ready_s: float) -> Start:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    rss_mb, peak_mb = (int(status[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    maps = Path(f"/proc/{pid}/maps").read_text()
    heavy = tuple(name for name in _HEAVY if f"{os.sep}{name}{os.sep}" in maps)
    return Start(ready_s, rss_mb, peak_mb, int(status["Threads"]), heavy)


def report(starts: list[Start], floors: list[float]) -> None:
    rows: list[list[object]] = [
        ["gateway, its own engine", s.ready_s, s.rss_mb, s.peak_mb, s.threads, ", ".join(s.heavy) or "none"]
        for s in starts
    ]
    rows += [["floor: the engine alone", floor, "", "", "", ""] for floor in floors]
    serving.print_table(["start", "ready s", "RSS MB", "peak MB", "threads", "heavy libraries"], rows)
    ready, floor = statistics.median(s.ready_s for s in starts), statistics.median(floors)
    serving.finish(
        "footprint",
        ready_s=round(ready, 2),
        rss_mb=round(statistics.median(s.rss_mb for s in starts)),
        peak_mb=round(max(s.peak_mb for s in starts)),
        floor_s=round(floor, 2),
        heavy=sorted({name for s in starts for name in s.heavy}),
        ratio=round(ready / floor, 2),
    )


if __name__ == "__main__":
    main()
