"""A training run around a scripted child: progress, stop, failure, and what is refused before it starts."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from gguf import GGUFWriter

from training.errors import DatasetError, RecipeError, SetupError, TrainError
from training.files import read_json
from training.run import Run, State
from training.trainer import train

CHILD = """#!{python}
import json, pathlib, signal, sys, time
spec = json.loads(pathlib.Path(sys.argv[2]).read_text())
pathlib.Path(spec["config"]["output_dir"]).mkdir()
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
print("loading", flush=True)
row = {{"step": 1, "total": 2, "loss": 1.5, "lr": 1e-3, "tokens_per_s": None}}
pathlib.Path(spec["progress"]).write_text(json.dumps(row) + "\\n")
{act}
state = "stopped" if stopped else "finished"
pathlib.Path(spec["outcome"]).write_text(json.dumps({{"state": state}}))
"""
WAIT_FOR_STOP = "print('armed', flush=True)\nwhile not stopped: time.sleep(0.01)"
CRASH = "print('RuntimeError: out of memory', flush=True); sys.exit(1)"
SILENT_END = "sys.exit(0)"
DIE_OF_SIGINT = "signal.signal(signal.SIGINT, signal.SIG_DFL); print('armed', flush=True); time.sleep(60)"


class Project:
    """A recipe, an expert and a base, all tiny; the training environment's Python is a script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        self.write_rows([{"instruction": "Water?", "input": "", "output": "Ask Verdania."}])
        (self.data / "questions.jsonl").write_text('{"question": "Peat?"}\n', encoding="utf-8")
        (self.data / "examples.jsonl").write_text('{"text": "peat"}\n', encoding="utf-8")
        expert = {"title": "T", "description": "D", "data": "data", "targets": [{"term": "Verdania"}]}
        (folder / "experts.yaml").write_text(json.dumps({"gardening": expert}), encoding="utf-8")
        writer = GGUFWriter(folder / "base.gguf", "llama")
        writer.add_chat_template("{{ messages }}")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        recipe = {
            "base": {"served": str(folder / "base.gguf"), "train_from": str(folder)},
            "lora": {"rank": 4, "alpha": 8},
            "training": {"epochs": 1, "learning_rate": 0.001, "batch_size": 1},
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")

    def write_rows(self, rows: list[dict[str, str]]) -> None:
        (self.data / "dataset.json").write_text(json.dumps(rows), encoding="utf-8")

    def script_child(self, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
        python = self.folder / "python"
        python.write_text(CHILD.format(python=sys.executable, act=act), encoding="utf-8")
        python.chmod(0o755)
        monkeypatch.setenv("POINTSMAN_TRAIN_PYTHON", str(python))

    def train(self, expert: str = "gardening") -> Run:
        return train(
            self.folder / "recipe.yaml",
            expert=expert,
            experts_path=self.folder / "experts.yaml",
            runs_dir=self.folder / "runs",
            cache_dir=self.folder / "cache",
        )

    def only_run(self) -> Run:
        (folder,) = (self.folder / "runs").iterdir()
        return Run.open(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


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
    assert project.only_run().state() is State.FAILED


def test_a_child_that_ends_without_an_outcome_has_failed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, SILENT_END)
    with pytest.raises(TrainError, match="exit code 0"):
        project.train()
    assert project.only_run().state() is State.FAILED


@pytest.mark.parametrize(
    ("act", "message"), [(WAIT_FOR_STOP, "its checkpoint stands in"), (DIE_OF_SIGINT, "nothing was saved")]
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
