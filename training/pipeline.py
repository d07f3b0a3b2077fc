"""The steps of an expert, one after the other: train, convert and check, measure, publish.

Owns the order only; each step is its module's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gateway.experts import Manifest
from training.convert import convert
from training.convert_checks import check_run, failed_checks, read_checks
from training.measure import measure_run
from training.publish import publish
from training.run import Run, State
from training.trainer import train

__all__ = ["build", "finish"]


def build(
    recipe_path: Path,
    experts: Iterable[str],
    *,
    experts_path: Path,
    experts_dir: Path,
    runs_dir: Path,
    cache_dir: Path | None = None,
) -> list[Manifest]:
    """Build and publish experts, one after the other; the first failure ends it."""
    manifests = []
    for expert in experts:
        run = train(recipe_path, expert=expert, experts_path=experts_path, runs_dir=runs_dir, cache_dir=cache_dir)
        manifests.append(finish(run.folder, experts_dir=experts_dir, cache_dir=cache_dir))
    return manifests


def finish(run_dir: Path, *, experts_dir: Path, cache_dir: Path | None = None) -> Manifest:
    """Do the steps that a trained run still lacks, and publish it; the first failed check ends it."""
    run = Run.open(run_dir)
    if run.state() is State.TRAINED or failed_checks(run):
        convert(run_dir, cache_dir=cache_dir)
    elif read_checks(run) is None:
        check_run(run_dir)
    if run.state() is State.CONVERTED:
        measure_run(run_dir)
    return publish(run_dir, experts_dir=experts_dir)
