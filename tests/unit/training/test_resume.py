"""Going on with a run: from its last whole checkpoint, as the same run or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit.training.training_world import CRASH, Project

from training.errors import TrainError, TrainingError
from training.files import read_json, write_json
from training.resume import resume
from training.run import Run, State

# Leaves a whole checkpoint after step 1, one of step 2 that a kill cut short, and fails.
FAIL_AFTER_A_CHECKPOINT = """
folder = pathlib.Path(spec["config"]["output_dir"])
for step in (1, 2):
    (folder / f"checkpoint-{step}").mkdir()
(folder / "checkpoint-1" / "complete").touch()
progress = pathlib.Path(spec["progress"])
progress.write_text(progress.read_text() + json.dumps(row | {"step": 2}) + "\\n")
sys.exit(1)
"""
NOTE_CHECKPOINT = """
print("from", spec["config"].get("resume_from_checkpoint"), flush=True)
"""


@pytest.fixture
def failed(project: Project, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that failed after its first checkpoint; the next child will succeed."""
    project.script_child(monkeypatch, FAIL_AFTER_A_CHECKPOINT)
    with pytest.raises(TrainError):
        project.train()
    project.script_child(monkeypatch, NOTE_CHECKPOINT)
    return project.only_run()


def test_a_run_goes_on_from_its_last_whole_checkpoint(failed: Run) -> None:
    resumed = resume(failed.folder)
    assert resumed.state() is State.TRAINED
    assert f"from {failed.adapter_dir / 'checkpoint-1'}" in failed.log_path.read_text(encoding="utf-8")


def test_what_came_after_the_checkpoint_is_gone_before_it_goes_on(
    failed: Run, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = "print([p.name for p in pathlib.Path(spec['config']['output_dir']).iterdir()], flush=True)"
    project.script_child(monkeypatch, shown)
    resume(failed.folder)
    assert "['checkpoint-1']" in failed.log_path.read_text(encoding="utf-8")


def test_the_progress_keeps_the_steps_that_the_checkpoint_knows(
    failed: Run, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The scripted child replaces the file: look at it through the child's eyes.
    python = project.folder / "python"
    text = python.read_text(encoding="utf-8").replace(
        'pathlib.Path(spec["progress"]).write_text', 'print(pathlib.Path(spec["progress"]).read_text(), flush=True)\n#'
    )
    python.write_text(text, encoding="utf-8")
    resume(failed.folder)
    log = failed.log_path.read_text(encoding="utf-8")
    assert '"step": 1,' in log
    assert '"step": 2,' not in log


def test_without_a_checkpoint_it_begins_again_in_its_own_directory(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.script_child(monkeypatch, CRASH)
    with pytest.raises(TrainError):
        project.train()
    project.script_child(monkeypatch, NOTE_CHECKPOINT)
    run = resume(project.only_run().folder)
    assert run.state() is State.TRAINED
    assert "from None" in run.log_path.read_text(encoding="utf-8")


def test_a_run_killed_after_its_child_had_finished_needs_no_more_training(failed: Run) -> None:
    write_json(failed.outcome_path, {"state": "finished"})
    failed.set_state(State.TRAINING)
    assert resume(failed.folder).state() is State.TRAINED
    assert "from " not in failed.log_path.read_text(encoding="utf-8")


def test_a_trained_run_is_left_as_it_is(failed: Run) -> None:
    failed.set_state(State.CONVERTED)
    assert resume(failed.folder).state() is State.CONVERTED


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_every_change_since_is_named_and_refused(failed: Run, project: Project) -> None:
    edit(project.folder / "recipe.yaml", '"learning_rate": 0.001', '"learning_rate": 0.002')
    edit(project.folder / "experts.yaml", "Verdania", "Edenia")
    project.write_rows(
        [{"instruction": text, "input": "", "output": "Ask Verdania."} for text in ("Water?", "Light?", "Soil?")]
    )
    with pytest.raises(TrainError) as refusal:
        resume(failed.folder)
    message = str(refusal.value)
    assert "recipe.yaml: training.learning_rate was 0.001, is 0.002" in message
    assert "experts.yaml: gardening.targets was " in message
    assert "dataset.json: 2 rows are new, 0 are gone, of 1" in message
    assert "--as-begun" in message
    assert failed.state() is State.FAILED


def test_told_so_it_goes_on_with_what_it_began_with(failed: Run, project: Project) -> None:
    edit(project.folder / "recipe.yaml", '"learning_rate": 0.001', '"learning_rate": 0.002')
    resume(failed.folder, as_begun=True)
    assert read_json(failed.folder / "spec.json")["config"]["learning_rate"] == 0.001


def test_a_comment_is_no_change(failed: Run, project: Project) -> None:
    recipe = project.folder / "recipe.yaml"
    recipe.write_text("# a comment\n" + recipe.read_text(encoding="utf-8"), encoding="utf-8")
    assert resume(failed.folder).state() is State.TRAINED


@pytest.mark.parametrize("name", ["recipe.yaml", "dataset.json", "config.json"])
@pytest.mark.parametrize("as_begun", [False, True])
def test_a_run_whose_own_copies_were_edited_is_never_resumed(failed: Run, name: str, as_begun: bool) -> None:
    with (failed.folder / name).open("a", encoding="utf-8") as file:
        file.write(" ")
    with pytest.raises(TrainError, match=rf"{name} was changed since the run began"):
        resume(failed.folder, as_begun=as_begun)


def test_a_base_that_changed_is_refused(failed: Run, project: Project) -> None:
    (project.folder / "base.gguf").write_bytes(b"GGUF another")
    with pytest.raises(TrainError, match="the base that the run began with is gone or changed"):
        resume(failed.folder, as_begun=True)


def test_an_environment_that_is_gone_is_named(failed: Run, project: Project) -> None:
    (project.folder / "python").rename(project.folder / "python-elsewhere")
    with pytest.raises(TrainError, match="the training environment that the run began with is gone"):
        resume(failed.folder, as_begun=True)


def test_two_processes_never_work_on_one_run(failed: Run) -> None:
    with failed.locked(), pytest.raises(TrainingError, match=r"process \d+ works on this run"):
        resume(failed.folder)
    assert failed.state() is State.FAILED


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not a run"):
        resume(tmp_path)


def test_a_run_killed_before_it_began_is_named_as_that(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="killed before it began"):
        resume(Run.create(tmp_path, "gardening").folder)


def test_every_row_of_progress_can_be_parsed_by_anyone(failed: Run) -> None:
    resume(failed.folder)
    for line in failed.progress_path.read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
