"""The whole lint of one training file: its rows one after another, against each other, and against other files.

Owns what is compared; how it is shown is `lint_report`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.dataset_format import Dataset, load_dataset
from training.dataset_row import Finding, Row, normalise
from training.lint_checks import Expectations, check_rows, shorten
from training.lint_kinds import KINDS, Level
from training.lint_similar import nearest_texts, similar_pairs
from training.novelty import NOVEL_BELOW

__all__ = ["NEAR_DUPLICATE", "Report", "lint_dataset", "lint_file", "opening"]

NEAR_DUPLICATE = 0.8
"""Trigram similarity from which two questions are nearly the same: a word or two differ."""
OPENING_WORDS = 3
OPENING_SHARE = 0.2
OPENING_ROWS = 20
"""Below so many rows a share says nothing."""


@dataclass(frozen=True)
class Report:
    """What was found in one file, worst first, then by row; `dataset` holds the rows that could be read."""

    dataset: Dataset
    expected: Expectations
    findings: tuple[Finding, ...]

    def count(self, level: Level) -> int:
        """Count the findings of one level."""
        return sum(KINDS[finding.kind].level is level for finding in self.findings)


def lint_file(path: Path, expected: Expectations, earlier: Mapping[str, str] | None = None) -> Report:
    """Read one file and look for everything.

    Args:
        earlier: where each question (`Row.key`) of the files before this one stands.

    Raises:
        DatasetError: the file cannot be read at all, or is of no known format.
    """
    return lint_dataset(load_dataset(path), expected, earlier)


def lint_dataset(dataset: Dataset, expected: Expectations, earlier: Mapping[str, str] | None = None) -> Report:
    """Look for everything in a file that has been read."""
    findings = [*dataset.findings, *check_rows(dataset.rows, expected)]
    numbered = [(number, row) for number, row in enumerate(dataset.rows, 1) if row is not None]
    findings += _near_duplicates(numbered)
    findings += _near_leaks(numbered, expected.questions)
    findings += _same_answers(numbered)
    findings += _openings([row.prompt for _, row in numbered], "questions")
    findings += _openings([row.output for _, row in numbered], "answers")
    for number, row in numbered:
        if earlier and row.key in earlier:
            findings.append(Finding(number, "cross-file", f"same question as {earlier[row.key]}"))
    order = list(KINDS)
    findings.sort(key=lambda found: (KINDS[found.kind].level, order.index(found.kind), found.row))
    return Report(dataset, expected, tuple(findings))


_Numbered = Sequence[tuple[int, Row]]


def _near_duplicates(rows: _Numbered) -> Iterator[Finding]:
    """One finding a row: its nearest earlier row. The same question is an error of its own."""
    nearest: dict[int, tuple[float, int]] = {}
    for left, right, similarity in similar_pairs(["\n".join(row.questions) for _, row in rows], NEAR_DUPLICATE):
        if rows[left][1].key != rows[right][1].key and similarity > nearest.get(right, (0.0, 0))[0]:
            nearest[right] = (similarity, left)
    for right, (similarity, left) in nearest.items():
        questions = [shorten(rows[place][1].prompt) for place in (right, left)]
        message = f"{similarity:.0%} like row {rows[left][0]}: {questions[0]!r} and {questions[1]!r}"
        yield Finding(rows[right][0], "near-duplicate", message)


def _near_leaks(rows: _Numbered, questions: Sequence[str]) -> Iterator[Finding]:
    asked = [(number, question) for number, row in rows for question in row.questions]
    exact = {normalise(question) for question in questions}
    near = nearest_texts([question for _, question in asked], questions, NOVEL_BELOW)
    for place, (other, similarity) in near.items():
        number, question = asked[place]
        if normalise(question) not in exact:
            message = f"{similarity:.0%} like the question {shorten(questions[other])!r}: {shorten(question)!r}"
            yield Finding(number, "near-leak", message)


def _same_answers(rows: _Numbered) -> Iterator[Finding]:
    first: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        answer = normalise(row.output)
        if answer and first.setdefault(answer, (number, row.key))[1] != row.key:
            yield Finding(number, "same-answer", f"same answer as row {first[answer][0]}: {shorten(row.output)!r}")


def _openings(texts: Sequence[str], name: str) -> Iterator[Finding]:
    if len(texts) < OPENING_ROWS:
        return
    for words, count in Counter(opening(text) for text in texts).most_common(3):
        if words and count > OPENING_SHARE * len(texts):
            share = f"{count} of {len(texts)} {name} ({count / len(texts):.0%})"
            yield Finding(0, "openings", f"{share} begin {words!r}")


def opening(text: str) -> str:
    """Return the first words of a text, folded."""
    return " ".join(normalise(text).split()[:OPENING_WORDS])
