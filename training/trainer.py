"""Train one expert: make a run of what was prepared, let LlamaFactory train it in a child, judge the end.

Owns the run's state until the adapter stands. LlamaFactory itself is only ever imported by the scripts
in `child/`, in the training environment. Going on with a run that was stopped or killed is `resume`'s.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.experts import file_sha256
from training.checkpoints import last_checkpoint, remove_checkpoints, step_of
from training.children import CHILD_SCRIPTS, start_child
from training.dataset import DATASET_NAME, write_dataset
from training.description import ANCHORS_FILE, EXAMPLES_FILE, QUESTIONS_FILE, ROWS_FILE
from training.errors import TrainError
from training.files import read_json, write_json, write_text
from training.follow import StopRequests, follow, read_progress
from training.launch import launcher_arguments
from training.prepare import Prepared, prepare
from training.recipe import load_recipe, recipe_sha256
from training.run import Run, State
from training.speed import Speed, record_speed

__all__ = ["create_run", "train", "train_in_child"]

TRAIN_SCRIPT = CHILD_SCRIPTS / "train.py"
LOG_TAIL_LINES = 15
PLOT_FILE = "training_loss.png"


def train(
    recipe_path: Path,
    *,
    expert: str,
    experts_path: Path,
    runs_dir: Path,
    cache_dir: Path | None = None,
    served: str | None = None,
) -> Run:
    """Train one expert of `experts_path` in a fresh directory and return the finished run.

    Raises:
        TrainingError: as `prepare` does, before anything is started.
        TrainError: the child failed or was stopped; the run's directory stays, to resume it or for a look.
    """
    prepared = prepare(recipe_path, expert=expert, experts_path=experts_path, cache_dir=cache_dir, served=served)
    run = create_run(prepared, runs_dir)
    train_in_child(run)
    return run


def create_run(prepared: Prepared, runs_dir: Path) -> Run:
    """Write everything that a run is made from into a directory of its own."""
    run = Run.create(runs_dir, prepared.expert)
    shutil.copyfile(prepared.recipe_path, run.recipe_path)
    for name in (QUESTIONS_FILE, EXAMPLES_FILE, ROWS_FILE):
        shutil.copyfile(prepared.description.data / name, run.folder / name)
    if prepared.description.anchors is not None:
        shutil.copyfile(prepared.description.anchors, run.folder / ANCHORS_FILE)
    write_dataset(prepared.rows, run.dataset_dir)
    config = prepared.recipe.render(
        model=prepared.weights, dataset_dir=run.dataset_dir, dataset=DATASET_NAME, output_dir=run.adapter_dir
    )
    write_json(run.config_path, config)
    run.write_facts(_facts(run, prepared))
    return run


def _facts(run: Run, prepared: Prepared) -> dict[str, Any]:
    """What the run is made from; later steps read it instead of asking again. Written last: it proves the rest."""
    return {
        "expert": prepared.expert,
        "description": prepared.description.model_dump(mode="json"),
        "recipe_path": str(prepared.recipe_path.resolve()),
        "experts_path": str(prepared.experts_path.resolve()),
        "recipe_sha256": recipe_sha256(run.recipe_path),
        "dataset_sha256": file_sha256(run.folder / ROWS_FILE),
        **({"anchors_sha256": file_sha256(run.folder / ANCHORS_FILE)} if prepared.description.anchors else {}),
        "config_sha256": file_sha256(run.config_path),
        "base": prepared.base.identity.model_dump(),
        "served_gguf": str(prepared.base.path),
        "training_weights": prepared.weights,
        "python": str(prepared.python),
        "versions": prepared.plan.versions,
        "cache_dir": str(prepared.cache_dir),
        "plan": prepared.plan.as_json(),
    }


def train_in_child(run: Run) -> None:
    """Train a created run, from its last checkpoint where it has one, until it is trained, stopped or failed.

    Raises:
        TrainError: it failed or was stopped; carries the last lines of its log.
    """
    with run.locked(), _recorded_failure(run):
        if _outcome(run) == "finished":  # killed between the child's end and ours
            _finish(run)
            return
        run.set_state(State.TRAINING)
        spec_path = _write_spec(run)
        with run.log_path.open("ab") as log:
            launcher = launcher_arguments(os.environ)
            child = start_child(run.facts()["python"], TRAIN_SCRIPT, str(spec_path), log=log, launcher=launcher)
        with StopRequests(child) as stops:
            follow(child, run.progress_path, run.folder.name)
        _judge(child.returncode, run, asked_to_stop=stops.count > 0)


def _write_spec(run: Run) -> Path:
    """Tell the child what to do; leave what the last whole checkpoint knows of, and nothing after it."""
    checkpoint = last_checkpoint(run.adapter_dir)
    remove_checkpoints(run.adapter_dir, keep=checkpoint)
    if checkpoint is None:
        shutil.rmtree(run.adapter_dir, ignore_errors=True)
    known = step_of(checkpoint) if checkpoint else 0
    rows = [row for row in read_progress(run.progress_path)[0] if row["step"] <= known]
    write_text(run.progress_path, "".join(json.dumps(row) + "\n" for row in rows))
    run.outcome_path.unlink(missing_ok=True)
    config = read_json(run.config_path) | ({"resume_from_checkpoint": str(checkpoint)} if checkpoint else {})
    spec_path = run.folder / "spec.json"
    write_json(spec_path, {"config": config, "progress": str(run.progress_path), "outcome": str(run.outcome_path)})
    return spec_path


def _outcome(run: Run) -> str | None:
    """Return what the child wrote as its last act; None when it did not come so far."""
    return read_json(run.outcome_path)["state"] if run.outcome_path.is_file() else None


def _judge(returncode: int, run: Run, *, asked_to_stop: bool) -> None:
    """Set the run's final state, or raise."""
    name, state = run.folder.name, _outcome(run)
    if returncode == 0 and state == "finished":
        _finish(run)
    elif state == "stopped" or asked_to_stop:  # torchrun's own exit code is 1 then
        checkpoint = last_checkpoint(run.adapter_dir)
        kept = f"{checkpoint.name} was saved" if checkpoint else "nothing was saved"
        run.set_state(State.STOPPED, f"stopped by a signal; {kept}")
        raise TrainError(f"{name} was stopped; {kept}; go on with: pointsman train --resume {run.folder}")
    else:
        tail = log_tail(run.log_path)
        reason = tail.splitlines()[-1].strip() if tail else "it wrote nothing"
        raise TrainError(f"{name} failed (exit code {returncode}): {reason}; its log: {run.log_path}", tail)


