"""The formats: what is recognised, what a row becomes, and the clear error for each thing LlamaFactory swallows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.dataset_format import Format, load_dataset
from training.dataset_row import Row
from training.errors import DatasetError

ALPACA = {"instruction": "Q?", "output": "A."}
HISTORY = {**ALPACA, "input": "more", "system": "S", "history": [["Q0", "A0"]]}
SHAREGPT = {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]}
OPENAI = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{role} text"} for role in roles]}


def write(folder: Path, content: Any, *, lines: bool = False) -> Path:
    path = folder / "data.json"
    text = "\n".join(json.dumps(item) for item in content) if lines else json.dumps(content)
    path.write_text(content if isinstance(content, str) else text, encoding="utf-8")
    return path


READ = [
    (ALPACA, Format.ALPACA, Row("Q?", "", "A.")),
    ({**ALPACA, "input": None}, Format.ALPACA, Row("Q?", "", "A.")),
    (HISTORY, Format.ALPACA, Row("Q?", "more", "A.", "S", (("Q0", "A0"),))),
    (SHAREGPT, Format.SHAREGPT, Row("Q?", "", "A.")),
    ({**SHAREGPT, "system": "S"}, Format.SHAREGPT, Row("Q?", "", "A.", "S")),
    (OPENAI, Format.OPENAI, Row("Q?", "", "A.")),
    (
        turns("system", "user", "assistant", "user", "assistant"),
        Format.OPENAI,
        Row("user text", "", "assistant text", "system text", (("user text", "assistant text"),)),
    ),
]


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize(("item", "layout", "row"), READ)
def test_a_row_is_read(tmp_path: Path, item: Any, layout: Format, row: Row, lines: bool) -> None:
    dataset = load_dataset(write(tmp_path, [item, item], lines=lines))
    assert (dataset.format, dataset.is_jsonl, dataset.rows) == (layout, lines, (row, row))
    assert dataset.findings == ()


BAD_ROWS = [
    ([ALPACA, {"instruction": "Q", "ouput": "A"}], "schema", "unknown key 'ouput': did you mean 'output'?"),
    ([ALPACA, {"Instruction": "Q", "output": "A"}], "schema", "unknown key 'Instruction': did you mean 'instruction'?"),
    ([ALPACA, {"instruction": "Q", "response": "A"}], "schema", "unknown key 'response': did you mean 'output'?"),
    ([ALPACA, {"instruction": "Q"}], "schema", "key 'output' is missing"),
    ([ALPACA, {**ALPACA, "output": 42}], "schema", "output must be text, found a number"),
    ([ALPACA, {**ALPACA, "input": ["x"]}], "schema", "input must be text, found a list"),
    ([ALPACA, {**ALPACA, "history": [["Q"]]}], "schema", "history must be a list of [question, answer] pairs"),
    ([ALPACA, OPENAI], "schema", "this row is OpenAI messages, the file is Alpaca"),
    ([ALPACA, "text"], "schema", "an object is expected, found text"),
    ([ALPACA, {**ALPACA, "images": ["x.png"]}], "unsupported", "key 'images' is not trained on"),
    ([ALPACA, {**ALPACA, "rejected": "B"}], "unsupported", "key 'rejected' is not trained on"),
    ([OPENAI, {"message": []}], "schema", "unknown key 'message': did you mean 'messages'?"),
    ([OPENAI, {"messages": []}], "schema", "messages must be a list of messages, found an empty list"),
    ([OPENAI, {"messages": [{"role": "user", "contnt": "Q"}]}], "schema", "unknown key 'contnt': did you mean"),
    ([OPENAI, {"messages": [{"role": "user", "content": None}]}], "schema", "content must be text, found null"),
    ([OPENAI, turns("user", "user", "assistant")], "roles", "turn 2 is user after user, assistant is expected"),
    ([OPENAI, turns("assistant", "user")], "roles", "turn 1 is assistant first, user is expected"),
    ([OPENAI, turns("user", "assistant", "system")], "roles", "turn 3 is system after assistant"),
    ([OPENAI, turns("user", "assistant", "user")], "roles", "must end with an answer"),
    ([OPENAI, turns("system")], "roles", "must end with an answer"),
    ([OPENAI, {**turns("system", "user", "assistant"), "system": "S"}], "roles", "two system prompts"),
    ([OPENAI, turns("user", "asistant")], "roles", "unknown role 'asistant': did you mean 'assistant'?"),
    ([OPENAI, turns("user", "tool")], "unsupported", "message 2: tool calls are not trained on"),
]


@pytest.mark.parametrize(("items", "kind", "message"), BAD_ROWS)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, items: Any, kind: str, message: str) -> None:
    dataset = load_dataset(write(tmp_path, items))
    assert dataset.rows[0] is not None
    assert dataset.rows[1] is None
    (finding,) = dataset.findings
    assert (finding.row, finding.kind) == (2, kind)
    assert message in finding.message


BAD_FILES = [
    ("", "empty"),
    ("[", "not valid JSON"),
    ('{"instruction": "Q", "output": "A"}\n{"instruction"\n', "line 2: not valid JSON"),
    ('[{"instruction": "Q", "output": "A", "output": "B"}]', "the key 'output' stands twice"),
    ('[{"text": "x", "lang": "en"}]', "neither Alpaca"),
    ('[{"text": "x", "lang": "en"}]', "its first row has 'text', 'lang'"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_a_file_of_no_format_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DatasetError) as refusal:
        load_dataset(write(tmp_path, content))
    assert message in str(refusal.value)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b'[{"instruction": "caf\xe9"}]')
    with pytest.raises(DatasetError, match=r"not UTF-8 text \(byte 21\)"):
        load_dataset(path)


def test_a_whole_file_with_the_typo_names_it_in_every_row(tmp_path: Path) -> None:
    item = {"conversation": SHAREGPT["conversations"]}
    dataset = load_dataset(write(tmp_path, [item, item]))
    assert [finding.row for finding in dataset.findings] == [1, 2]
    assert "did you mean 'conversations'?" in dataset.findings[0].message


def test_keys_that_nothing_reads_are_one_finding_and_the_rows_stay(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, [{**ALPACA, "id": 1, "family": "f"}, {**ALPACA, "id": 2}]))
    assert [str(finding) for finding in dataset.findings] == ["key 'id' stands in 2 rows and is not read"]
    assert None not in dataset.rows
    assert dataset.families == ["f", None]


def test_a_line_separator_inside_a_text_does_not_end_a_line(tmp_path: Path) -> None:
    item = '{"instruction": "one\u2028two", "output": "A"}'
    assert load_dataset(write(tmp_path, f"\ufeff{item}\r\n\n{item}\n")).rows[1] == Row("one\u2028two", "", "A")
