"""What the serving benchmarks share: an engine of their own, a gateway of their own, tables, the last line of JSON.

The engine is started by itself, with a key we know, so that the same engine can be asked straight and through the
gateway (``engine.kind: url``) in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway.base import Kind, default_cache_dir, gguf_identity, resolve
from gateway.experts import BASE, Expert, scan_experts
from gateway.process import LaunchSpec, binary_arguments, free_port
from gateway.settings import Settings

ROOT = Path(__file__).parents[1]
__all__ = [
    "BASE",
    "Engine",
    "Gateway",
    "arguments",
    "chosen_binary",
    "engine",
    "engine_options",
    "finish",
    "free_port",
    "gateway",
    "gateway_over",
    "gateway_process",
    "load_experts",
    "percentile",
    "print_table",
]

_LOAD = os.getloadavg()[0]

KEY = "benchmark-engine-key"
_START_S = 300.0


@dataclass(frozen=True)
class Engine:
    """A running llama.cpp server and the adapter ids of its experts."""

    url: str
    ids: Mapping[str, int]
    scales: Mapping[str, float]
    slots: int

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}"}

    def lora(self, expert: str) -> list[dict[str, Any]]:
        """The field that makes a request straight to the engine run under this expert: every id, one above zero."""
        return [{"id": id_, "scale": self.scales[name] if name == expert else 0.0} for name, id_ in self.ids.items()]


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The options every benchmark has. SIGTERM becomes an exit that stops the children."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--experts", type=Path, default=ROOT / "experts", help="experts directory (default: ours)")
    return parser


def load_experts(root: Path, at_least: int = 2) -> list[Expert]:
    """The experts that fit the default base; the benchmark ends when there are too few."""
    cache_dir = default_cache_dir()
    base = resolve(Settings().engine.base, cache_dir=cache_dir, kind=Kind.GGUF)
    experts, rejected = scan_experts(root.resolve(), gguf_identity(base, cache_dir))
    if len(experts) < at_least:
        sys.exit(f"{root}: {at_least} experts are needed, found {sorted(experts)}; refused: {rejected}")
    return list(experts.values())


def engine_options(parser: argparse.ArgumentParser) -> None:
    """Let the caller choose between the two engines that we start."""
    parser.add_argument("--engine", choices=("embedded", "binary"), default="embedded", help="default: embedded")
    parser.add_argument("--binary", default="llama-server", help="for --engine binary; `python -m training.native`")


def chosen_binary(given: argparse.Namespace) -> str | None:
    """The executable that ``engine_options`` asks for, checked; None for the embedded engine."""
    if given.engine == "embedded":
        return None
    found = shutil.which(given.binary)
    if found is None:
        print(f"--binary {given.binary!r}: no such executable", file=sys.stderr)
        sys.exit(2)
    return found


@contextlib.contextmanager
def engine(
    experts: Sequence[Expert], *, slots: int = 4, ctx: int = 2048, cache_ram_mib: int = 0, binary: str | None = None
) -> Iterator[Engine]:
    """Start a llama.cpp server with these experts' adapters, all at scale 0: the embedded one, or this executable."""
    model = resolve(Settings().engine.base, cache_dir=default_cache_dir(), kind=Kind.GGUF).path
    spec = LaunchSpec(
        model=str(model),
        adapters=tuple(str(expert.adapter_path) for expert in experts),
        host="127.0.0.1",
        port=free_port("127.0.0.1"),
        slots=slots,
        ctx_per_slot=ctx,
        threads=os.cpu_count() or 1,
        gpu_layers=-1,
        alias="pointsman-base",
        cache_ram_mib=cache_ram_mib,
        api_key=KEY,
    )
    command = [sys.executable, "-m", "gateway.embedded"] if binary is None else binary_arguments(binary, spec)
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, "LLAMA_API_KEY": KEY}
        )
        assert child.stdin is not None
        try:
            if binary is None:
                child.stdin.write(json.dumps(asdict(spec)).encode() + b"\n")
                child.stdin.flush()
            url = f"http://{spec.host}:{spec.port}"
            _wait(child, lambda: httpx.get(f"{url}/health").status_code == 200)
            ids = {expert.name: index for index, expert in enumerate(experts)}
            yield Engine(url, ids, {expert.name: expert.manifest.scale for expert in experts}, slots)
        finally:
            child.stdin.close()
            if binary is not None:
                child.terminate()
            _end(child)


@dataclass(frozen=True)
class Gateway:
    """A running ``pointsman serve``."""

    url: str
    pid: int
    log: Path


@contextlib.contextmanager
def gateway(settings: Mapping[str, Any], env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start ``pointsman serve`` on a free port; yields its URL."""
    with gateway_process(settings, env) as running:
        yield running.url


@contextlib.contextmanager
def gateway_process(settings: Mapping[str, Any], env: Mapping[str, str] | None = None) -> Iterator[Gateway]:
    """The same for whoever wants its process and its log, too; both are gone at the end of the block."""
    port = free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        config, log_path = Path(folder) / "gateway.yaml", Path(folder) / "gateway.log"
        config.write_text(yaml.safe_dump({"log": {"level": "warning"}, **settings, "server": {"port": port}}))
        with log_path.open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
                cwd=ROOT,
                env={**os.environ, "GATEWAY_ENGINE_API_KEY": KEY, **(env or {})},
                stdout=log,
                stderr=log,
            )
        try:
            _wait(child, lambda: httpx.get(f"{url}/health").status_code == 200, log_path)
            yield Gateway(url, child.pid, log_path)
        finally:
            child.terminate()
            _end(child)


@contextlib.contextmanager
def gateway_over(running: Engine, experts: Path, **sections: Mapping[str, Any]) -> Iterator[str]:
    """A gateway over an engine that runs already."""
    defaults: dict[str, Any] = {"engine": {"kind": "url", "url": running.url}, "experts": {"dir": str(experts)}}
    with gateway({**defaults, **sections}) as url:
        yield url


def _wait(child: subprocess.Popen[bytes], check: Callable[[], bool], log: Path | None = None) -> None:
    until = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if check():
                return
        if child.poll() is not None or time.monotonic() > until:
            words = log.read_text(errors="replace")[-2000:] if log else ""
            raise RuntimeError(f"the child did not start (exit code {child.poll()})\n{words}")
        time.sleep(0.1)


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


# -- results ------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table, its columns aligned."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for number, row in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def finish(benchmark: str, **facts: Any) -> None:
    """The last line: one JSON object with the result and where it was measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    where = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_before": round(_LOAD, 2),
        "commit": commit.stdout.strip() or None,
        "base": Settings().engine.base,
    }
    print(json.dumps({"benchmark": benchmark, **facts, **where}))
