"""The checkpoints of a run: which of them are whole, and which a kill cut short.

Owns the mark that the training child leaves in a checkpoint after its last file.
"""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["last_checkpoint", "remove_checkpoints", "step_of"]

COMPLETE = "complete"
PREFIX = "checkpoint-"


def last_checkpoint(adapter_dir: Path) -> Path | None:
    """Return the whole checkpoint of the latest step, None where there is none."""
    whole = [path for path in _checkpoints(adapter_dir) if (path / COMPLETE).is_file()]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def remove_checkpoints(adapter_dir: Path, *, keep: Path | None = None) -> None:
    """Remove all checkpoints but one."""
    for path in _checkpoints(adapter_dir):
        if path != keep:
            shutil.rmtree(path)


def _checkpoints(adapter_dir: Path) -> list[Path]:
    found = adapter_dir.glob(f"{PREFIX}*") if adapter_dir.is_dir() else []
    return [path for path in found if path.name.removeprefix(PREFIX).isdigit()]
