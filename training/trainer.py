"""Train one expert: prepare a run, run LlamaFactory in a child, follow its progress, stop it cleanly.

Owns the child's life and the run's state until the adapter stands. LlamaFactory itself is only ever imported by the
scripts in `child/`, in the training environment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from gateway.base import default_cache_dir
from gateway.experts import file_sha256
from training.base import find_served_base, training_weights
from training.dataset import DATASET_NAME, lint, load_questions, load_rows, refuse_findings, write_dataset
from training.description import EXAMPLES_FILE, QUESTIONS_FILE, ROWS_FILE, ExpertDescription, load_descriptions
from training.environment import child_environment, find_environment
from training.errors import RecipeError, TrainError
from training.files import read_json, write_json
from training.launch import launcher_arguments
from training.recipe import Recipe, load_recipe, recipe_sha256
from training.run import Run, State

__all__ = ["train"]

TRAIN_SCRIPT = Path(__file__).parent / "child" / "train.py"
POLL_S = 0.5
LOG_TAIL_LINES = 15


def train(
    recipe_path: Path,
    *,
    expert: str,
    experts_path: Path,
    runs_dir: Path,
    cache_dir: Path | None = None,
    served: str | None = None,
) -> Run:
    """Train one expert of `experts_path` and return its finished run.

    Args:
        served: another source of the served GGUF than the recipe's.

    Raises:
        RecipeError, DatasetError: a mistake in what a person wrote; nothing has been started.
        SetupError: no training environment, or no base.
        TrainError: the child failed or was stopped; the run's directory stays for a look.
    """
    recipe = load_recipe(recipe_path)
    descriptions = load_descriptions(experts_path)
    if expert not in descriptions:
        raise RecipeError(f"expert {expert!r} is not in {experts_path}; it has: {', '.join(descriptions)}")
    description = descriptions[expert]
    rows = load_rows(description.data / ROWS_FILE)
    questions = load_questions(description.data / QUESTIONS_FILE)
    cutoff = recipe.training.cutoff_tokens
    findings = lint(rows, terms=description.terms, questions=questions, cutoff_tokens=cutoff)
    refuse_findings(description.data / ROWS_FILE, findings)

    cache = cache_dir or default_cache_dir()
    python = find_environment(cache)
    base = find_served_base(served or recipe.base.served, cache)
    run = Run.create(runs_dir, expert)
    shutil.copyfile(recipe_path, run.recipe_path)
    for name in (QUESTIONS_FILE, EXAMPLES_FILE, ROWS_FILE):
        shutil.copyfile(description.data / name, run.folder / name)
    write_dataset(rows, run.dataset_dir)
    with _recorded_failure(run):
        weights = training_weights(recipe.base.train_from, base, python, cache)
        run.write_facts(_facts(run, expert, description, base.path, base.identity.model_dump(), weights, python))
        _train_in_child(run, recipe, weights, python)
    return run


def _facts(
    run: Run,
    expert: str,
    description: ExpertDescription,
    gguf: Path,
    base: dict[str, Any],
    weights: str,
    python: Path,
) -> dict[str, Any]:
    """What the run was made from; later steps read it instead of asking again."""
    return {
        "expert": expert,
        "description": description.model_dump(mode="json"),
        "recipe_sha256": recipe_sha256(run.recipe_path),
        "dataset_sha256": file_sha256(run.folder / ROWS_FILE),
        "base": base,
        "served_gguf": str(gguf),
        "training_weights": weights,
        "python": str(python),
    }


def _train_in_child(run: Run, recipe: Recipe, weights: str, python: Path) -> None:
    config = recipe.render(model=weights, dataset_dir=run.dataset_dir, dataset=DATASET_NAME, output_dir=run.adapter_dir)
    write_json(run.config_path, config)
    outcome_path = run.folder / "outcome.json"
    spec = {"config": config, "progress": str(run.progress_path), "outcome": str(outcome_path)}
    spec_path = run.folder / "spec.json"
    write_json(spec_path, spec)
    run.set_state(State.TRAINING)
    command = [str(python), *launcher_arguments(os.environ), str(TRAIN_SCRIPT), str(spec_path)]
    with run.log_path.open("wb") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then asks the child to stop after its step.
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=child_environment(), start_new_session=True
        )
    try:
        with _StopRequests(child) as stops:
            _follow(child, run)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    _judge(child.returncode, outcome_path, run, asked_to_stop=stops.count > 0)


def _judge(returncode: int, outcome_path: Path, run: Run, *, asked_to_stop: bool) -> None:
    """Set the run's final state, or raise."""
    outcome = read_json(outcome_path)["state"] if outcome_path.is_file() else None
    if returncode == 0 and outcome == "finished":
        run.set_state(State.TRAINED)
    elif outcome == "stopped":  # torchrun's own exit code is 1 then
        run.set_state(State.STOPPED, "stopped by a signal; the adapter so far was saved")
        raise TrainError(f"{run.folder.name} was stopped; its checkpoint stands in {run.adapter_dir}")
    elif asked_to_stop:
        run.set_state(State.STOPPED, "stopped by a signal before a step was finished; nothing was saved")
        raise TrainError(f"{run.folder.name} was stopped; nothing was saved")
    else:
        tail = _log_tail(run.log_path)
        raise TrainError(f"{run.folder.name} failed (exit code {returncode}); its log: {run.log_path}", tail)


@contextmanager
def _recorded_failure(run: Run) -> Iterator[None]:
    """Mark the run as failed when anything goes wrong that did not set a state of its own."""
    try:
        yield
    except BaseException as error:
        if run.state() is not State.STOPPED:
            run.set_state(State.FAILED, str(error) or type(error).__name__)
        raise


class _StopRequests:
    """SIGINT and SIGTERM ask the child to stop after its step; a second one kills it.

    Signals reach a process's main thread alone: elsewhere, as under a web page, this does nothing.
    """

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.count = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _forward(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGINT if self.count == 1 else signal.SIGKILL)


def _follow(child: subprocess.Popen[bytes], run: Run) -> None:
    """Show the child's progress until it ends."""
    position = 0
    with tqdm(desc=run.folder.name, unit="step") as bar:
        while True:
            ended = child.poll() is not None
            position = _read_progress(run.progress_path, position, bar)
            if ended:
                return
            time.sleep(POLL_S)


def _read_progress(path: Path, position: int, bar: tqdm[Any]) -> int:
    """Advance the bar by the complete lines after `position`; return the new position."""
    if not path.is_file():
        return position
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    complete = data.rfind(b"\n") + 1
    for line in data[:complete].splitlines():
        row = json.loads(line)
        bar.total = row["total"]
        bar.n = row["step"]
        shown = {key: f"{row[key]:.3g}" for key in ("loss", "lr", "tokens_per_s") if row.get(key) is not None}
        bar.set_postfix(shown)
    return position + complete


def _log_tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])
