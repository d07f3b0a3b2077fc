"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from measured_runs import make_measured_run
from unit.training.training_world import Project

from training.run import Run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Make further runs: `make_run(adapter=…, version=…)`."""
    return partial(make_measured_run, tmp_path / "runs")


@pytest.fixture
def measured_run(tmp_path: Path) -> Run:
    """One run, ready to be published."""
    return make_measured_run(tmp_path / "runs")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A recipe, an expert and a base, all tiny."""
    return Project(tmp_path)