def _finish(run: Run) -> None:
    """Mark a run as trained; checkpoints have served their purpose then."""
    plot = run.adapter_dir / PLOT_FILE
    if plot.is_file():
        shutil.copyfile(plot, run.loss_plot_path)
    _record_speed(run)
    run.set_state(State.TRAINED)
    remove_checkpoints(run.adapter_dir)


def _record_speed(run: Run) -> None:
    """Remember how fast this machine trained; what a resumed run did before does not count."""
    rows, _ = read_progress(run.progress_path)
    facts = run.facts()
    plan = facts.get("plan")
    last = rows[-1] if rows else {}
    begun = next((row["step"] for row in reversed(rows) if row["elapsed_s"] > last["elapsed_s"]), 0) if rows else 0
    if not plan or not last.get("elapsed_s"):
        return
    share = (last["step"] - begun) / last["total"]
    tokens = plan["tokens"] * plan["epochs"] * share
    recipe = load_recipe(run.recipe_path)
    recipe = recipe.with_precision(plan.get("precision", recipe.training.precision))
    key = Speed.key_of(recipe, facts["training_weights"], plan["device"])
    record_speed(Path(facts["cache_dir"]), key, Speed(round(tokens / last["elapsed_s"], 1), run.folder.name))


@contextmanager
def _recorded_failure(run: Run) -> Iterator[None]:
    """Mark the run as failed when anything goes wrong that did not set a state of its own."""
    try:
        yield
    except BaseException as error:
        if run.state() is not State.STOPPED:
            run.set_state(State.FAILED, str(error) or type(error).__name__)
        raise


def log_tail(path: Path) -> str:
    """Return the last lines of a log."""
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])
