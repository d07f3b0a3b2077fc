"""What a benchmark measures, as it is written down, so that a resume measures the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.base import ServedBase
from training.errors import BenchmarkError
from training.files import read_json
from training.subjects import Subject

__all__ = ["SETTINGS_FILE", "BenchmarkOptions", "describe_settings", "difference", "read_settings"]

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured; a resumed benchmark keeps them."""

    max_tokens: int = 300
    repeats: int = 5
    limit: int | None = None
    unrelated: int = 100
    seed: int = 0
    parallel_jobs: int = 1
    route: bool = True
    speed: bool = True

    def check(self) -> None:
        """Refuse values that measure nothing.

        Raises:
            BenchmarkError: names the option, its value and what is allowed.
        """
        smallest = {"max_tokens": 1, "repeats": 1, "limit": 1, "unrelated": 0, "parallel_jobs": 1}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise BenchmarkError(f"--{name.replace('_', '-')} is {value}, at least {least} is allowed")


def read_settings(folder: Path) -> tuple[list[str], BenchmarkOptions]:
    """Read what a results directory measures: the experts as they were named, and the options.

    Raises:
        BenchmarkError: it is no results directory.
    """
    try:
        settings = read_json(folder / SETTINGS_FILE)
        return list(settings["asked"]), BenchmarkOptions(**settings["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{folder} cannot be resumed: it has no readable {SETTINGS_FILE}") from error


def describe_settings(
    asked: Sequence[str],
    options: BenchmarkOptions,
    subjects: Sequence[Subject],
    unrelated: Sequence[str],
    served: ServedBase,
) -> dict[str, Any]:
    """Everything that answers depend on."""
    experts = {
        subject.name: {
            "adapter_sha256": subject.adapter_sha256,
            "scale": subject.scale,
            "system_prompt": subject.system_prompt,
            "terms": list(subject.terms),
            "questions": list(subject.questions),
        }
        for subject in subjects
    }
    return {
        "asked": list(asked) or [subject.name for subject in subjects],
        "options": asdict(options),
        "base_sha256": served.identity.sha256,
        "experts": experts,
        "unrelated": list(unrelated),
    }


def difference(folder: Path, settings: dict[str, Any]) -> str:
    """Say in one line what changed since the settings of a results directory were written."""
    before = read_json(folder / SETTINGS_FILE)
    changed = [key for key in settings if settings[key] != before.get(key)]
    for name, facts in settings["experts"].items():
        old = before.get("experts", {}).get(name, {})
        changed += [f"{name}.{key}" for key in facts if facts[key] != old.get(key)]
    return f"{folder} cannot be resumed, its answers would not fit: changed since: {', '.join(changed)}; start afresh"
