"""Go on with a run that was stopped, killed or failed, from its last whole checkpoint.

Owns the question whether that is still the same run: what a person has edited since it began is named, and refused
unless the run's own copies are meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.experts import file_sha256
from training.dataset_format import load_dataset
from training.description import ANCHORS_FILE, ROWS_FILE, load_descriptions
from training.environment import find_environment
from training.errors import TrainError
from training.run import Run, State
from training.trainer import train_in_child
from training.yaml_file import read_yaml

__all__ = ["changes_since", "listed", "resume"]

SHOWN_CHANGES = 10


def resume(run_dir: Path, *, as_begun: bool = False) -> Run:
    """Go on with a run and return it trained. A run that is trained already is returned as it is.

    Args:
        as_begun: go on with the data and settings that the run began with, whatever was edited since.

    Raises:
        TrainError: data or settings changed since it began (names what), its own files were changed, or the child
            failed or was stopped again.
        TrainingError: not a run, or another process works on it.
    """
    run = Run.open(run_dir)
    if run.state() in (State.TRAINED, State.CONVERTED, State.MEASURED, State.PUBLISHED):
        return run
    if not run.facts_path.is_file():
        raise TrainError(f"{run.folder}: it was killed before it began: start a new run")
    _refuse_tampering(run)
    changes = [] if as_begun else changes_since(run)
    if changes:
        raise TrainError(
            f"{run.folder.name} cannot be resumed as it is, this changed since it began: {listed(changes)}; "
            "start a new run, or go on with what it began with: --as-begun"
        )
    train_in_child(run)
    return run


def listed(changes: list[str]) -> str:
    """Put changes in one line, at most ten in full."""
    more = [f"and {len(changes) - SHOWN_CHANGES} more"] if len(changes) > SHOWN_CHANGES else []
    return "; ".join(changes[:SHOWN_CHANGES] + more)


def _refuse_tampering(run: Run) -> None:
    """A run's own copies are what it was begun with: edited, they are nothing that could be resumed."""
    facts = run.facts()
    kept = {
        "recipe_sha256": run.recipe_path,
        "dataset_sha256": run.folder / ROWS_FILE,
        "anchors_sha256": run.folder / ANCHORS_FILE,
        "config_sha256": run.config_path,
    }
    for key, path in kept.items():
        if key in facts and (not path.is_file() or file_sha256(path) != facts[key]):
            raise TrainError(f"{path} was changed since the run began: start a new run")
    if not Path(facts["python"]).is_file():
        raise TrainError(f"the training environment that the run began with is gone: {facts['python']}")
    if not Path(facts["served_gguf"]).is_file() or file_sha256(Path(facts["served_gguf"])) != facts["base"]["sha256"]:
        raise TrainError(f"the base that the run began with is gone or changed: {facts['served_gguf']}")


def changes_since(run: Run) -> list[str]:
    """Say what a person changed since the run began; what was moved away since counts as unchanged."""
    facts = run.facts()
    anchors = facts["description"].get("anchors")
    return [
        *_recipe_changes(Path(facts["recipe_path"]), run.recipe_path),
        *_description_changes(facts),
        *_row_changes(Path(facts["description"]["data"]) / ROWS_FILE, run.folder / ROWS_FILE),
        *(_row_changes(Path(anchors), run.folder / ANCHORS_FILE) if anchors else ()),
        *_environment_changes(facts),
    ]


def _recipe_changes(now: Path, begun: Path) -> Iterator[str]:
    if now.is_file():
        yield from (f"{now.name}: {change}" for change in _differences(read_yaml(begun), read_yaml(now)))


def _description_changes(facts: dict[str, Any]) -> Iterator[str]:
    path = Path(facts["experts_path"])
    now = load_descriptions(path).get(facts["expert"]) if path.is_file() else None
    if now is not None:
        found = _differences(facts["description"], now.model_dump(mode="json"))
        yield from (f"{path.name}: {facts['expert']}.{change}" for change in found)


def _row_changes(now: Path, begun: Path) -> Iterator[str]:
    if not now.is_file() or file_sha256(now) == file_sha256(begun):
        return
    before, after = ([json.dumps(item, sort_keys=True) for item in load_dataset(path).items] for path in (begun, now))
    added, removed = len(set(after) - set(before)), len(set(before) - set(after))
    if added or removed:
        yield f"{now.name}: {added} rows are new, {removed} are gone, of {len(before)}"
    elif before != after:
        yield f"{now.name}: its rows stand in another order"


def _environment_changes(facts: dict[str, Any]) -> Iterator[str]:
    now = str(find_environment(Path(facts["cache_dir"])))
    if now != facts["python"]:
        yield f"the training environment: {facts['python']}, now {now}"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Name every key whose value differs, with both values."""
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            shown = ["nothing" if value is None else repr(value) for value in (old, new)]
            yield f"{prefix}{key} was {shown[0]}, is {shown[1]}"
