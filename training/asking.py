"""Put every question of a benchmark to the engine, once.

Owns the order of the work and which process answers what: vanilla answers come from a server that never loaded an
adapter, each expert has a server of its own, repeats come from a fresh one with a single slot. Answers that stand in
the log are not asked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gateway.process import port_is_free
from training.answers import AnswerLog, Asked, Record, Side
from training.engine import HOST, Engine
from training.errors import BenchmarkError
from training.subjects import Subject

__all__ = ["SPEED_ROUNDS", "SPEED_TOKENS", "WARM_UP_ROUNDS", "EngineOptions", "Job", "Plan", "ask_all"]

SPEED_ROUNDS = 12
WARM_UP_ROUNDS = 2
SPEED_TOKENS = 64
SPEED_QUESTIONS = 10


@dataclass(frozen=True)
class EngineOptions:
    """How the servers are started. A second one, at port + 1, runs while speed is measured."""

    port: int = 8081
    wait_s: float = 90.0
    threads: int | None = None

    def check_ports(self, *, speed: bool) -> None:
        """Refuse a port in use before anything is asked.

        Raises:
            BenchmarkError: names the port.
        """
        for port in (self.port, self.port + 1)[: 2 if speed else 1]:
            if not port_is_free(HOST, port):
                raise BenchmarkError(f"port {port} is in use on {HOST}: stop what uses it, or choose another --port")


@dataclass(frozen=True)
class Job:
    """One question to one side."""

    side: Side
    asked: Asked
    expert: str
    question: str
    repeat: int = 0
    scale: float = 0.0
    system_prompt: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """The key of the record that it makes."""
        return (self.side, self.asked, self.expert, self.repeat, self.question)


@dataclass(frozen=True)
class Plan:
    """Everything that is asked, grouped by the process that answers."""

    subjects: Sequence[Subject]
    unrelated: Sequence[str]
    repeats: int
    parallel_jobs: int
    speed: bool

    @property
    def repeat_numbers(self) -> range:
        """The passes that are compared: with one slot the first is the measured one, else all are extra."""
        first = 0 if self.parallel_jobs == 1 else 1
        return range(first, first + self.repeats)

    def vanilla(self) -> list[Job]:
        """For the server without adapters."""
        jobs = [Job(Side.VANILLA, Asked.UNRELATED, "", question) for question in self.unrelated]
        for subject in self.subjects:
            jobs += [Job(Side.VANILLA, Asked.OWN, subject.name, question) for question in subject.questions]
            prompt = subject.recommendation
            jobs += [
                Job(Side.PROMPTED, Asked.OWN, subject.name, question, system_prompt=prompt)
                for question in subject.questions
            ]
        return jobs

    def expert(self, subject: Subject) -> list[Job]:
        """For the server with one expert's adapter."""
        return [
            *self._expert_jobs(subject, Asked.OWN, subject.questions, 0),
            *self._expert_jobs(subject, Asked.UNRELATED, self.unrelated, 0),
        ]

    def repeated(self, subject: Subject) -> list[Job]:
        """For a fresh server with one slot; every other pass goes backwards, so that neighbours differ."""
        jobs = []
        for number in self.repeat_numbers:
            if number:
                jobs += self._expert_jobs(subject, Asked.OWN, subject.questions[:: -1 if number % 2 else 1], number)
        return jobs

    def timed(self, subject: Subject) -> list[tuple[Job, Job]]:
        """The same long prompt for vanilla and expert, one right after the other."""
        if not self.speed:
            return []
        pairs = []
        for number in range(SPEED_ROUNDS):
            start = number * SPEED_QUESTIONS
            chosen = [subject.questions[(start + i) % len(subject.questions)] for i in range(SPEED_QUESTIONS)]
            prompt = " ".join(chosen)
            fields = {"ignore_eos": True, "max_tokens": SPEED_TOKENS}
            vanilla = Job(Side.VANILLA, Asked.SPEED, subject.name, prompt, number, fields=fields)
            expert = Job(Side.EXPERT, Asked.SPEED, subject.name, prompt, number, subject.scale, fields=fields)
            pairs.append((vanilla, expert))
        return pairs

    def _expert_jobs(self, subject: Subject, asked: Asked, questions: Iterable[str], number: int) -> list[Job]:
        return [
            Job(Side.EXPERT, asked, subject.name, question, number, subject.scale, subject.system_prompt)
            for question in questions
        ]


def ask_all(plan: Plan, model: Path, log: AnswerLog, options: EngineOptions, *, max_tokens: int) -> None:
    """Ask what the log lacks, with a progress bar.

    Raises:
        MeasureError: an engine does not start or does not answer; what was answered stays in the log.
    """
    # Repeats last: they are the most, and tell the least when a benchmark is stopped early.
    groups: list[tuple[tuple[Path, ...], list[Job], int]] = [
        *(((subject.adapter,), plan.expert(subject), plan.parallel_jobs) for subject in plan.subjects),
        ((), plan.vanilla(), plan.parallel_jobs),
        *(((subject.adapter,), plan.repeated(subject), 1) for subject in plan.subjects),
    ]
    timed = [(subject, plan.timed(subject)) for subject in plan.subjects]
    total = sum(len(jobs) for _, jobs, _ in groups) + sum(2 * len(pairs) for _, pairs in timed)
    with tqdm(total=total, unit="answer", desc="benchmark", smoothing=0.05) as bar:
        for adapters, jobs, slots in groups:
            missing = [job for job in jobs if job.key not in log.records]
            bar.update(len(jobs) - len(missing))
            if missing:
                bar.set_postfix_str(f"{missing[0].expert or 'unrelated'} {missing[0].side}")
                with _engine(model, adapters, options, options.port, slots) as engine:
                    _ask(engine, missing, log, bar, max_tokens, slots)
        for subject, pairs in timed:
            if all(job.key in log.records for pair in pairs for job in pair):
                bar.update(2 * len(pairs))
                continue
            bar.set_postfix_str(f"{subject.name} speed")
            with (
                _engine(model, (), options, options.port, 1) as vanilla,
                _engine(model, (subject.adapter,), options, options.port + 1, 1) as expert,
            ):
                # Started again after an interruption too: the first rounds are the warm-up.
                for first, second in pairs:
                    _ask(vanilla, [first], log, bar, max_tokens, 1)
                    _ask(expert, [second], log, bar, max_tokens, 1)


def _engine(model: Path, adapters: tuple[Path, ...], options: EngineOptions, port: int, slots: int) -> Engine:
    return Engine(model, adapters, threads=options.threads, slots=slots, port=port, start_timeout_s=options.wait_s)


def _ask(engine: Engine, jobs: Sequence[Job], log: AnswerLog, bar: tqdm[Any], max_tokens: int, slots: int) -> None:
    def ask(job: Job) -> None:
        fields = {"max_tokens": max_tokens, **job.fields}
        answer = engine.ask(job.question, scale=job.scale, system_prompt=job.system_prompt, **fields)
        log.add(Record(job.side, job.asked, job.expert, job.repeat, job.question, answer))
        bar.update()

    if slots == 1:
        for job in jobs:
            ask(job)
        return
    with ThreadPoolExecutor(slots) as pool:
        futures = [pool.submit(ask, job) for job in jobs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
