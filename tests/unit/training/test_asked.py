"""Answers of an interrupted measurement: taken again, but only for the same adapter, base and prompt."""

from __future__ import annotations

from pathlib import Path

from training.asked import Asked
from training.engine import Answer

ANSWER = Answer("Clay.", "stop", 3, 50.0)
SETTINGS = {"adapter_sha256": "a", "system_prompt": None}


def test_an_answer_is_known_to_the_next_call(tmp_path: Path) -> None:
    Asked(tmp_path / "asked.jsonl", SETTINGS).add(1.3, "Which pot?", ANSWER)
    again = Asked(tmp_path / "asked.jsonl", SETTINGS)
    assert again.get(1.3, "Which pot?") == ANSWER
    assert again.get(0.0, "Which pot?") is None
    assert again.get(1.3, "Which soil?") is None


def test_answers_of_another_adapter_count_for_nothing(tmp_path: Path) -> None:
    Asked(tmp_path / "asked.jsonl", SETTINGS).add(1.0, "Which pot?", ANSWER)
    other = Asked(tmp_path / "asked.jsonl", SETTINGS | {"adapter_sha256": "b"})
    assert other.get(1.0, "Which pot?") is None
    other.add(1.0, "Which soil?", ANSWER)
    assert Asked(tmp_path / "asked.jsonl", SETTINGS).get(1.0, "Which pot?") is None


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    Asked(path, SETTINGS).add(1.0, "Which pot?", ANSWER)
    with path.open("ab") as file:
        file.write(b'{"scale": 1.0, "question": "Which so')
    asked = Asked(path, SETTINGS)
    assert asked.get(1.0, "Which pot?") == ANSWER
    asked.add(1.0, "Which soil?", ANSWER)
    assert Asked(path, SETTINGS).get(1.0, "Which soil?") == ANSWER


def test_forgotten_is_gone(tmp_path: Path) -> None:
    asked = Asked(tmp_path / "asked.jsonl", SETTINGS)
    asked.forget()
    assert not (tmp_path / "asked.jsonl").exists()
