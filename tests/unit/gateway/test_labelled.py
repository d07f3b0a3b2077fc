from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main
from gateway.errors import ConfigError
from gateway.labelled import as_examples, read_labelled
from router import Labelled


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_texts_and_conversations_are_read_with_their_labels(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "my tyre is flat"},
        {"role": "assistant", "content": "patch it"},
        {"role": "user", "content": [{"type": "text", "text": "with what"}]},
    ]
    first = write(
        tmp_path / "a.jsonl", {"text": "bread", "expert": "baking", "remark": 1}, "", {"text": "tax", "expert": None}
    )
    asked = {"messages": messages, "expert": "cycling"}
    second = write(tmp_path / "b.jsonl", asked, {"text": "hi", "expert": "base"})
    rows = read_labelled([first, second])
    assert rows == [
        Labelled(("bread",), "baking"),
        Labelled(("tax",), None),
        Labelled(("my tyre is flat", "with what"), "cycling"),
        Labelled(("hi",), None),
    ]
    examples = {"baking": ["bread"], "cycling": ["my tyre is flat\nwith what"]}
    assert as_examples(rows) == (examples, ["tax", "hi"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "is expected"),
        ({"text": "x"}, "is expected"),
        ({"expert": "baking"}, "is expected"),
        ({"text": "x", "messages": [], "expert": None}, "is expected"),
        ({"text": " ", "expert": None}, "not empty"),
        ({"text": 3, "expert": None}, "not empty"),
        ({"text": "x", "expert": 3}, "a name or null"),
        ({"text": "x", "expert": ""}, "a name or null"),
        ({"text": "x", "expert": "?"}, "not labelled yet"),
        ({"messages": "x", "expert": None}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}], "expert": None}, "no user text"),
    ],
)
def test_a_bad_line_is_named_with_what_is_expected(tmp_path: Path, line: Any, reason: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"text": "fine", "expert": None}, line)
    with pytest.raises(ConfigError, match=rf"rows\.jsonl, line 2: .*{reason}"):
        read_labelled([path])


def test_a_missing_and_an_empty_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_labelled([tmp_path / "nowhere.jsonl"])
    with pytest.raises(ConfigError, match="no labelled texts"):
        read_labelled([write(tmp_path / "empty.jsonl", "")])


def test_a_share_of_abstentions_is_asked_of_a_directory_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["router", "fit", "--false-abstain", "0.1"])
    assert ended.value.code == 2
    assert "--false-abstain needs --out DIR" in capsys.readouterr().err
