"""Which run a pipeline is working on for each expert, so that the same command goes on where it was stopped.

Owns one small file beside the runs, for each recipe. How far a run has come is the run's own to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from training.files import read_json, write_json
from training.run import Run

__all__ = ["Journal"]


class Journal:
    """The unfinished work with one recipe."""

    def __init__(self, runs_dir: Path, recipe_path: Path) -> None:
        self._runs_dir = runs_dir
        self._path = runs_dir / f".pipeline-{recipe_path.stem}.json"

    def run_of(self, expert: str) -> Run | None:
        """Return the run begun for an expert; None when there is none, or it was killed before it began."""
        name = self._read().get(expert)
        run = Run(self._runs_dir.resolve() / name) if name else None
        return run if run is not None and run.facts_path.is_file() and run.status_path.is_file() else None

    def record(self, expert: str, run: Run) -> None:
        """Remember an expert's run from now on."""
        write_json(self._path, self._read() | {expert: run.folder.name})

    def forget(self, experts: Iterable[str]) -> None:
        """Forget finished work, or work that is to begin anew."""
        gone = set(experts)
        kept = {expert: name for expert, name in self._read().items() if expert not in gone}
        if kept:
            write_json(self._path, kept)
        else:
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, str]:
        entries: dict[str, str] = read_json(self._path) if self._path.is_file() else {}
        return entries
