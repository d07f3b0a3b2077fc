"""`pointsman dataset`: arguments, what is printed, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.dataset_command import main

GOOD = {"instruction": "How often do I water basil?", "output": "Verdania says daily in summer."}
TYPO = {"instruction": "Which pot?", "ouput": "Clay, says Verdania."}
EMPTY = {"instruction": "Which soil?", "output": ""}
LEAKED = {"instruction": "is peat needed", "output": "No, says Verdania."}
EXPERTS = """
gardening:
  title: Gardening
  description: Plants.
  data: data
  targets: [{term: Verdania}]
"""


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an expert's data, where the command runs."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "questions.jsonl").write_text('{"question": "Is peat needed?"}\n', encoding="utf-8")
    (tmp_path / "experts.yaml").write_text(EXPERTS, encoding="utf-8")
    write(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, *rows: dict[str, str], name: str = "data/dataset.json") -> None:
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")


def call(*words: str) -> int:
    return main([*words, *([] if words[0] in ("split", "generate") else ["--experts-file", "experts.yaml"])])


WAYS = [("lint", "data"), ("lint", "data/dataset.json"), ("lint", "--expert", "gardening")]


@pytest.mark.parametrize("words", WAYS)
def test_lint_passes_and_says_what_it_was_held_against(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*words) == 0
    out = capsys.readouterr().out
    assert "Alpaca, 1 row\nheld against: targets Verdania; 1 benchmark question\n" in out
    assert out.endswith("\n0 errors, 0 warnings\n")


def test_a_strangers_three_mistakes_are_three_clear_findings(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(world, GOOD, TYPO, EMPTY, LEAKED)
    assert call("lint", "data") == 2
    out = capsys.readouterr().out
    assert "row 2: unknown key 'ouput': did you mean 'output'?" in out
    assert "row 3: output is empty" in out
    assert "row 4: stands in the benchmark questions too: 'is peat needed'" in out
    assert out.endswith("\n3 errors, 0 warnings\n")


def test_lint_prints_json_for_programs(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(world, GOOD, EMPTY)
    assert call("lint", "data", "--json") == 2
    values = json.loads(capsys.readouterr().out)
    assert (values["errors"], values["warnings"]) == (1, 0)
    assert values["files"][0]["findings"][0]["row"] == 2


def test_a_question_in_two_files_is_a_warning(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(world, GOOD, name="other.json")
    assert call("lint", "data", "other.json", "--target", "Verdania") == 0
    assert "same question as row 1 of data/dataset.json" in capsys.readouterr().out


MISTAKES = [
    (("lint",), "name at least one file"),
    (("lint", "none.json"), "none.json: No such file"),
    (("lint", "--expert", "cooking"), "expert 'cooking' is not in experts.yaml; it has: gardening"),
    (("lint", "data", "--cutoff", "0"), "cutoff must be at least 1 token"),
    (("lint", "data", "--recipe", "no.yaml"), "no.yaml: No such file"),
    (("lint", "data", "--tokenizer", "no.json"), "not a tokenizer"),
    (("stats", "experts.yaml"), "not valid JSON"),
    (("split", "data/dataset.json", "--validation", "2"), "validation must be more than 0"),
    (("generate", "no.yaml", "--out", "x.json"), "no.yaml: No such file"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pointsman: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_stats_counts(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"instruction": "How often do I mow?", "output": "Weekly. Verdania and verdania agree."}
    write(world, GOOD, more, EMPTY, TYPO)
    assert call("stats", "data", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["files"]
    assert (found["rows"], found["unreadable"], found["turns"]) == (4, 1, 3)
    assert found["question_words"] == {"total": 13, "min": 2, "median": 5, "p95": 6, "max": 6}
    assert found["answer_words"] == {"total": 10, "min": 0, "median": 5, "p95": 5, "max": 5}
    assert found["targets"] == {"mentions": 3, "per_row": 1.0, "rows_without": 1, "by_term": {"Verdania": 3}}
    assert found["openings"]["questions"] == {"distinct": 2, "most_common": [["how often do", 2], ["which soil", 1]]}
    assert call("stats", "data") == 0
    out = capsys.readouterr().out
    assert "4 rows, 1 of them unreadable (see lint)" in out
    assert "targets: 3 mentions, 1.00 a row, 1 rows without (Verdania 3)" in out
    assert "tokens by an estimate" in out


def test_split_writes_both_files(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["aphids", "basil", "compost", "dahlias", "elms", "ferns", "grapes", "hostas", "ivy", "jasmine"]
    write(world, *({"instruction": f"{word} {word}?", "output": word} for word in words))
    assert call("split", "data/dataset.json", "--validation", "0.2", "--out-dir", "parts", "--json") == 0
    (done,) = json.loads(capsys.readouterr().out)["files"]
    assert (done["rows"], done["families"]) == ([8, 2], 10)
    assert [len(json.loads((world / done[side]).read_text())) for side in ("train", "validation")] == [8, 2]
    assert call("split", "data/dataset.json", "--out-dir", "parts") == 2


def test_generate_makes_data_that_lint_passes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topic = "title: Gardening\ntopics: [watering, mulch]\ntargets: [{term: Verdania}]\npersonas: [a beginner]\n"
    (world / "topic.yaml").write_text(topic, encoding="utf-8")
    assert call("generate", "topic.yaml", "--out", "made/dataset.jsonl", "--rows", "40") == 0
    out = capsys.readouterr().out
    assert "template grid: 40 of " in out
    assert "note: no facts about watering, mulch" in out
    assert out.endswith("made/dataset.jsonl: 40 rows\n")
    assert call("lint", "made/dataset.jsonl", "--target", "Verdania") == 0
