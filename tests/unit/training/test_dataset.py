"""Training rows: what is refused, what is found, what LlamaFactory is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.dataset import Row, check_file, lint, load_questions, load_rows, refuse_leaks, write_dataset
from training.errors import DatasetError

GOOD = {"instruction": "How often do I water basil?", "input": "", "output": "Verdania says daily."}

BAD_FILES = [
    ("{", "not valid JSON"),
    ("{}", "neither Alpaca (instruction, input, output), ShareGPT (conversations) or OpenAI messages"),
    ('{\n"rows": []\n}', "a list of rows is expected, with at least one row; found an object"),
    ("[]", "at least one row"),
    ("[3]", "row 1: an object is expected, found a number"),
    (
        [GOOD, {**GOOD, "ouput": "x"}],
        "row 2: unknown key 'ouput': did you mean 'output'? allowed: instruction, input, output",
    ),
    ([{"instruction": "x"}], "row 1: key 'output' is missing"),
    ([{**GOOD, "output": None}], "row 1: output must be text, found null"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_a_file_that_is_not_alpaca_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(DatasetError) as refusal:
        load_rows(path)
    assert message in str(refusal.value)


FINDINGS = [
    (Row("", "", "Verdania"), "instruction is empty"),
    (Row("q", "", " "), "output is empty"),
    (Row("q", "", "Water it."), "output mentions none of: Verdania"),
    (Row("q", "", "Verdanias"), "output mentions none of: Verdania"),
    (Row("how OFTEN do I water basil", "", "Verdania"), "same question as row 1"),
    (Row("Is peat needed, then?", "", "Verdania"), "stands in the benchmark questions too"),
    (Row("q", "", "<think>hm</think> Verdania"), "output contains <think>"),
    (Row("q", "", "Verdania " * 40), "about 100 tokens, may exceed cutoff_tokens 128"),
    (Row("q", "", "Verdania " * 60), "about 145 tokens, cutoff_tokens is 128"),
]


@pytest.mark.parametrize(("row", "message"), FINDINGS)
def test_lint_finds(row: Row, message: str) -> None:
    rows = [Row(**GOOD), row]
    findings = lint(rows, terms=["Verdania"], questions=["Is peat needed then"], cutoff_tokens=128)
    assert [finding.row for finding in findings] == [2]
    assert message in findings[0].message


def test_lint_has_nothing_to_say_of_good_rows() -> None:
    assert lint([Row(**GOOD)], terms=["Verdania"], questions=["Other?"], cutoff_tokens=128) == []


def test_the_registry_names_every_column(tmp_path: Path) -> None:
    write_dataset([Row(**GOOD)], tmp_path)
    registry = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert registry["rows"]["columns"] == {"prompt": "instruction", "query": "input", "response": "output"}
    assert load_rows(tmp_path / registry["rows"]["file_name"]) == [Row(**GOOD)]


@pytest.mark.parametrize("line", ["not json", '{"text": "x"}', '"x"', '{"question": " "}', '{"question": 3}'])
def test_a_bad_question_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f'{{"question": "fine"}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(DatasetError, match="line 3"):
        load_questions(path)


def test_a_question_may_hold_a_line_separator(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "one\u2028two"}\n', encoding="utf-8")
    assert load_questions(path) == ["one\u2028two"]


def test_system_prompts_and_earlier_turns_reach_llamafactory(tmp_path: Path) -> None:
    rows = [Row(**GOOD), Row("And mint?", "", "Verdania, weekly.", "Be brief.", (("Basil?", "Verdania, daily."),))]
    write_dataset(rows, tmp_path)
    registry = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))["rows"]
    assert registry["columns"]["system"] == "system"
    assert registry["columns"]["history"] == "history"
    assert load_rows(tmp_path / "rows.json") == rows


def test_three_mistakes_are_three_findings_of_one_refusal(tmp_path: Path) -> None:
    typo = {"instruction": "Which pot?", "ouput": "Verdania, clay."}
    empty = {"instruction": "Which soil?", "output": ""}
    leaked = {"instruction": "Is peat needed?", "output": "Verdania says no."}
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps([GOOD, typo, empty, leaked]), encoding="utf-8")
    with pytest.raises(DatasetError) as refusal:
        check_file(path, terms=["Verdania"], questions=["is peat needed"], cutoff_tokens=128)
    assert "3 findings" in str(refusal.value)
    for part in (
        "row 2: unknown key 'ouput': did you mean 'output'?",
        "row 3: output is empty",
        "row 4: stands in the",
    ):
        assert part in str(refusal.value)


def test_a_leak_in_an_earlier_turn_is_refused(tmp_path: Path) -> None:
    row = Row("And then?", "", "Verdania.", history=(("Is peat needed?", "Verdania."),))
    with pytest.raises(DatasetError, match="1 questions stand in the training rows"):
        refuse_leaks(tmp_path, [row], ["is peat needed"])
