"""How long does one routing decision take, and how many a second are there?

Ours is `Router.decide`, encoder and head and the way to its threads and back, on the shipped experts' examples. Beside
it, in the same run and in turns: aurelio semantic-router with the same encoder weights and the same examples, and
sentence-transformers, which embeds and decides nothing. Every text is new (cold), or was just decided (warm).
With --second-encoder, a router on that one decides where the first is in doubt; then also measured: held-out questions
about the experts, and others, by whether they were read once or twice.

The last line is one JSON object; `ratio` is semantic-router's median for 8 words over ours. The figures are those of an
otherwise idle machine only.

    python benchmarks/routing_speed.py [--encoder SOURCE] [--second-encoder SOURCE] [--threads 2] [--repeats 60]
                                       [--no-peers]
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the gateway does

import argparse
import asyncio
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from peers import child_environment, peer_python
from routing_data import expert_questions, expert_source, locate_encoder
from serving import finish, percentile, print_table

from gateway.base import default_cache_dir
from gateway.routing import Source
from gateway.settings import Settings
from router import BulkEmbedder, FittedRouter, OnnxEmbedder, Router, ensure_encoder, fit

ROOT = Path(__file__).parents[1]
WORDS = (8, 25, 200)
CLIENTS = (1, 8, 32)
ROUNDS = 4
"""Ours and the peers take turns this often, so that a busy moment hits all."""

BATCH = 256
REQUIREMENTS = ("semantic-router==1.1.1", "sentence-transformers==6.2.0", "torch==2.13.0", "transformers==5.24.0")
Peer = Callable[[str, Sequence[str], int], dict[str, Any]]


class Texts:
    """Readable texts of a given length, never one twice."""

    def __init__(self) -> None:
        path = ROOT / "benchmarks" / "data" / "clinc150" / "val.jsonl"
        self._lines = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
        self._random = np.random.default_rng(0)
        self._given: set[str] = set()

    def make(self, words: int, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            spoken = " ".join(self._random.choice(self._lines, size=8 + words // 2)).split()
            start = int(self._random.integers(len(spoken) - words))
            text = " ".join(spoken[start : start + words])
            if text not in self._given:
                self._given.add(text)
                found.append(text)
        return found


async def decide_each(router: Router, texts: Sequence[str]) -> list[float]:
    """Milliseconds of each, one after another."""
    ms = []
    for text in texts:
        started = time.perf_counter()
        await router.decide([text])
        ms.append((time.perf_counter() - started) * 1000)
    return ms


async def decide_questions(router: Router) -> dict[str, dict[str, float]]:
    """What a new text takes, by whether it was read once or twice: share of all, milliseconds."""
    texts = [text for labelled in expert_questions().values() for text, _ in labelled]
    ms: dict[str, list[float]] = {"once": [], "twice": []}
    for text in dict.fromkeys(texts):
        started = time.perf_counter()
        decision = await router.decide([text])
        ms["twice" if decision.second else "once"].append((time.perf_counter() - started) * 1000)
    total = sum(map(len, ms.values()))
    return {
        name: {"share": len(values) / total, "p50": percentile(values, 0.5), "p95": percentile(values, 0.95)}
        for name, values in ms.items()
        if values
    }


async def decide_together(router: Router, texts: Sequence[str], clients: int) -> float:
    """Seconds for all, by clients that each wait for their answer before they ask again."""
    waiting = iter(texts)

    async def client() -> None:
        for text in waiting:
            await router.decide([text])

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - started


@contextlib.contextmanager
def open_peers(encoder: Path, source: Source, threads: int) -> Iterator[Peer]:
    """Start the peers' process; yields what measures one of them."""
    python = peer_python("semantic-router", REQUIREMENTS)
    script = Path(__file__).with_name("routing_speed_peer.py")
    child = subprocess.Popen(
        [str(python), str(script)], env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def ask(message: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(message), file=child.stdin, flush=True)
        line = child.stdout.readline() if child.stdout else ""
        if not line:
            raise RuntimeError(f"the peers' process ended with {child.wait(30)}; its output stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    try:
        ask({"encoder": str(encoder), "routes": source.examples, "threads": threads})
        yield lambda peer, texts, clients: ask({"peer": peer, "texts": list(texts), "clients": clients})
    finally:
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()


async def measure(router: Router, peer: Peer | None, names: Sequence[str], repeats: int) -> dict[str, Any]:
    """Latency of one at a time, and throughput of many."""
    texts, latency, throughput = Texts(), {}, {}
    for words in WORDS:
        count = max(repeats // ROUNDS // (4 if words > 100 else 1), 5)
        ms: dict[str, list[float]] = {}
        for round_ in range(ROUNDS + 1):
            given = texts.make(words, count)
            found = {"ours": await decide_each(router, given), "ours, warm": await decide_each(router, given)}
            for name in names if peer else ():
                found[name] = peer(name, given, 1)["ms"] if peer else []
            for name, values in found.items():
                ms.setdefault(name, []).extend(values if round_ else [])  # the first round warms up
        latency[f"{words} words"] = {
            name: {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95)} for name, values in ms.items()
        }
    for clients in CLIENTS:
        given = texts.make(8, BATCH)
        row = {name: BATCH / await decide_together(router, given, clients) for name in ("ours", "ours, warm")}
        for name in names if peer else ():
            row[name] = len(given[:64]) / peer(name, given[:64], clients)["seconds"] if peer else 0.0
        throughput[f"{clients} clients"] = row
    return {"ms": latency, "decisions_per_s": throughput, "questions_read": await decide_questions(router)}


def report(results: dict[str, Any], **facts: Any) -> None:
    names = list(results["ms"]["8 words"])
    rows = [
        [label, *(f"{row[name]['p50']:.3g} / {row[name]['p95']:.3g}" for name in names)]
        for label, row in results["ms"].items()
    ]
    print_table(["one at a time, ms, p50 / p95", *names], rows)
    rows = [[label, *(f"{row[name]:.0f}" for name in names)] for label, row in results["decisions_per_s"].items()]
    print()
    print_table(["8 words, decisions a second", *names], rows)
    rows = [[name, f"{row['share']:.0%}", f"{row['p50']:.3g} / {row['p95']:.3g}"]
            for name, row in results["questions_read"].items()]  # fmt: skip
    print()
    print_table(["questions, read", "share", "ms, p50 / p95"], rows)
    peer = results["ms"]["8 words"].get("semantic-router")
    ratio = peer["p50"] / results["ms"]["8 words"]["ours"]["p50"] if peer else None
    finish("routing_speed", **results, **facts, ratio=ratio)


def open_encoder(source: str, threads: int) -> tuple[Path, OnnxEmbedder]:
    """Open an encoder, exported if need be; also returns where the model lies that it is made from."""
    folder = Path(locate_encoder(source))
    return folder, OnnxEmbedder(ensure_encoder(folder, default_cache_dir() / "encoders"), threads=threads)


def fit_twice(source: Source, embedder: OnnxEmbedder, threads: int) -> tuple[FittedRouter, list[float]]:
    """Fit from nothing, and again with the vectors kept; seconds of each."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in ("from nothing", "again"):
            started = time.monotonic()
            bulk = BulkEmbedder(embedder, workers=threads, store=Path(scratch) / "vectors.npz")
            fitted = fit(**asdict(source), embedder=bulk, workers=threads)
            bulk.save()
            seconds.append(round(time.monotonic() - started, 1))
    return fitted, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=Settings().router.encoder, help="as router.encoder in the configuration")
    parser.add_argument("--second-encoder", help="as router.second_encoder")
    parser.add_argument("--threads", type=int, default=Settings().router.threads, help="as router.threads")
    parser.add_argument("--peer-threads", type=int, default=os.cpu_count() or 1, help="torch's threads")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    folder, embedder = open_encoder(arguments.encoder, arguments.threads)
    source = expert_source()
    fitted, fit_s = fit_twice(source, embedder, arguments.threads)
    facts: dict[str, Any] = {"fit_s": fit_s[0], "refit_s": fit_s[1]}
    if arguments.second_encoder:
        _, reader = open_encoder(arguments.second_encoder, arguments.threads)
        fitted_again, fit_s = fit_twice(source, reader, arguments.threads)
        facts |= {"second_fit_s": fit_s[0], "second_refit_s": fit_s[1]}

    async def run(peer: Peer | None) -> dict[str, Any]:
        second = Router(fitted_again, reader, workers=arguments.threads) if arguments.second_encoder else None
        router = Router(fitted, embedder, workers=arguments.threads, second=second)
        try:
            return await measure(router, peer, ("semantic-router", "sentence-transformers"), arguments.repeats)
        finally:
            await router.aclose()

    with contextlib.ExitStack() as stack:
        peer = None
        if not arguments.no_peers:
            peer = stack.enter_context(open_peers(folder, source, arguments.peer_threads))
        results = uvloop.run(run(peer))  # as the gateway does
    report(results, threads=arguments.threads, peer_threads=arguments.peer_threads, **facts)


if __name__ == "__main__":
    main()
