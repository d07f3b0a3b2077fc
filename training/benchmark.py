"""Measure experts against their base in the real engine: `pointsman benchmark`.

Owns the results directory and the order of the steps. Asking is `asking`, judging `summary`, drawing `report`.

    answers.jsonl   every answer as it was given; what is here is not asked again on resume
    settings.json   what is measured, with hashes; a resume that would measure something else is refused
    routing.json    where the router sends each question
    vanilla.log, lora.log, report.html, and last summary.json
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.base import default_cache_dir
from gateway.errors import GatewayError
from gateway.routing import RouterFactory
from router import Embedder, EmbeddingError
from training.answers import ANSWERS_FILE, AnswerLog, Side, write_log
from training.asking import EngineOptions, Plan, ask_all
from training.benchmark_settings import SETTINGS_FILE, BenchmarkOptions, describe_settings, difference, read_settings
from training.dataset import normalise
from training.errors import BenchmarkError
from training.files import read_json, write_json, write_text
from training.novelty import Novelty, measure_novelty
from training.provenance import describe_machine, describe_software
from training.report import render_report
from training.routed import ENCODER, OUT_OF_SCOPE_FILE, Routing, decide_routes, gather_source, router_factory
from training.subjects import Subject, load_subjects, load_texts
from training.summary import summarise

__all__ = ["BenchmarkOptions", "Benchmarked", "benchmark"]

ROUTING_FILE, SUMMARY_FILE, REPORT_FILE = "routing.json", "summary.json", "report.html"
UNRELATED_FILE = "unrelated.jsonl"


@dataclass(frozen=True)
class Benchmarked:
    """Where the results lie, and what they say."""

    folder: Path
    summary: dict[str, Any]


def benchmark(
    experts: Sequence[str] = (),
    options: BenchmarkOptions | None = None,
    engine: EngineOptions | None = None,
    *,
    experts_dir: Path = Path("experts"),
    results_dir: Path = Path("results"),
    out_of_scope: Path | None = None,
    unrelated_file: Path | None = None,
    base: str | None = None,
    encoder: str = ENCODER,
    cache_dir: Path | None = None,
    resume: Path | None = None,
    command: str = "training.benchmark.benchmark(…)",
) -> Benchmarked:
    """Measure experts and write their results.

    Args:
        experts: names in `experts_dir`, or directories of converted runs; none means all that are published.
        out_of_scope: what the router is fitted on besides the examples; default: out_of_scope.jsonl in `experts_dir`.
        unrelated_file: unrelated questions; the rows without "near" count. Default: unrelated.jsonl in `experts_dir`,
            which no router is fitted on, else `out_of_scope`.
        resume: a results directory to go on with; its experts and options are used.

    Raises:
        BenchmarkError, DatasetError, SetupError: a mistake in what a person wrote; nothing has been asked.
        MeasureError: the engine failed; what was answered is kept for a resume.
    """
    options, engine = options or BenchmarkOptions(), engine or EngineOptions()
    if resume is not None:
        experts, options = read_settings(resume)
    options.check()
    cache = cache_dir or default_cache_dir()
    served, subjects = load_subjects(experts, experts_dir=experts_dir, base=base, cache_dir=cache)
    subjects = [_limited(subject, options.limit) for subject in subjects]
    negatives = load_texts(out_of_scope or experts_dir / OUT_OF_SCOPE_FILE)
    held_out = unrelated_file or experts_dir / UNRELATED_FILE
    unrelated = _choose(load_texts(held_out) if unrelated_file or held_out.is_file() else negatives, options)
    plan = Plan(subjects, unrelated, options.repeats, options.parallel_jobs, options.speed)
    settings = describe_settings(experts, options, subjects, unrelated, served)
    folder = resume or _fresh(results_dir)
    if resume is None:
        write_json(folder / SETTINGS_FILE, settings)
    elif settings != read_json(folder / SETTINGS_FILE):
        raise BenchmarkError(difference(folder, settings))
    engine.check_ports(speed=options.speed)

    warnings: list[str] = []
    factory = router_factory(encoder, cache)
    encodes = _open_encoder(factory, warnings)
    routing = None
    if options.route and encodes:
        routing = _routing(folder, subjects, experts_dir, [text for text, _ in negatives], factory, unrelated)
    embedder = factory.bulk(factory.open_encoder(encoder)) if encodes else None
    novelty = {subject.name: _novelty(subject, embedder) for subject in subjects}
    log = AnswerLog(folder / ANSWERS_FILE)
    ask_all(plan, served.path, log, engine, max_tokens=options.max_tokens)

    summary = {
        "format": 1,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "software": describe_software(),
        "machine": describe_machine(engine.threads),
        "base": subjects[0].base.model_dump(),
        "options": asdict(options),
        "warnings": warnings + _warn(options, subjects, unrelated),
        **summarise(plan, log, routing, novelty),
    }
    _write(folder, summary, log)
    return Benchmarked(folder, summary)


def _write(folder: Path, summary: dict[str, Any], log: AnswerLog) -> None:
    """Write what people read; the summary last, so that its presence proves the rest."""
    records = list(log.records.values())
    write_log(folder / "vanilla.log", (record for record in records if record.side is not Side.EXPERT))
    write_log(folder / "lora.log", (record for record in records if record.side is Side.EXPERT))
    write_text(folder / REPORT_FILE, render_report(summary))
    write_json(folder / SUMMARY_FILE, summary)


def _fresh(results_dir: Path) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    while True:
        folder = results_dir / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _limited(subject: Subject, limit: int | None) -> Subject:
    return replace(subject, questions=tuple(dict.fromkeys(subject.questions))[:limit])


def _choose(texts: Sequence[tuple[str, str | None]], options: BenchmarkOptions) -> list[str]:
    """Draw the unrelated questions; the draw depends on the seed and the file alone."""
    far = list(dict.fromkeys(text for text, near in texts if near is None))
    count = min(options.unrelated, options.limit or options.unrelated, len(far))
    return random.Random(options.seed).sample(far, count)


def _open_encoder(factory: RouterFactory, warnings: list[str]) -> bool:
    try:
        factory.open_encoder(factory.encoder)
    except GatewayError as error:
        warnings.append(f"no router figures and no cosines: {error.message}")
        return False
    return True


def _novelty(subject: Subject, embedder: Embedder | None) -> dict[str, Novelty]:
    try:
        return measure_novelty(subject.questions, subject.rows, embedder)
    except EmbeddingError as error:
        raise BenchmarkError(f"{subject.name}: the encoder failed: {error}") from error


def _routing(
    folder: Path,
    subjects: Sequence[Subject],
    experts_dir: Path,
    negatives: Sequence[str],
    factory: RouterFactory,
    unrelated: Sequence[str],
) -> Routing:
    """Decide by a router over every published expert and every measured one; kept for a resume."""
    path = folder / ROUTING_FILE
    if path.is_file():
        return Routing(**read_json(path))
    source = gather_source(factory, subjects, experts_dir, negatives)
    own = [question for subject in subjects for question in subject.questions]
    routing = decide_routes(factory, source, own=own, unrelated=unrelated)
    write_json(path, asdict(routing))
    return routing


def _warn(options: BenchmarkOptions, subjects: Sequence[Subject], unrelated: Sequence[str]) -> list[str]:
    warnings = []
    if options.limit is not None:
        warnings.append(f"limited to {options.limit} questions each: a trial, not a result")
    if options.parallel_jobs > 1:
        warnings.append(f"{options.parallel_jobs} questions at once: answers may depend on their neighbours")
    if len(unrelated) < options.unrelated:
        warnings.append(f"{len(unrelated)} unrelated questions, {options.unrelated} were asked for")
    taught = {normalise(row.prompt) for subject in subjects for row in subject.rows}
    if known := [question for question in unrelated if normalise(question) in taught]:
        warnings.append(f"{len(known)} unrelated questions stand in training rows")
    return warnings
