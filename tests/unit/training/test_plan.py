"""A dry run: what is counted, what is estimated and from what, and what is refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit.training.training_world import Project

from training.__main__ import main
from training.errors import DatasetError, RecipeError
from training.files import read_json
from training.plan import Plan, render_plan
from training.prepare import prepare
from training.speed import Speed, record_speed


@pytest.fixture
def planned(project: Project, monkeypatch: pytest.MonkeyPatch) -> Plan:
    project.script_child(monkeypatch, "", lengths=[100] * 10, answer_tokens=600)
    return plan(project)


def plan(project: Project) -> Plan:
    return prepare(
        project.folder / "recipe.yaml",
        expert="gardening",
        experts_path=project.folder / "experts.yaml",
        cache_dir=project.folder / "cache",
    ).plan


def set_training(project: Project, old: str, new: str) -> None:
    recipe = project.folder / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    assert old in text
    recipe.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "steps", "epochs"),
    [
        ('"batch_size": 1', 10, 1),
        ('"batch_size": 4', 3, 1),
        ('"batch_size": 2, "gradient_accumulation": 2', 3, 1),
        ('"batch_size": 4, "max_steps": 7', 7, 2.33),
    ],
)
def test_steps_are_those_of_the_trainer(
    project: Project, monkeypatch: pytest.MonkeyPatch, settings: str, steps: int, epochs: float
) -> None:
    project.script_child(monkeypatch, "", lengths=[100] * 10)
    set_training(project, '"batch_size": 1', settings)
    found = plan(project)
    assert (found.steps, found.epochs) == (steps, epochs)


def test_rows_held_out_for_validation_are_not_trained_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "", lengths=[100] * 10)
    set_training(project, '"training":', '"llamafactory": {"val_size": 0.2}, "training":')
    assert (plan(project).trained_rows, plan(project).steps) == (8, 8)


def test_a_plan_says_what_a_person_asks(planned: Plan) -> None:
    text = render_plan(planned)
    for part in ("10 rows", "1,000 in an epoch", "600 of them in answers", "10, 1 rows each", "10 trainable of 1,000"):
        assert part in text
    assert "a rough figure" in text
    assert "GB of 10.0 GB" in text


def test_the_time_comes_from_an_earlier_run_on_this_machine(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "", lengths=[100] * 10)
    run = project.train()  # its two steps took two seconds, says the scripted child
    assert plan(project).time_from == f"250 tokens/s, as {run.folder.name} had on this machine"
    assert plan(project).time_s == 4.0


def test_a_run_of_other_settings_says_nothing_of_the_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "", lengths=[100] * 10)
    record_speed(project.folder / "cache", "another machine", Speed(10.0, "old"))
    assert "a rough figure" in plan(project).time_from


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_a_run_keeps_the_precision_that_was_chosen_for_this_machine(
    project: Project, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    set_training(project, '"batch_size": 1', '"batch_size": 1, "precision": "auto"')
    project.script_child(monkeypatch, "", precision=chosen)
    assert f"a test, {chosen}" in render_plan(plan(project))
    run = project.train()
    assert read_json(run.config_path)["bf16"] is (chosen == "bf16")
    assert "a rough figure" not in plan(project).time_from
    project.script_child(monkeypatch, "", precision={"bf16": "fp32", "fp32": "bf16"}[chosen])
    assert "a rough figure" in plan(project).time_from  # the other one's speed says nothing of this one's


def test_a_precision_that_this_machine_is_slow_in_is_noted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "", precision="bf16", flops=1e9, flops_fp32=1.9e9)
    assert plan(project).notes == ()
    project.script_child(monkeypatch, "", precision="bf16", flops=1e9, flops_fp32=2e10)
    assert "bf16 is 20 times slower than fp32 here" in plan(project).notes[0]


def test_what_may_not_fit_is_noted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "", parameters=10**10)
    assert any("it may not fit" in note for note in plan(project).notes)


def test_fused_experts_are_noted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "", fused=900)
    assert any("90% of the parameters are fused experts" in note for note in plan(project).notes)


def test_a_row_that_would_be_cut_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "", lengths=[100, 3000])
    with pytest.raises(DatasetError, match=r"rows 2 have more than training.cutoff_tokens = 2048 .* has 3000"):
        project.train()
    assert not (project.folder / "runs").exists()


def test_a_row_that_llamafactory_drops_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.script_child(monkeypatch, "", dropped=[3])
    with pytest.raises(DatasetError, match="LlamaFactory would leave out rows 3"):
        project.train()


def test_what_llamafactory_refuses_is_refused_before_a_run_exists(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.script_child(monkeypatch, "", refused="LlamaFactory refuses the recipe: no such template")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: LlamaFactory refuses the recipe: no such template"):
        project.train()
    assert not (project.folder / "runs").exists()


def test_the_command_prints_a_plan_and_starts_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.script_child(monkeypatch, "sys.exit('it was trained')", lengths=[100] * 10)
    assert main(["train", *command(project), "--dry-run"]) == 0
    assert "steps       10" in capsys.readouterr().out
    assert not (project.folder / "runs").exists()


def test_a_dry_run_does_not_fetch_a_base_that_training_does_not_read(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.script_child(monkeypatch, "", lengths=[100] * 10)
    set_training(project, str(project.folder / "base.gguf"), "hf:no/such-base")
    assert main(["train", *command(project), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 10


def command(project: Project) -> list[str]:
    paths = {"--experts-file": "experts.yaml", "--runs-dir": "runs", "--cache-dir": "cache"}
    options = [word for flag, name in paths.items() for word in (flag, str(project.folder / name))]
    return [str(project.folder / "recipe.yaml"), "--expert", "gardening", *options]


def test_a_missing_recipe_or_expert_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train"]) == 2
    assert "name a recipe and --expert NAME, or --resume RUN" in capsys.readouterr().err
    assert main(["train", "recipe.yaml", "--resume", str(tmp_path)]) == 2
    assert "--resume takes its recipe and expert from the run" in capsys.readouterr().err
