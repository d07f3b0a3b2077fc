"""Does the gateway grow? Requests of every kind by the hundred thousand, and what it holds after each round.

A mock engine (mock_engine.py) answers at once. Of a hundred requests some leave before the answer is there, some meet a
broken engine, a cut stream, a bad body or an unknown model; the others are plain and streamed answers of the base, of
experts (so that the engine swaps) and of ``auto``, with texts old and new. After each round the clients leave, and at
rest the gateway must hold what it held after the first: no lease, no task, no file descriptor more, the same memory.

    python benchmarks/soak.py [--requests 200000]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import load
import proxies
import serving
import uvloop
from prometheus_client.parser import text_string_to_metric_families

_CLIENTS = 24  # more than the mock has slots: some queue
_ROUNDS = 20
_NEW_TEXTS = 5000  # in the warm-up: they fill the router's cache of embeddings
_TEXTS = ("Why did my sourdough bread not rise?", "How do I mend a flat tyre?", "Who wrote Faust?")


@dataclass(frozen=True)
class Held:
    """What the gateway holds at rest."""

    rss_mb: float
    fds: float
    tasks: float
    leases: float
    queued: float
    in_flight: float


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    given = parser.parse_args()
    names = [expert.name for expert in serving.load_experts(given.experts, at_least=1)]
    proxies.keep_apart()
    with contextlib.ExitStack() as stack:
        mock = stack.enter_context(proxies.mock(given.experts))
        settings = {"scheduler": {"quantum_s": 0.02}, "log": {"level": "warning"}}
        port = proxies.pinned(stack, proxies.gateway_over_mock(mock, given.experts, **settings))
        uvloop.run(run(port, itertools.chain(new_texts(_NEW_TEXTS)), Counter()))
        uvloop.run(run(port, itertools.islice(mixed(names), given.requests // _ROUNDS), Counter()))
        rows, statuses, begun = [rest(port)], Counter[str](), time.monotonic()
        for _ in range(_ROUNDS):
            uvloop.run(run(port, itertools.islice(mixed(names), given.requests // _ROUNDS), statuses))
            rows.append(rest(port))
        per_s = given.requests / (time.monotonic() - begun)
    report(rows, statuses, given.requests, per_s)


# -- requests -----------------------------------------------------------------------------------------------------

Kind = tuple[str, bytes]


def new_texts(count: int) -> Iterator[Kind]:
    for number in range(count):
        yield "answer", load.chat("auto", f"What is number {number} about, and why?", stream=False)


def mixed(names: list[str]) -> Iterator[Kind]:
    """A hundred and twenty kinds in turn: what to do, and the request."""
    prepared: list[Kind] = [
        ("leave", load.chat("base", "slow", stream=True)),
        ("leave", load.chat("auto", "slow", stream=False)),
        ("answer", load.chat("base", "broken", stream=False)),
        ("answer", load.chat("base", "broken", stream=True)),
        ("answer", load.chat("base", "cut", stream=True)),
        ("answer", load.chat("base", "cut", stream=False)),
        ("answer", load.chat("nobody", "x", stream=False)),
        ("answer", load.chat("base", "", stream=False).replace(b'"messages"', b'"massages"')),
    ]
    models = ["base", "auto", "base", *names[:2], "base", "auto"]
    for number in range(112):
        text = _TEXTS[number % len(_TEXTS)]
        prepared.append(("answer", load.chat(models[number % len(models)], text, stream=number % 2 == 0)))
    started = time.time_ns()
    for number, kind in enumerate(itertools.cycle(prepared)):
        if number % 100 == 0:
            yield "answer", load.chat("auto", f"Question {started + number}: why?", stream=True)
        yield kind


async def run(port: int, kinds: Iterator[Kind], statuses: Counter[str]) -> None:
    async def client() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for what, request in kinds:
            reader, writer = connection or await asyncio.open_connection("127.0.0.1", port)
            connection = reader, writer
            writer.write(request)
            if what == "leave":
                await asyncio.sleep(0.02)
                writer.transport.abort()
                connection = None
                statuses["left"] += 1
            else:
                statuses[await answer(reader)] += 1
        if connection is not None:
            connection[1].transport.abort()

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))


async def answer(reader: asyncio.StreamReader) -> str:
    """Read one answer; its status, and whether the stream ended in an error."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = head[9:12].decode()
    if b"transfer-encoding: chunked" in head:
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
        return f"{status} with an error event" if b'data: {"error"' in body else status
    await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    return status


# -- what is held -------------------------------------------------------------------------------------------------


def rest(port: int) -> Held:
    """Wait until nothing is being answered, at most ten seconds, and look."""
    until = time.monotonic() + 10
    while (held := look(port)).in_flight and time.monotonic() < until:
        time.sleep(0.2)
    return held


def look(port: int) -> Held:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30, headers={"connection": "close"}).text
    sums: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] += sample.value
    return Held(
        sums["process_resident_memory_bytes"] / 1e6,
        sums["process_open_fds"],
        sums["pointsman_event_loop_tasks"],
        sums["pointsman_leases_held"],
        sums["pointsman_queue_length"],
        sums["pointsman_requests_in_flight"],
    )


def report(rows: list[Held], statuses: Counter[str], requests: int, per_s: float) -> None:
    cells = [
        [number * requests // _ROUNDS, round(r.rss_mb, 1), *map(int, (r.fds, r.tasks, r.leases, r.queued, r.in_flight))]
        for number, r in enumerate(rows)
    ]
    serving.print_table(["requests", "RSS MB", "fds", "tasks", "leases", "queued", "in flight"], cells)
    first, last = rows[0], rows[-1]
    growth = last.rss_mb / first.rss_mb - 1
    leaked = [
        name for name in ("fds", "tasks", "leases", "queued", "in_flight") if getattr(last, name) > getattr(first, name)
    ]
    print(f"\n{per_s:.0f} requests/s; statuses: {json.dumps(dict(sorted(statuses.items())))}")
    serving.finish(
        "soak",
        requests=requests,
        requests_per_s=round(per_s),
        rss_mb={"after warm-up": round(first.rss_mb, 1), "at the end": round(last.rss_mb, 1)},
        growth=round(growth, 4),
        leaked=leaked,
        statuses=dict(sorted(statuses.items())),
        ratio=round(last.rss_mb / first.rss_mb, 4),
    )
    if growth > 0.05 or leaked:
        sys.exit(1)


if __name__ == "__main__":
    main()
