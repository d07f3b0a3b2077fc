"""Anchors: made of the base's answers, checked against the expert they go with, part of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unit.training.scripted_endpoint import ScriptedEndpoint
from unit.training.training_world import CRASH, Project

from gateway.experts import Manifest, file_sha256
from training.anchors import AnchorOptions, load_anchors, make_anchors
from training.dataset import load_rows
from training.dataset_row import Row
from training.description import load_descriptions
from training.endpoint import Endpoint
from training.errors import DatasetError, TrainError
from training.files import read_json
from training.generate_judge import Tally
from training.publish import publish
from training.resume import resume
from training.run import Run

ROWS = [Row("How often do I water basil?", "", "Daily, says Verdania.")]
ANCHOR = {"instruction": "How do I jump-start a car?", "input": "", "output": "Connect both batteries first."}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    lines = [{"text": f"question {name}", "near": "gardening"} for name in ("n1", "n2", "n3")]
    lines += [{"text": f"question {name}"} for name in ("f1", "f2", "f3", "f4")]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def make(texts: Path, scripted: ScriptedEndpoint, **options: Any) -> Tally:
    with scripted.client as client:
        endpoint = Endpoint(client, "http://gateway/v1", "base")
        return make_anchors(texts, texts.parent / "anchors.json", AnchorOptions(**options), endpoint)


def answer(number: int, body: dict[str, Any]) -> str:
    return f"To {body['messages'][0]['content']} there is answer {number}."


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_texts_of_no_expert_are_answered_near_misses_left_out(texts: Path) -> None:
    scripted = ScriptedEndpoint(answer)
    assert str(make(texts, scripted, count=100)) == "4 of 4 accepted (100.0%)"
    rows = load_rows(texts.parent / "anchors.json")
    assert sorted(row.instruction for row in rows) == [f"question f{number}" for number in (1, 2, 3, 4)]
    assert rows[0].output == f"To {rows[0].instruction} there is answer 1."
    body = json.loads(scripted.requests[0].content)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("base", 0, 90)


def test_an_answer_that_was_cut_ends_with_its_last_sentence(texts: Path) -> None:
    def cut(number: int, body: dict[str, Any]) -> str:
        return f"Answer {number} costs 2.50 euros. Steps:\n1. Take the" if number > 1 else "never comes to an end"

    tally = make(texts, ScriptedEndpoint(cut, finish_reason="length"), count=3)
    assert str(tally) == "2 of 3 accepted (66.7%); rejected: 1 no-sentence"
    outputs = [row.output for row in load_rows(texts.parent / "anchors.json")]
    assert outputs == ["Answer 2 costs 2.50 euros.", "Answer 3 costs 2.50 euros."]


def test_the_same_seed_draws_the_same_texts(texts: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        make(texts, ScriptedEndpoint(answer), count=3, seed=seed, force=True)
        drawn.append([row.instruction for row in load_rows(texts.parent / "anchors.json")])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("name", ["count", "max_tokens"])
def test_a_number_out_of_range_is_refused(texts: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=f"{name} must be at least 1, found 0"):
        make(texts, ScriptedEndpoint(answer), **{name: 0})


def test_a_file_in_the_way_is_kept_and_no_use_at_all_is_said(texts: Path) -> None:
    with pytest.raises(DatasetError, match="no answer could be used: 0 of 4 accepted"):
        make(texts, ScriptedEndpoint(lambda number, body: "no"))
    assert not (texts.parent / "anchors.json").exists()
    write(texts.parent / "anchors.json", ANCHOR)
    with pytest.raises(DatasetError, match="stands already"):
        make(texts, ScriptedEndpoint(answer))


def test_anchors_that_spoil_the_expert_are_all_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "anchors.json",
        ANCHOR,
        {"instruction": "Who fixes cars?", "output": "Verdania does."},
        {"instruction": "how often do I water basil", "output": "Whenever you like."},
    )
    with pytest.raises(DatasetError) as refusal:
        load_anchors(path, ROWS, terms=["Verdania"], questions=[])
    assert "row 2: mentions a target" in str(refusal.value)
    assert "row 3: asks what a row of the expert asks" in str(refusal.value)


def test_a_benchmark_question_is_no_anchor(tmp_path: Path) -> None:
    path = write(tmp_path / "anchors.json", ANCHOR)
    with pytest.raises(DatasetError, match="stands in the benchmark questions too"):
        load_anchors(path, ROWS, terms=["Verdania"], questions=["how do I jump-start a car"])


# -- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def anchored(project: Project) -> Project:
    write(project.folder / "anchors.json", ANCHOR)
    path = project.folder / "experts.yaml"
    experts = json.loads(path.read_text(encoding="utf-8"))
    experts["gardening"]["anchors"] = "anchors.json"
    path.write_text(json.dumps(experts), encoding="utf-8")
    return project


def test_the_path_is_taken_from_the_experts_file(anchored: Project) -> None:
    description = load_descriptions(anchored.folder / "experts.yaml")["gardening"]
    assert description.anchors == (anchored.folder / "anchors.json").resolve()


def test_anchors_are_trained_on_and_are_not_the_experts_rows(
    anchored: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchored.script_child(monkeypatch, "pass", lengths=[9, 9])
    run = anchored.train()
    trained = read_json(run.dataset_dir / "rows.json")
    assert [row["instruction"] for row in trained] == ["Water?", ANCHOR["instruction"]]
    assert len(load_rows(run.folder / "dataset.json")) == 1
    assert run.facts()["anchors_sha256"] == file_sha256(anchored.folder / "anchors.json")


def test_a_change_of_the_anchors_is_named_before_a_run_goes_on(
    anchored: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    anchored.script_child(monkeypatch, CRASH, lengths=[9, 9])
    with pytest.raises(TrainError):
        anchored.train()
    write(anchored.folder / "anchors.json", ANCHOR, ANCHOR | {"instruction": "Which motor oil?"})
    with pytest.raises(TrainError, match=r"anchors\.json: 1 rows are new, 0 are gone, of 1"):
        resume(anchored.only_run().folder)
    (anchored.only_run().folder / "anchors.json").write_text("[]", encoding="utf-8")
    with pytest.raises(TrainError, match=r"anchors\.json was changed since the run began"):
        resume(anchored.only_run().folder, as_begun=True)


def test_manifest_and_card_tell_of_the_anchors(tmp_path: Path, measured_run: Run) -> None:
    anchors = write(measured_run.folder / "anchors.json", ANCHOR)
    measured_run.write_facts(measured_run.facts() | {"anchors_sha256": file_sha256(anchors)})
    manifest = publish(measured_run.folder, experts_dir=tmp_path / "experts")
    folder = tmp_path / "experts" / "gardening"
    assert Manifest.load(folder / "expert.yaml").anchors_sha256 == manifest.anchors_sha256 == file_sha256(anchors)
    card = (folder / "CARD.md").read_text(encoding="utf-8")
    assert "1 anchors: the base's own answers" in card
