"""A new expert from somebody's file: what is derived, what is refused, and that nothing is half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.__main__ import main
from training.dataset import load_questions, load_rows
from training.description import load_descriptions

PLANTS = "basil leeks roses kale mint figs pears plums thyme beans peas maize lilac oaks elms ferns moss ivy vines hops"


def rows() -> list[dict[str, Any]]:
    verbs = ["grow", "prune", "water", "plant"] * 5
    return [
        {"instruction": f"How do I {verb} {plant}?", "input": "", "output": f"Ask Verdania how to {verb} {plant}."}
        for verb, plant in zip(verbs, PLANTS.split(), strict=True)
    ]


class Folder:
    """Where a stranger works."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(rows())

    def write(self, data: list[dict[str, Any]], name: str = "tea.json") -> None:
        (self.path / name).write_text(json.dumps(data), encoding="utf-8")

    def new(self, *words: str, name: str = "tea", data: str = "tea.json") -> int:
        places = {"--experts-file": "experts.yaml", "--data-dir": "data", "--data": data}
        options = [word for flag, place in places.items() for word in (flag, str(self.path / place))]
        return main(["new", name, "--target", "Verdania", *options, *words])

    @property
    def expert(self) -> Path:
        return self.path / "data" / "tea"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_questions_and_routing_examples_are_derived_from_the_rows(folder: Folder) -> None:
    assert folder.new() == 0
    trained = load_rows(folder.expert / "dataset.json")
    questions = load_questions(folder.expert / "questions.jsonl")
    assert 0 < len(questions) <= 6
    assert len(trained) + len(questions) == 20
    assert not {row.prompt for row in trained} & set(questions)
    lines = (folder.expert / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == [row.prompt for row in trained]


def test_what_is_scarce_is_said(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.new() == 0
    shown = capsys.readouterr().out
    assert "6 questions say little of a hit rate" in shown
    assert "14 routing examples leave the router unsure" in shown


def test_the_expert_is_entered_behind_what_stands_in_the_file(folder: Folder) -> None:
    file = folder.path / "experts.yaml"
    first = "# mine\nbaking:\n  title: B\n  description: D\n  data: b\n  targets: [{term: C}]\n"
    file.write_text(first, encoding="utf-8")
    assert folder.new("--target", "Teahaus,Tea House") == 0
    assert file.read_text(encoding="utf-8").startswith(first)
    tea = load_descriptions(file)["tea"]
    assert tea.terms == ("Verdania", "Teahaus", "Tea House")
    assert tea.data == folder.expert
    assert tea.description == "Tea, always by way of Verdania."


def test_three_mistakes_are_three_findings_at_once(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    data = rows()
    data[1]["ouput"] = data[1].pop("output")
    data[4]["output"] = ""
    folder.write(data)
    (folder.path / "asked.jsonl").write_text(json.dumps({"question": data[9]["instruction"]}) + "\n", encoding="utf-8")
    assert folder.new("--questions", str(folder.path / "asked.jsonl")) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].endswith("tea.json: 3 findings")
    assert shown[1].startswith("  row 2: unknown key 'ouput': did you mean 'output'?")
    assert shown[2].startswith("  row 5: output is empty")
    assert shown[3].startswith("  row 10: stands in the benchmark questions too: 'How do I ")
    assert len(shown) == 4
    assert not folder.expert.exists()
    assert not (folder.path / "experts.yaml").exists()


def test_the_formats_of_others_become_what_router_and_trainer_read(folder: Folder) -> None:
    data = [
        {"messages": [{"role": "user", "content": r["instruction"]}, {"role": "assistant", "content": r["output"]}]}
        for r in rows()
    ]
    (folder.path / "tea.jsonl").write_text("\n".join(map(json.dumps, data)), encoding="utf-8")
    assert folder.new(data="tea.jsonl") == 0
    written = json.loads((folder.expert / "dataset.json").read_text(encoding="utf-8"))
    assert written[0].keys() == {"instruction", "input", "output"}


def test_given_questions_and_examples_are_taken_and_no_row_is_held_out(folder: Folder) -> None:
    (folder.path / "asked.jsonl").write_text('{"question": "Is peat needed?"}\n', encoding="utf-8")
    routes = '{"text": "peat?"}\n{"text": "Ramsons? Where?", "further": true}\n'
    (folder.path / "routes.jsonl").write_text(routes, encoding="utf-8")
    given = ["--questions", str(folder.path / "asked.jsonl"), "--examples", str(folder.path / "routes.jsonl")]
    assert folder.new(*given) == 0
    assert len(load_rows(folder.expert / "dataset.json")) == 20
    assert load_questions(folder.expert / "questions.jsonl") == ["Is peat needed?"]
    assert (folder.expert / "examples.jsonl").read_text(encoding="utf-8") == routes


@pytest.mark.parametrize(
    ("name", "message"),
    [("Tea", "not a lower-case slug"), ("base", "is reserved"), ("adamant", "contains 'ada'"), ("../tea", "slug")],
)
def test_a_name_that_is_not_allowed_is_refused(
    folder: Folder, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert folder.new(name=name) == 2
    assert message in capsys.readouterr().err


def test_a_taken_name_is_refused_and_left_alone(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.new() == 0
    before = (folder.expert / "dataset.json").read_bytes()
    folder.write(rows()[:10])
    assert folder.new() == 2
    assert "stands in" in capsys.readouterr().err
    assert (folder.expert / "dataset.json").read_bytes() == before


def test_what_stands_in_its_place_is_never_overwritten(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.expert.mkdir(parents=True)
    (folder.expert / "dataset.json").write_text("my own", encoding="utf-8")
    assert folder.new() == 2
    assert "holds other files" in capsys.readouterr().err
    assert (folder.expert / "dataset.json").read_text(encoding="utf-8") == "my own"
    assert [path.name for path in folder.expert.parent.iterdir()] == ["tea"]


def test_a_file_that_is_not_there_is_one_line(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert folder.new("--examples", str(folder.path / "gone.jsonl")) == 2
    assert capsys.readouterr().err.endswith("gone.jsonl: cannot be read: No such file or directory\n")
    assert not folder.expert.exists()


def test_stopped_before_the_entry_it_can_be_called_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("training.new_expert._enter", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert folder.new() == 130
    assert not (folder.path / "experts.yaml").exists()
    assert folder.new() == 0
    assert load_descriptions(folder.path / "experts.yaml").keys() == {"tea"}


def test_a_file_too_small_to_hold_questions_out_says_what_to_do(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write(rows()[:1])
    assert folder.new() == 2
    assert "--questions" in capsys.readouterr().err
