"""The pipeline: its steps in order, and which of them the same command does again after it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from unit.training.training_world import CRASH, Project

import training.pipeline
from gateway.experts import Manifest
from training.errors import PublishError, TrainError, TrainingError
from training.files import write_json
from training.journal import Journal
from training.pipeline import Places, pipeline
from training.run import Run, State


class Steps:
    """Stands in for the steps after the training; each can be told to be killed. Remembers what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.killed_in = ""

    def convert(self, folder: Path, **_: Any) -> None:
        self._do("convert", folder, State.CONVERTED)
        write_json(folder / "checks.json", {"passed": True})

    def measure_run(self, folder: Path, **_: Any) -> Any:
        self._do("measure", folder, State.MEASURED)
        return self

    def rate(self, side: str) -> str:
        return "6 of 6"

    def route_own(self, folder: Path, **_: Any) -> str:
        assert Run(folder).state() is State.MEASURED
        return "auto will give 5 of 6 to it"

    def publish(self, folder: Path, *, experts_dir: Path, minimum_hit_rate: float) -> Manifest:
        self._do("publish", folder, State.PUBLISHED)
        return Manifest.model_construct(name=Run(folder).facts()["expert"], version="1.0.0")

    def _do(self, step: str, folder: Path, state: State) -> None:
        if step == self.killed_in:
            raise KeyboardInterrupt
        self.done.append(step)
        Run(folder).set_state(state)


class Pipeline:
    """One project, its pipeline, and what it did."""

    def __init__(self, project: Project, steps: Steps) -> None:
        self.project = project
        self.steps = steps

    def run(self, *experts: str, **options: Any) -> list[Manifest]:
        folder = self.project.folder
        places = Places(folder / "experts.yaml", folder / "experts", folder / "runs", folder / "cache")
        return pipeline(folder / "recipe.yaml", experts or ["gardening"], places, **options)

    @property
    def runs(self) -> int:
        return len([path for path in (self.project.folder / "runs").iterdir() if path.is_dir()])


@pytest.fixture
def made(project: Project, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    steps = Steps()
    for name in ("convert", "measure_run", "route_own", "publish"):
        monkeypatch.setattr(training.pipeline, name, getattr(steps, name))
    project.script_child(monkeypatch, "print('trained once', flush=True)")
    return Pipeline(project, steps)


def test_the_steps_are_done_in_order(made: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest,) = made.run()
    assert "auto will give 5 of 6 to it" in capsys.readouterr().err
    assert manifest.name == "gardening"
    assert made.steps.done == ["convert", "measure", "publish"]
    assert not list((made.project.folder / "runs").glob(".pipeline-*"))


@pytest.mark.parametrize("step", ["convert", "measure", "publish"])
def test_killed_in_a_step_the_same_command_does_that_step_and_none_before_it(made: Pipeline, step: str) -> None:
    made.steps.killed_in = step
    with pytest.raises(KeyboardInterrupt):
        made.run()
    made.steps.killed_in = ""
    made.run()
    assert made.steps.done == ["convert", "measure", "publish"]
    assert made.runs == 1
    assert made.project.only_run().log_path.read_text(encoding="utf-8").count("trained once") == 1


def test_a_failed_training_goes_on_in_the_same_run(made: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    made.project.script_child(monkeypatch, CRASH)
    with pytest.raises(TrainError, match="out of memory"):
        made.run()
    made.project.script_child(monkeypatch, "")
    made.run()
    assert made.runs == 1


def test_experts_that_were_published_before_the_kill_are_not_built_again(made: Pipeline, project: Project) -> None:
    text = (project.folder / "experts.yaml").read_text(encoding="utf-8")
    (project.folder / "experts.yaml").write_text(text.replace('{"gardening"', '{"baking"')[:-1] + f", {text[1:]}")
    made.steps.killed_in = "measure"
    with pytest.raises(KeyboardInterrupt):
        made.run("baking", "gardening")
    made.steps.killed_in = ""
    assert len(made.run("baking", "gardening")) == 2
    assert made.steps.done.count("convert") == 2
    assert made.runs == 2


def stopped_then_edited(made: Pipeline) -> None:
    made.steps.killed_in = "measure"
    with pytest.raises(KeyboardInterrupt):
        made.run()
    made.steps.killed_in = ""
    made.project.write_rows([{"instruction": "Peat or bark?", "input": "", "output": "Ask Verdania."}])


def test_what_was_edited_since_is_named_and_nothing_is_done(made: Pipeline) -> None:
    stopped_then_edited(made)
    with pytest.raises(TrainingError, match=r"is converted, but .*1 rows are new, 1 are gone.*--restart.*--as-begun"):
        made.run()
    assert made.steps.done == ["convert"]


def test_told_so_it_begins_anew(made: Pipeline) -> None:
    stopped_then_edited(made)
    made.run(restart=True)
    assert made.runs == 2


def test_told_so_it_goes_on_as_it_began(made: Pipeline) -> None:
    stopped_then_edited(made)
    made.run(as_begun=True)
    assert made.runs == 1
    assert made.steps.done == ["convert", "measure", "publish"]


def test_a_run_that_may_not_be_published_stays_and_is_named(made: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Manifest:
        raise PublishError("hit rate 50.0% is below the minimum 90.0%")

    monkeypatch.setattr(training.pipeline, "publish", refuse)
    with pytest.raises(PublishError, match="below the minimum"):
        made.run()
    assert made.project.only_run().state() is State.MEASURED


def test_the_next_command_after_a_finished_one_begins_a_run_of_its_own(made: Pipeline) -> None:
    made.run()
    made.run()
    assert made.runs == 2


def test_a_journal_forgets_runs_that_are_gone_or_were_never_begun(tmp_path: Path) -> None:
    journal = Journal(tmp_path, Path("recipe.yaml"))
    run = Run.create(tmp_path, "tea")
    journal.record("tea", run)
    assert journal.run_of("tea") is None
    run.write_facts({})
    assert journal.run_of("tea") == run
    assert journal.run_of("coffee") is None
    journal.forget(["tea"])
    assert journal.run_of("tea") is None
    assert not list(tmp_path.glob(".pipeline-*"))
