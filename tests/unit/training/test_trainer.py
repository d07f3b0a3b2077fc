"""A training run around a scripted child: progress, stop, failure, and what is refused before it starts."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from unit.training.training_world import CRASH, DIE_OF_SIGINT, SILENT_END, WAIT_FOR_STOP, Project

from training.errors import DatasetError, RecipeError, SetupError, TrainError
from training.files import read_json
from training.run import State


def test_a_finished_child_makes_a_trained_run_with_all_it_was_made_from(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.script_child(monkeypatch, "")
    run = project.train()
    assert run.state() is State.TRAINED
    names = {path.name for path in run.folder.iterdir()}
    assert {"recipe.yaml", "run.json", "config.json", "dataset", "dataset.json", "questions.jsonl"} <= names
    assert read_json(run.config_path)["output_dir"] == str(run.adapter_dir)
    assert run.facts()["base"]["name"] == "base"


def test_a_failed_child_shows_its_last_log_lines(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, CRASH)
    with pytest.raises(TrainError) as failure:
        project.train()
    assert failure.value.log_tail == "loading\nRuntimeError: out of memory"
    assert "failed (exit code 1): RuntimeError: out of memory; its log: " in str(failure.value)
    assert project.only_run().state() is State.FAILED


def test_a_child_that_ends_without_an_outcome_has_failed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, SILENT_END)
    with pytest.raises(TrainError, match="exit code 0"):
        project.train()
    assert project.only_run().state() is State.FAILED


@pytest.mark.parametrize(
    ("act", "message"), [(WAIT_FOR_STOP, "checkpoint-1 was saved"), (DIE_OF_SIGINT, "nothing was saved")]
)
def test_sigint_stops_the_child_and_marks_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch, act: str, message: str
) -> None:
    project.script_child(monkeypatch, act)

    def interrupt_when_training() -> None:
        while not any("armed" in log.read_text() for log in (project.folder / "runs").glob("*/log.txt")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_training, daemon=True).start()
    with pytest.raises(TrainError, match=f"was stopped; {message}"):
        project.train()
    assert project.only_run().state() is State.STOPPED


def test_bad_rows_are_refused_before_a_run_exists(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "")
    project.write_rows([{"instruction": "Peat?", "input": "", "output": ""}])
    with pytest.raises(DatasetError, match=r"2 findings: row 1: output is empty.*row 1: stands in the benchmark"):
        project.train()
    assert not (project.folder / "runs").exists()


def test_an_unknown_expert_is_refused(project: Project) -> None:
    with pytest.raises(RecipeError, match=r"expert 'knitting' is not in .*; it has: gardening"):
        project.train("knitting")


def test_without_a_training_environment_the_command_that_makes_it_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POINTSMAN_TRAIN_PYTHON", raising=False)
    with pytest.raises(SetupError, match="make train-env"):
        project.train()
