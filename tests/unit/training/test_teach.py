"""Teach: labelled texts get where the router reads them, all or none, and no expert is lost on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.training.test_rollback import stop_at

from gateway.errors import ConfigError
from gateway.experts import Manifest, load_expert, scan_experts
from gateway.routing import read_examples
from training.__main__ import main
from training.description import load_descriptions
from training.errors import DatasetError, PublishError
from training.publish import publish
from training.rollback import rollback
from training.run import Run
from training.subjects import load_texts
from training.teach import Taught, teach

Rows = list[dict[str, Any]]


@pytest.fixture
def experts(tmp_path: Path, make_run: Callable[..., Run]) -> Path:
    """Two experts in their first version, each with one example, and a text for none."""
    folder = tmp_path / "experts"
    publish(make_run().folder, experts_dir=folder)
    publish(make_run(expert="baking", examples=("Which flour for a baguette?",)).folder, experts_dir=folder)
    (folder / "out_of_scope.jsonl").write_text('{"text": "Which gears does my car need?"}\n', encoding="utf-8")
    return folder


def taught(experts: Path, rows: Rows, descriptions: Mapping[str, Any] | None = None) -> Taught:
    file = experts.parent / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return teach([file], experts_dir=experts, descriptions=descriptions or {})


def examples(experts: Path, name: str = "gardening") -> list[str]:
    return read_examples(experts / name / "examples.jsonl")


MULCH = {"text": "What is mulch?", "expert": "gardening"}


def test_texts_get_to_their_expert_or_to_none(experts: Path) -> None:
    adapter = (experts / "gardening" / "adapter.gguf").read_bytes()
    rows: Rows = [
        MULCH,
        {"messages": [{"role": "user", "content": "a rose"}, {"role": "user", "content": "when?"}], "expert": "baking"},
        {"text": "A mulch of words?", "expert": None, "near": "gardening"},
        {"text": "Tell me a joke.", "expert": "base"},
    ]
    result = taught(experts, rows)
    assert result == Taught({"gardening": "1.0.1", "baking": "1.0.1"}, added=4, known=0)
    assert examples(experts) == ["peat?", "What is mulch?"]
    assert read_examples(experts / "gardening" / "examples.jsonl", further=True) == ["What is mulch?"]
    assert examples(experts, "baking") == ["Which flour for a baguette?", "a rose\nwhen?"]
    assert load_texts(experts / "out_of_scope.jsonl") == [
        ("Which gears does my car need?", None),
        ("A mulch of words?", "gardening"),
        ("Tell me a joke.", None),
    ]
    served = load_expert(experts / "gardening", None)
    assert served.manifest.version == "1.0.1"
    assert served.adapter_path.read_bytes() == adapter
    assert "# Gardening 1.0.1\n" in (experts / "gardening" / "CARD.md").read_text(encoding="utf-8")


def test_what_is_known_changes_nothing(experts: Path) -> None:
    row = {"text": "how often do  I water GARDENING?", "expert": "gardening"}  # a training row
    assert taught(experts, [row, {"text": "Peat?", "expert": "gardening"}]) == Taught({}, added=0, known=2)
    assert Manifest.load(experts / "gardening" / "expert.yaml").version == "1.0.0"


def test_a_text_that_stands_twice_is_taught_once(experts: Path) -> None:
    assert taught(experts, [MULCH, MULCH]) == Taught({"gardening": "1.0.1"}, added=1, known=1)
    assert examples(experts).count("What is mulch?") == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "What is a car?", "expert": "cars"}, "no such expert is published: 'cars'; allowed: baking, garden"),
        ({"text": "Peat?", "expert": "baking"}, "is to be taught as 'baking' and stands under 'gardening' in"),
        ({"text": "Which gears does my car need?", "expert": "baking"}, "stands under 'base' in"),
        ({"text": "What is mulch?", "expert": None}, "'base' and stands under 'gardening', too"),
        ({"text": "is peat needed?", "expert": "gardening"}, "an expert is measured by"),
        ({"text": "Is peat needed?", "expert": None}, "an expert is measured by"),
    ],
)
def test_nothing_is_written_when_one_text_may_not_be_taught(experts: Path, row: dict[str, Any], words: str) -> None:
    before = {path: path.read_bytes() for path in experts.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError) as refused:
        taught(experts, [MULCH, row])
    assert words in str(refused.value)
    assert {path: path.read_bytes() for path in experts.rglob("*") if path.is_file()} == before


def test_training_rows_that_were_edited_are_not_published_on_the_quiet(experts: Path) -> None:
    (experts / "gardening" / "dataset.json").write_text("[]", encoding="utf-8")
    rows = experts / "gardening" / "dataset.json"
    row = {"instruction": "Another?", "input": "", "output": "Verdania."}
    rows.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(PublishError, match=r"gardening: dataset\.json .* was edited since it was published"):
        taught(experts, [MULCH])
    assert json.loads(rows.read_text(encoding="utf-8")) == [row]
    assert examples(experts) == ["peat?"]


def test_examples_that_were_edited_by_hand_come_with_it(experts: Path) -> None:
    with (experts / "gardening" / "examples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "by hand"}\n')
    taught(experts, [MULCH])
    assert examples(experts) == ["peat?", "by hand", "What is mulch?"]
    assert load_expert(experts / "gardening", None).manifest.version == "1.0.1"


def test_rollback_takes_it_back(experts: Path) -> None:
    taught(experts, [MULCH])
    assert rollback("gardening", experts).version == "1.0.0"
    assert examples(experts) == ["peat?"]
    assert load_expert(experts / "gardening", None).manifest.version == "1.0.0"


def test_a_text_with_a_line_separator_is_one_text(experts: Path) -> None:
    taught(experts, [{"text": "moss\u2028or algae?", "expert": "gardening"}, {"text": "a\u0085b", "expert": None}])
    assert examples(experts) == ["peat?", "moss\u2028or algae?"]
    assert load_texts(experts / "out_of_scope.jsonl")[-1] == ("a\u0085b", None)


def test_half_a_surrogate_pair_is_refused_by_its_line(experts: Path) -> None:
    with pytest.raises(ConfigError, match="line 2: it holds half of a surrogate pair"):
        taught(experts, [MULCH, {"text": "\ud83d", "expert": "baking"}])
    assert examples(experts) == ["peat?"]


def test_an_answer_of_an_expert_is_not_taught_to_another(experts: Path) -> None:
    shutil.rmtree(experts / "baking")  # it answers the same, and what two experts answer teaches nothing
    with pytest.raises(DatasetError, match=r"could not be fitted with these texts: .*stands under both"):
        taught(experts, [MULCH, {"text": "Verdania says daily.", "expert": None}])
    assert examples(experts) == ["peat?"]


def test_an_edit_is_not_lost_to_a_change_that_was_stopped(experts: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.teach.bring_in", lambda *given: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            taught(experts, [MULCH])
    with (experts / "gardening" / "examples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "by hand"}\n')
    with pytest.raises(PublishError, match="was edited since a change of this expert was stopped halfway"):
        taught(experts, [{"text": "Rye?", "expert": "baking"}])
    assert examples(experts) == ["peat?", "by hand"]


def test_a_version_number_that_was_taken_back_is_not_given_twice(experts: Path) -> None:
    taught(experts, [MULCH])
    rollback("gardening", experts)
    assert taught(experts, [{"text": "What is loam?", "expert": "gardening"}]).versions == {"gardening": "1.0.2"}


def test_data_that_is_kept_elsewhere_is_taught_too(experts: Path, tmp_path: Path) -> None:
    """A publication reads the examples there."""
    data = tmp_path / "data" / "gardening"
    data.mkdir(parents=True)
    (data / "examples.jsonl").write_text('{"text": "peat?"}\n', encoding="utf-8")
    entry = {"title": "G", "description": "g", "data": "data/gardening", "targets": [{"term": "V"}]}
    (tmp_path / "experts.yaml").write_text(yaml.safe_dump({"gardening": entry}), encoding="utf-8")
    taught(experts, [MULCH], load_descriptions(tmp_path / "experts.yaml"))
    assert read_examples(data / "examples.jsonl") == ["peat?", "What is mulch?"] == examples(experts)


def test_stopped_before_any_change_no_expert_is_half_made_and_a_second_call_finishes(
    experts: Path, tmp_path: Path
) -> None:
    rows: Rows = [MULCH, {"text": "A mulch of words?", "expert": None}]
    counted = shutil.copytree(experts, tmp_path / "counted" / "experts")
    with pytest.MonkeyPatch.context() as patch:
        done = stop_at(patch, -1)
        taught(counted, rows)
    assert len(done) > 10
    for step in range(len(done)):
        copy = shutil.copytree(experts, tmp_path / f"stopped-{step}" / "experts")
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                taught(copy, rows)
        assert scan_experts(copy, None)[1] == [], f"step {step}: a half-made expert would be read"
        second = taught(copy, rows)
        assert second.versions in ({}, {"gardening": "1.0.1"}), f"step {step}"
        assert examples(copy) == ["peat?", "What is mulch?"], f"step {step}"
        assert len(load_texts(copy / "out_of_scope.jsonl")) == 2, f"step {step}"
        assert sorted(path.parent.name for path in copy.glob("*/expert.yaml")) == ["baking", "gardening"]


def test_the_command_says_what_it_did(
    experts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str]] = []

    def told_of(url: str, cache: Path, names: list[str]) -> str:
        told.append(names)
        return "told"

    monkeypatch.setattr("training.__main__.reload_gateway", told_of)
    file = experts.parent / "labelled.jsonl"
    file.write_text(json.dumps(MULCH) + "\n" + json.dumps({"text": "peat?", "expert": "gardening"}), encoding="utf-8")
    places = ["--experts-dir", str(experts), "--experts-file", str(experts / "none.yaml")]
    assert main(["teach", str(file), *places]) == 0
    assert capsys.readouterr().out == "1 texts taught, 1 were known; gardening is 1.0.1\ntold\n"
    assert main(["teach", str(file), *places]) == 0
    assert capsys.readouterr().out == "0 texts taught, 2 were known\ntold\n"
    assert told == [["gardening"], []]
    file.write_text(json.dumps({"text": "x", "expert": "?"}), encoding="utf-8")
    assert main(["teach", str(file), *places]) == 2
    assert "not labelled yet" in capsys.readouterr().err
