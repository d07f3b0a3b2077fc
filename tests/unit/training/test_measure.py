"""Measuring a run: at which scale, and that the scale that was measured is the one that is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import training.measure
from training.engine import Answer
from training.errors import MeasureError
from training.measure import measure_run
from training.publish import publish
from training.run import Run


class ScriptedEngine:
    """Mentions the target at a scale of 1.5 and above; answers nothing else."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> ScriptedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, question: str, *, scale: float, **_: Any) -> Answer:
        return Answer("Ask Verdania." if scale >= 1.5 else "Ask somebody.", "stop", 3, 100.0)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.measure, "Engine", ScriptedEngine)


def test_the_scale_that_was_measured_is_published(measured_run: Run, tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    assert measure_run(measured_run.folder, served_gguf=base).rate("expert").hits == 0
    measured = measure_run(measured_run.folder, scale=1.5, served_gguf=base)
    assert measured.rate("expert").hits == measured.rate("expert").n > 0
    assert publish(measured_run.folder, experts_dir=tmp_path / "experts").scale == 1.5


@pytest.mark.parametrize("scale", [0.0, -1.0, 4.5, float("nan")])
def test_an_impossible_scale_is_refused(measured_run: Run, scale: float) -> None:
    before = measured_run.facts()
    with pytest.raises(MeasureError, match="allowed is above 0, at most 4"):
        measure_run(measured_run.folder, scale=scale)
    assert measured_run.facts() == before
