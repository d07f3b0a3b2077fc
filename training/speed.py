"""How fast earlier runs on this machine trained, for the estimate of the next one.

Owns one small file in the cache; a run is comparable when base, device, precision and checkpointing are the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.files import read_json, write_json
from training.recipe import Recipe

__all__ = ["Speed", "record_speed", "recorded_speed"]

FILE = "training-speed.json"


@dataclass(frozen=True)
class Speed:
    """Tokens of the rows for each second of training, start-up left out, and the run that had it."""

    tokens_per_s: float
    run: str

    @staticmethod
    def key_of(recipe: Recipe, weights: str, device: str) -> str:
        """Name what must be equal for two runs to be comparable; `weights` is what LlamaFactory loads."""
        training = recipe.training
        recomputed = "checkpointing" if training.gradient_checkpointing else "plain"
        return f"{weights} {device} {training.precision} {recomputed} batch {training.batch_size}"


def record_speed(cache_dir: Path, key: str, speed: Speed) -> None:
    """Remember a finished run's speed in place of an earlier one's."""
    speeds = _read(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    write_json(cache_dir / FILE, speeds | {key: asdict(speed)})


def recorded_speed(cache_dir: Path, key: str) -> Speed | None:
    """Return the speed of the last comparable run."""
    found = _read(cache_dir).get(key)
    return Speed(**found) if found else None


def _read(cache_dir: Path) -> dict[str, Any]:
    try:
        speeds: dict[str, Any] = read_json(cache_dir / FILE)
    except (OSError, ValueError):
        return {}
    return speeds
