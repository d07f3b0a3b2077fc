"""A run: one execution of a recipe, in one fresh directory with everything needed to repeat it.

Owns the directory's layout and its status; knows nothing of LlamaFactory.

    recipe.yaml       the recipe as it stood             dataset/         the rows, as LlamaFactory reads them
    run.json          expert, base, hashes, plan         config.json      LlamaFactory's options, rendered
    status.json       state now                          log.txt          everything the child wrote
    progress.jsonl    one line a step                    loss.png         the loss over the steps
    adapter/          PEFT adapter, checkpoints          adapter.gguf     converted adapter
    checks.json       parity and template                measurement.json answers and hit rate
    dataset.json, questions.jsonl, examples.jsonl, anchors.json      as they stood when the run began
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.files import read_json, write_json

__all__ = ["Run", "State"]


class State(StrEnum):
    """How far a run has come."""

    PREPARING = "preparing"
    TRAINING = "training"
    STOPPED = "stopped"
    FAILED = "failed"
    TRAINED = "trained"
    CONVERTED = "converted"
    MEASURED = "measured"
    PUBLISHED = "published"


@dataclass(frozen=True)
class Run:
    """The paths in one run's directory."""

    folder: Path

    @classmethod
    def create(cls, runs_dir: Path, expert: str) -> Run:
        """Make a fresh directory, named by expert and time (UTC)."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        number = 1
        while True:
            folder = (runs_dir / f"{expert}-{stamp}{'' if number == 1 else f'-{number}'}").resolve()
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                run = cls(folder)
                run.set_state(State.PREPARING)
                return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open an existing run.

        Raises:
            TrainingError: the folder is not a run.
        """
        run = cls(folder.resolve())
        if not run.status_path.is_file():
            raise TrainingError(f"{folder}: not a run: it has no status.json")
        return run

    @property
    def recipe_path(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def facts_path(self) -> Path:
        return self.folder / "run.json"

    @property
    def status_path(self) -> Path:
        return self.folder / "status.json"

    @property
    def dataset_dir(self) -> Path:
        return self.folder / "dataset"

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"

    @property
    def log_path(self) -> Path:
        return self.folder / "log.txt"

    @property
    def progress_path(self) -> Path:
        return self.folder / "progress.jsonl"

    @property
    def adapter_dir(self) -> Path:
        return self.folder / "adapter"

    @property
    def gguf_path(self) -> Path:
        return self.folder / "adapter.gguf"

    @property
    def outcome_path(self) -> Path:
        return self.folder / "outcome.json"

    @property
    def loss_plot_path(self) -> Path:
        return self.folder / "loss.png"

    @property
    def measurement_path(self) -> Path:
        return self.folder / "measurement.json"

    def set_state(self, state: State, message: str = "") -> None:
        """Record how far the run has come; atomic, so that a page may poll the file."""
        updated = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.status_path, {"state": state.value, "message": message, "updated": updated})

    def state(self) -> State:
        """Return how far the run has come."""
        return State(read_json(self.status_path)["state"])

    def require(self, *states: State) -> None:
        """Refuse a step whose predecessor has not been done.

        Raises:
            TrainingError: the run is in another state; names it and those allowed.
        """
        state = self.state()
        if state not in states:
            allowed = ", ".join(state.value for state in states)
            raise TrainingError(f"{self.folder}: the run is {state.value}; this step needs it to be: {allowed}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working on the run meanwhile; the lock ends with the process, however it ends.

        Raises:
            TrainingError: another one works on it; names it.
        """
        with (self.folder / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise TrainingError(f"{self.folder.name}: process {file.read().strip()} works on this run") from error
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write `run.json`, what the run was made from."""
        write_json(self.facts_path, dict(facts))

    def facts(self) -> dict[str, Any]:
        """Read `run.json`."""
        facts: dict[str, Any] = read_json(self.facts_path)
        return facts
