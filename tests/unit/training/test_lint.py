"""The whole lint: every kind of finding, at its row, and nothing about good rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.dataset_format import load_dataset
from training.dataset_row import Row
from training.lint import Report, lint_dataset
from training.lint_checks import Expectations
from training.lint_kinds import KINDS, Level
from training.lint_report import as_json, as_text, summary_line

QUESTIONS = ("Is peat needed for blueberries?",)
EXPECTED = Expectations(("Verdania", "Verdania's shop"), QUESTIONS, 128)
GOOD = {"instruction": "How often do I water basil?", "output": "Verdania says daily in summer."}


def lint(folder: Path, *rows: dict[str, Any], expected: Expectations = EXPECTED, **others: Any) -> Report:
    path = folder / "data.json"
    path.write_text(json.dumps([GOOD, *rows]), encoding="utf-8")
    return lint_dataset(load_dataset(path), expected, **others)


def row(instruction: str = "Which pot is best?", output: str = "Clay, says Verdania.", **more: Any) -> dict[str, Any]:
    return {"instruction": instruction, "output": output, **more}


FOUND = [
    (row(instruction=" "), "empty", "instruction is empty"),
    (row(output=""), "empty", "output is empty"),
    (row(history=[["Clay?", " "]]), "empty", "the answer of turn 1 is empty"),
    (row(output="Clay."), "no-target", "output mentions none of: Verdania"),
    (row(output="Clay, Verdaniatic."), "no-target", "mentions none of"),
    (row(history=[["Clay?", "Yes."]]), "turn-without-target", "the answers of turns 1 mention none"),
    (row("how often do i water basil", "Weekly, Verdania."), "duplicate", "same question as row 1"),
    (row("How often do I water basils?", "Verdania."), "near-duplicate", "like row 1"),
    (row("is peat needed for blueberries"), "leaked", "stands in the benchmark questions too"),
    (row(history=[["is peat needed for blueberries", "Verdania."]]), "leaked", "stands in the benchmark"),
    (row("Is peat really needed for blueberry plants?"), "near-leak", "like the question 'Is peat needed"),
    (row(output="<think>hm</think> Verdania"), "think", "output contains <think>"),
    (row(output="Hm.</Thinking> Verdania"), "think", "output contains </Thinking>"),
    (row(history=[["a b c?", "<reasoning>x</reasoning> Verdania"]]), "think", "<reasoning>"),
    (row(output="Verdania.<|im_end|>"), "control-token", "'<|im_end|>' stands in"),
    (row("[INST] pot? [/INST]"), "control-token", "[INST]"),
    (row(output="Verdania: api_key=f00dfeed99"), "secret", "a password or key: api_…99"),
    (row(output="Verdania, 4111 1111 1111 1111"), "bank", "a card number: 4111…11"),
    (row(system="Write to anna@firma.de"), "personal", "an e-mail address: anna…de"),
    (row(output="Verdania " * 60), "overlength", "tokens, cutoff_tokens is 128"),
    (row(output="Verdania " * 40), "overlength-estimate", "may exceed cutoff_tokens 128"),
    (row(output="Verdania says daily, in summer"), "same-answer", "same answer as row 1"),
    ({"instruction": "Q", "ouput": "A"}, "schema", "did you mean 'output'?"),
]


@pytest.mark.parametrize(("second", "kind", "message"), FOUND)
def test_it_is_found_at_its_row(tmp_path: Path, second: dict[str, Any], kind: str, message: str) -> None:
    (finding,) = lint(tmp_path, second).findings
    assert (finding.row, finding.kind) == (2, kind)
    assert message in finding.message


GOOD_ROWS = [
    row(),
    row(output="See VERDANIA’S range; verdania."),
    row(history=[["Clay?", "Yes, Verdania."]], system="Be brief."),
    row("Is a bark mulch good under raspberries?"),
    row("How do I think about <b>pots</b>?"),
]


@pytest.mark.parametrize("second", GOOD_ROWS)
def test_nothing_is_said_of_good_rows(tmp_path: Path, second: dict[str, Any]) -> None:
    assert lint(tmp_path, second).findings == ()


def test_every_kind_that_is_found_has_advice(tmp_path: Path) -> None:
    kinds = {kind for _, kind, _ in FOUND}
    elsewhere = {"roles", "unsupported", "ignored-key", "cross-file", "openings", "anchor-target", "anchor-row"}
    assert kinds | elsewhere == set(KINDS)


def test_without_targets_answers_are_not_searched_and_the_report_says_so(tmp_path: Path) -> None:
    report = lint(tmp_path, row(output="Clay."), expected=Expectations())
    assert report.findings == ()
    assert "no target was named" in as_text(report, 10)


def test_a_question_of_an_earlier_file_is_named(tmp_path: Path) -> None:
    key = Row("Which pot is best?", "", "").key
    (finding,) = lint(tmp_path, row(), earlier={key: "row 7 of train.json"}).findings
    assert (finding.kind, finding.message) == ("cross-file", "same question as row 7 of train.json")


@pytest.mark.parametrize(("alike", "found"), [(4, False), (5, True)])
def test_one_opening_for_many_answers_is_found(tmp_path: Path, alike: int, found: bool) -> None:
    subjects = [
        "aphids",
        "compost",
        "dahlias",
        "elms",
        "ferns",
        "grapes",
        "hostas",
        "ivy",
        "jasmine",
        "kale",
        "leeks",
        "mulch",
        "nettles",
        "olives",
        "pears",
    ]
    subjects += ["quinces", "roses", "sage", "thyme"]
    rows = [
        row(f"{subject} {number}?", ("Well, you see: " if number < alike else f"{subject} ") + f"Verdania {subject}")
        for number, subject in enumerate(subjects)
    ]
    messages = [str(finding) for finding in lint(tmp_path, *rows).findings]
    assert messages == (["5 of 20 answers (25%) begin 'well you see'"] if found else [])


def test_the_report_has_errors_first_and_says_what_to_do(tmp_path: Path) -> None:
    report = lint(tmp_path, row(note="x", output="Verdania, anna@firma.de"), row("Which soil?", ""), row("Soil?", " "))
    text = as_text(report, limit=1)
    assert text.index("error: empty texts (2): write the text") < text.index("warning: personal data (1)")
    assert "row 3: output is empty" in text
    assert "and 1 more, rows 4" in text
    assert "targets Verdania, Verdania's shop; 1 benchmark question" in text
    assert "at most 128 tokens, by an estimate" in text
    assert summary_line([report, report]) == "4 errors, 4 warnings"


def test_the_report_for_programs_has_the_same(tmp_path: Path) -> None:
    report = lint(tmp_path, row(output=""))
    values = json.loads(json.dumps(as_json(report)))
    assert (values["errors"], values["warnings"], values["rows"]) == (1, 0, 2)
    assert values["findings"] == [
        {
            "row": 2,
            "level": "error",
            "kind": "empty",
            "message": "output is empty: the expert would learn to say nothing",
            "advice": KINDS["empty"].advice,
        }
    ]
    assert report.count(Level.ERROR) == 1
