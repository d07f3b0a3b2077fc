"""Which scheduling policy? Tried in simulated time, on an engine's assumed step times (``engine_model.py``).

Traces: closed loops of 8 and 16 clients over four experts, evenly and by Zipf, answers of one length and of
exponentially distributed lengths; bursts of single questions and conversations with pauses; and, with ``--log FILE``,
what a gateway wrote there with ``log.format: json`` (times, experts, tokens; which requests belong to a conversation is
not in a log).

For each policy: tokens/s as a share of what the same requests reach sorted by expert, waits, swaps, and the share of
returning conversations' tokens found in KV. The last line's ``ratio`` is the default policy's least share in the closed
loops.

    python benchmarks/policy.py [--answers 96] [--log FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import serving
from engine_model import Engine, EngineSimulator, Job

from gateway.pace import Pace
from gateway.scheduler import Scheduler

EXPERTS = "abcd"
_TOKENS = 48


@dataclass(frozen=True)
class Policy:
    """What can be chosen."""

    name: str
    answers: float = 4.0
    most_s: float = 10.0
    at_once: int = 4
    slots: int = 16
    unified: bool = False


POLICIES = (
    Policy("default"),
    Policy("quantum 2 s, fixed", answers=0, most_s=2.0),
    Policy("quantum 1 answer", answers=1),
    Policy("quantum 2 answers", answers=2),
    Policy("quantum 8 answers", answers=8, most_s=30.0),
    Policy("4 slots", slots=4),
    Policy("8 slots", slots=8),
    Policy("16 slots, one pool of KV", unified=True),
    Policy("4 slots, one pool of KV", slots=4, unified=True),
    Policy("8 at once, 16 slots", at_once=8),
    Policy("8 at once, 32 slots", at_once=8, slots=32),
)


@dataclass
class World(EngineSimulator):
    """Plays a trace: arrivals at their times, and, closed loop, each client's next request when one has ended."""

    follow_up: Callable[[int], tuple[float, Job] | None] = lambda request_id: None

    def at(self, seconds: float, job: Job) -> None:
        self._later(seconds - self.now, "arrive", job)

    def _happen(self, kind: str, facts: tuple[object, ...]) -> None:
        if kind == "arrive":
            (job,) = facts
            assert isinstance(job, Job)
            self.arrive(job)
        else:
            super()._happen(kind, facts)

    def _end(self, request_id: int, how: str) -> None:
        super()._end(request_id, how)
        following = self.follow_up(request_id)
        if following is not None:
            pause_s, job = following
            self.at(self.now + pause_s, job)

    def play(self) -> None:
        while True:
            wake = self.scheduler.next_event_s(self.now)
            times = [t for t in (wake, self._coming[0][0] if self._coming else None) if t is not None]
            if not times:
                return
            self.run_until(min(times))


@dataclass(frozen=True)
class Trace:
    """``jobs`` in order, asked by ``clients`` one after another; or at their ``times``."""

    name: str
    jobs: tuple[Job, ...]
    clients: int = 0
    times: tuple[float, ...] = field(default=())


def world(policy: Policy) -> World:
    scheduler = Scheduler(pace=Pace(policy.most_s, policy.answers), max_queue=100_000, max_queue_per_client=100_000)
    made = World(scheduler, swap_s=0.005, engine=Engine(unified=policy.unified))
    made.up("b0", policy.slots, frozenset(EXPERTS), policy.at_once)
    return made


def play(trace: Trace, policy: Policy) -> World:
    made = world(policy)
    if trace.times:
        for seconds, job in zip(trace.times, trace.jobs, strict=True):
            made.at(seconds, job)
    else:
        coming = iter(trace.jobs)

        def follow_up(request_id: int) -> tuple[float, Job] | None:
            job = next(coming, None)
            return None if job is None else (0.004, job)  # a client's way through the network and back

        made.follow_up = follow_up
        for job in [next(coming) for _ in range(trace.clients)]:
            made.at(0.0, job)
    made.play()
    return made


# -- traces -------------------------------------------------------------------------------------------------------


def closed_loops(answers: int) -> Iterator[Trace]:
    lengths: dict[str, Callable[[random.Random], int]] = {
        "even": lambda rng: _TOKENS,
        "varied": lambda rng: max(4, min(200, int(rng.expovariate(1 / _TOKENS)))),
    }
    for clients in (8, 16):
        for mix, weights in (("uniform", [1.0] * 4), ("zipf", [1 / (rank + 1) for rank in range(4)])):
            for length, draw in lengths.items():
                rng = random.Random(f"{clients} {mix} {length}")
                drawn = rng.choices(EXPERTS, weights, k=answers)
                jobs = tuple(Job(expert, 0.0, tokens=draw(rng)) for expert in drawn)
                yield Trace(f"{clients} clients, {mix}, {length}", jobs, clients)


