"""What is lost when things break? A loaded gateway, and every few seconds something dies, hangs, leaves or changes.

Events: an engine killed (SIGKILL) or hung (SIGSTOP); a client that vanishes while queued, in prefill, while streaming;
a reload; a publication; a broken manifest, a wrong hash, a corrupt GGUF at a reload; a full queue. ``chaos_load`` says
what is held against every answer, ``chaos_events`` what each event does. Reached when: no wrong expert, no request
without an end, every failure an OpenAI error or a stream's error event, every engine back within five seconds of its
own start time, and afterwards not one slot, socket, task, thread or child more than before. Exit code 1 otherwise.

    python benchmarks/chaos.py [--minutes 10] [--seed 1] [--engine binary --binary PATH] [--strategy per_request]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import serving
from chaos_events import Chaos
from chaos_experts import Shelf
from chaos_held import Footprint, Held
from chaos_load import BASE, Client

from gateway.experts import Expert

QUEUE_S, REQUEST_S = 20.0, 40.0
LIMIT_S = REQUEST_S + 5.0  # stated: every request ends within this, in whatever way
RECOVERY_S = 5.0  # beyond the engine's own start time
MAX_QUEUE = 32
_AT_ONCE = 6


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="default: 10")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between events, on average (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--clients", type=int, default=8, help="default: 8")
    parser.add_argument("--strategy", choices=("scale_api", "per_request"), default="scale_api")
    serving.engine_options(parser)
    sys.exit(asyncio.run(measure(parser.parse_args())))


async def measure(given: argparse.Namespace) -> int:
    experts = serving.load_experts(given.experts)
    binary, admin_key, dice = serving.chosen_binary(given), secrets.token_hex(8), random.Random(given.seed)
    started = time.monotonic()
    with serving.engine(experts, binary=binary):
        start_s = time.monotonic() - started
    print(f"the engine's own start: {start_s:.1f} s; seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder), experts)
        settings = {
            "engine": {"kind": given.engine, "port": serving.free_port("127.0.0.1"), "ctx_per_slot": 2048},
            "experts": {"dir": str(shelf.directory)},
            "scheduler": {"strategy": given.strategy, "max_queue": MAX_QUEUE, "queue_timeout_s": QUEUE_S},
            "limits": {"request_timeout_s": REQUEST_S, "keep_alive_s": 3.0},
        }
        if binary is not None:
            settings["engine"]["binary"] = binary
        with serving.gateway_process(settings, {"GATEWAY_ADMIN_KEY": admin_key}) as gateway:
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                client = Client(gateway.url, shelf, {e.name: e.manifest.targets[0].term for e in experts}, LIMIT_S)
                victim = dice.choice([expert.name for expert in experts])
                chaos = Chaos(
                    client,
                    session,
                    shelf,
                    questions := [],
                    admin_key=admin_key,
                    burst=MAX_QUEUE + 30,
                    victim=victim,
                    dice=dice,
                )
                questions += await prepare(client, chaos, session, shelf, experts)
                held = Held(gateway.pid, chaos.status)
                await held.rest()
                before = await held.footprint()
                await rage(client, chaos, session, questions, given, dice)
                at_rest = await held.rest()
                after = await held.settled(before)
                log = gateway.log.read_text(errors="replace")
    return report(given, start_s, client, chaos, before, after, at_rest, log)


async def prepare(
    client: Client, chaos: Chaos, session: aiohttp.ClientSession, shelf: Shelf, experts: Sequence[Expert]
) -> list[str]:
    """Learn the cold answers of both versions of every expert; returns the questions that tell them all apart."""
    names = [expert.name for expert in experts]
    asked = [question for expert in experts for question in some_questions(expert)]
    await client.learn(session, asked, [BASE, *names])
    questions = client.telling(asked)
    print(f"{len(questions)} of {len(asked)} questions tell all experts from each other", flush=True)
    if len(questions) < 4:
        raise RuntimeError(f"only {len(questions)} of {len(asked)} questions tell the experts from each other")
    for version in (2, 1):
        for name in names:
            shelf.publish(name, version)
        print(f"version {version}:", await chaos.reload(), flush=True)
        if version == 2:
            await client.learn(session, questions, names)
    return questions


def some_questions(expert: Expert, count: int = 3) -> list[str]:
    lines = (expert.directory / expert.manifest.questions.file).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines[:: max(1, len(lines) // count)]][:count]


async def rage(
    client: Client,
    chaos: Chaos,
    session: aiohttp.ClientSession,
    questions: Sequence[str],
    given: argparse.Namespace,
    dice: random.Random,
) -> None:
    """Load, and the events in a shuffled order, each as often as the others."""
    load = [asyncio.ensure_future(client.work(session, questions, given.seed * 1000 + n)) for n in range(given.clients)]
    until, coming = time.monotonic() + 60 * given.minutes, []
    running: set[asyncio.Future[None]] = set()
    while time.monotonic() < until:
        await asyncio.sleep(dice.uniform(0.5, 1.5) * given.every)
        running = {event for event in running if not event.done()}
        if len(running) >= _AT_ONCE:  # events of one lane wait for each other: do not pile them up
            continue
        coming = coming or dice.sample(chaos.events, len(chaos.events))
        running.add(asyncio.ensure_future(chaos.run(coming.pop())))
        for worker in (worker for worker in load if worker.done()):
            worker.result()
    if running:
        await asyncio.wait(running, timeout=200)
    for worker in load:
        worker.cancel()
    await asyncio.gather(*load, return_exceptions=True)


def report(
    given: argparse.Namespace,
    start_s: float,
    client: Client,
    chaos: Chaos,
    before: Footprint,
    after: Footprint,
    at_rest: bool,
    log: str,
) -> int:
    tally, leaked = client.tally, after.leaked(before)
    serving.print_table(["event", "outcome", "times"], [[*key, n] for key, n in sorted(chaos.outcomes.items())])
    serving.print_table(["request", "times"], sorted(tally.outcomes.items()))
    rows = []
    for event in ("kill engine", "hang engine"):
        found = [recovery for recovery in chaos.recoveries if recovery.event == event]
        for what in ("noticed_s", "back_s"):
            values = [getattr(recovery, what) for recovery in found]
            rows.append([f"{event}, {what}", len(values), serving.percentile(values, 0.5), max(values, default=0.0)])
    serving.print_table(["recovery", "times", "p50", "max"], rows)
    serving.print_table(["held", "before", "after"], [[n, v, getattr(after, n)] for n, v in vars(before).items()])
    for fault in tally.faults[:20]:
        print("FAULT", fault)
    unexpected = [line for line in log.splitlines() if "Traceback" in line or "unexpected failure" in line]
    back_s = max((recovery.noticed_s + recovery.back_s for recovery in chaos.recoveries), default=0.0)
    reached = {
        "no_fault": not tally.faults,
        "recovered_in_time": back_s <= start_s + RECOVERY_S,
        "nothing_leaked": at_rest and not leaked,
        "no_traceback": not unexpected,
    }
    facts: dict[str, Any] = {
        "engine": given.engine,
        "strategy": given.strategy,
        "seed": given.seed,
        "minutes": given.minutes,
        "events": sum(chaos.outcomes.values()),
        "requests": sum(tally.outcomes.values()),
        "answered": tally.outcomes["answered"],
        "faults": len(tally.faults),
        "largest_distance": round(max(tally.distances, default=0.0), 3),
        "longest_request_s": round(tally.longest_s, 1),
        "limit_s": LIMIT_S,
        "engine_start_s": round(start_s, 2),
        "recovery_max_s": round(back_s, 2),
        "ratio": round(back_s / start_s, 2),
        "leaked": leaked,
        **reached,
    }
    if unexpected or tally.faults:
        print(log[-6000:])
    serving.finish("chaos", **facts)
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    main()
