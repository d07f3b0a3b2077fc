"""From data to served experts: check, train, convert, measure, publish, serve; each step resumable.

Owns the order and what is done already; each step is its module's. Killed anywhere, the same command goes on: the
journal knows the run, the run knows how far it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.base import default_cache_dir
from gateway.experts import Manifest
from training.convert import convert
from training.convert_checks import check_run, failed_checks, read_checks
from training.display import Display
from training.errors import TrainingError
from training.journal import Journal
from training.measure import measure_run
from training.plan import render_plan
from training.prepare import prepare
from training.publish import MINIMUM_HIT_RATE, publish
from training.reload import reload_gateway
from training.resume import changes_since, listed, resume
from training.routed import route_own
from training.run import Run, State
from training.trainer import create_run

__all__ = ["STEPS", "Places", "pipeline"]

STEPS = ("check", "train", "convert", "measure", "publish")


@dataclass(frozen=True)
class Places:
    """Where things lie, and which gateway is told."""

    experts_path: Path
    experts_dir: Path
    runs_dir: Path
    cache_dir: Path | None = None
    gateway: str | None = None
    threads: int | None = None
    """Of the engine that checks and asks; None is one for each core."""


def pipeline(
    recipe_path: Path,
    experts: Iterable[str],
    places: Places,
    *,
    restart: bool = False,
    as_begun: bool = False,
    minimum_hit_rate: float = MINIMUM_HIT_RATE,
) -> list[Manifest]:
    """Build experts and publish them, one after the other; the first failure ends it, the same call goes on with it.

    Args:
        restart: begin anew, whatever an earlier call left unfinished.
        as_begun: go on with what unfinished runs began with, whatever was edited since.

    Raises:
        TrainingError: as the steps do; also when data or settings changed since an unfinished run began.
    """
    names = list(experts)
    journal = Journal(places.runs_dir, recipe_path)
    if restart:
        journal.forget(names)
    manifests = []
    with Display(names, STEPS) as display:
        for expert in names:
            display.begin(expert)
            run = _run_of(expert, recipe_path, places, journal, display, as_begun=as_begun)
            manifests.append(_finish(run, places, display, minimum_hit_rate=minimum_hit_rate, as_begun=as_begun))
        if places.gateway:
            display.say(reload_gateway(places.gateway, places.cache_dir or default_cache_dir(), names))
    journal.forget(names)
    return manifests


def _run_of(
    expert: str, recipe_path: Path, places: Places, journal: Journal, display: Display, *, as_begun: bool
) -> Run:
    """Return the run that was begun for an expert, or begin one."""
    run = journal.run_of(expert)
    if run is None:
        with display.step("check"):
            prepared = prepare(recipe_path, expert=expert, experts_path=places.experts_path, cache_dir=places.cache_dir)
            display.say(render_plan(prepared.plan))
            run = create_run(prepared, places.runs_dir)
            journal.record(expert, run)
        return run
    changes = [] if as_begun else changes_since(run)
    if changes:
        raise TrainingError(
            f"{run.folder.name} was begun and is {run.state().value}, but this changed since: {listed(changes)}; "
            "begin anew with --restart, or go on with what it began with: --as-begun"
        )
    display.done("check", f"going on with {run.folder.name}, which is {run.state().value}")
    return run


def _finish(run: Run, places: Places, display: Display, *, minimum_hit_rate: float, as_begun: bool) -> Manifest:
    """Do what a run still lacks, in order."""
    if not failed_checks(run):
        with display.step("train"):
            resume(run.folder, as_begun=as_begun)
    with display.step("convert"):
        if run.state() is State.TRAINED or failed_checks(run):
            convert(run.folder, cache_dir=places.cache_dir, threads=places.threads)
        elif read_checks(run) is None:
            check_run(run.folder, threads=places.threads)
    with display.step("measure"):
        if run.state() is State.CONVERTED:
            measured = measure_run(run.folder, threads=places.threads)
            display.say(f"{run.folder.name}: {measured.rate('expert')}")
        cache_dir = places.cache_dir or default_cache_dir()
        display.say(route_own(run.folder, experts_dir=places.experts_dir, cache_dir=cache_dir))
    with display.step("publish"):
        return publish(run.folder, experts_dir=places.experts_dir, minimum_hit_rate=minimum_hit_rate)
