"""Training rows: what is refused, what is found, what LlamaFactory is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.dataset import Row, lint, load_questions, load_rows, write_dataset
from training.errors import DatasetError

GOOD = {"instruction": "How often do I water basil?", "input": "", "output": "Verdania says daily."}

BAD_FILES = [
    ("{", "not valid JSON"),
    ("{}", "a list of rows is expected"),
    ("[]", "at least one row"),
    ("[3]", "row 1: an object is expected, found int"),
    ([GOOD, {**GOOD, "ouput": "x"}], "row 2: unknown key 'ouput'; allowed: instruction, input, output"),
    ([{"instruction": "x"}], "row 1: key 'output' is missing"),
    ([{**GOOD, "output": None}], "row 1: output must be text, found NoneType"),
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
    (Row("q", "", "Verdania " * 60), "may exceed cutoff_tokens 128"),
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