def bursts(answers: int) -> Trace:
    """Three questions every two seconds on average, in bursts, beside eight conversations that pause between turns."""
    rng = random.Random(1)
    times, jobs, now = [], [], 0.0
    while len(jobs) < answers:
        now += rng.expovariate(0.25)
        expert = rng.choice(EXPERTS)
        for _ in range(min(rng.randint(1, 8), answers - len(jobs))):
            times.append(now + rng.uniform(0.0, 0.5))
            jobs.append(Job(expert, 0.0, tokens=rng.choice([8, 24, 48, 96])))
    for talk in range(8):
        at, known = rng.uniform(0.0, 10.0), 0
        while at < now:
            reads = known + 40
            jobs.append(
                Job(EXPERTS[talk % 4], 0.0, conversation=f"talk {talk}", prompt_tokens=reads, reusable=known, tokens=32)
            )
            times.append(at)
            known = min(1500, reads + 32)
            at += rng.uniform(8.0, 20.0)
    return Trace("bursts and conversations", tuple(jobs), times=tuple(times))


def recorded(path: Path) -> Trace:
    """The requests of a gateway's JSON log, as they came; their experts in order of their share."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    rows = [row for row in rows if row.get("message") == "request" and row.get("completion_tokens")]
    began = [datetime.fromisoformat(row["time"]).timestamp() - row["seconds"] for row in rows]
    names = sorted({row["expert"] for row in rows}, key=lambda name: -sum(row["expert"] == name for row in rows))
    experts = {name: EXPERTS[rank % len(EXPERTS)] for rank, name in enumerate(names)}
    jobs = tuple(
        Job(experts[r["expert"]], 0.0, prompt_tokens=max(2, r["prompt_tokens"]), tokens=r["completion_tokens"])
        for r in rows
    )
    return Trace(path.name, jobs, times=tuple(second - min(began) for second in began))


# -- results ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--answers", type=int, default=96, help="of each trace")
    parser.add_argument("--log", type=Path, help="replay a gateway's JSON log too")
    given = parser.parse_args()
    closed = list(closed_loops(given.answers))
    timed = [bursts(given.answers), *([recorded(given.log)] if given.log else [])]
    ceilings = {trace.name: tokens_s(play(ordered(trace), POLICIES[0])) for trace in closed}
    rows, shares = [], {}
    for policy in POLICIES:
        worlds = {trace.name: play(trace, policy) for trace in closed}
        share = {name: tokens_s(made) / ceilings[name] for name, made in worlds.items()}
        shares[policy.name] = share
        waits = [wait for made in worlds.values() for _, wait in made.placed_waits]
        swaps = sum(made.swaps for made in worlds.values())
        row = [policy.name, *(mean(share, word) for word in ("even", "varied")), *percentiles(waits), swaps]
        for trace in timed:
            made = play(trace, policy)
            row += [percentiles([wait for _, wait in made.placed_waits])[1], reuse(made)]
        rows.append(row)
    header = ["policy", "even lengths", "varied lengths", "wait p50, s", "p95", "max", "swaps"]
    for trace in timed:
        header += [f"{trace.name}: wait p95, s", "KV reused"]
    serving.print_table(header, rows)
    even = {name: share for name, share in shares["default"].items() if name.endswith("even")}
    serving.finish("policy", simulated=True, ratio=round(min(even.values()), 3), shares=rounded(shares["default"]))


def ordered(trace: Trace) -> Trace:
    """The same requests, sorted by expert."""
    return Trace(trace.name, tuple(sorted(trace.jobs, key=lambda job: job.expert)), trace.clients)


def tokens_s(made: World) -> float:
    return made.decoded_tokens / made.now


def reuse(made: World) -> float | str:
    return made.reused_tokens / made.reusable_tokens if made.reusable_tokens else ""


def mean(share: dict[str, float], word: str) -> float:
    return statistics.mean(value for name, value in share.items() if name.endswith(word))


def percentiles(waits: Sequence[float]) -> list[float]:
    return [serving.percentile(waits, share) for share in (0.5, 0.95, 1.0)]


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    main()
