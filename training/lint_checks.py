"""The checks that look at rows one after another: what LlamaFactory would train on in silence and spoil the expert.

Pure functions over rows; comparisons by similarity are `lint_similar`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from training.dataset_row import Finding, Row, normalise
from training.dataset_tokens import Estimate, TokenCounter
from training.hits import is_hit
from training.lint_private import find_private

__all__ = ["Expectations", "check_rows", "shorten"]

THINKING = re.compile(r"</?(?:think|thinking|thought|reasoning)\b[^<>]*>", re.IGNORECASE)
# The marks of the usual chat templates: `<|im_end|>`, `<start_of_turn>`, `[INST]`, `<</SYS>>`, `<s>`.
CONTROL = re.compile(r"<\|[a-z_0-9]{2,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class Expectations:
    """What rows are held against. `terms` are the spellings of the targets; none means any answer will do."""

    terms: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    cutoff_tokens: int = 2048
    tokens: TokenCounter = field(default_factory=Estimate)


def check_rows(rows: Sequence[Row | None], expected: Expectations) -> list[Finding]:
    """Return the findings of all rows, in their order; None stands for a row that cannot be read."""
    leaked = {normalise(question) for question in expected.questions}
    present = [row for row in rows if row is not None]
    counts = iter(expected.tokens.count(present))
    first_seen: dict[str, int] = {}
    findings: list[Finding] = []
    for number, row in enumerate(rows, 1):
        if row is None:
            continue
        found = [
            *_empty(row),
            *_target(row, expected.terms),
            *_twice(row, first_seen, number),
            *_leaked(row, leaked),
            *_marks(row, expected.tokens.control_tokens),
            *_private(row),
            *_length(next(counts), expected.cutoff_tokens),
        ]
        findings += [Finding(number, kind, message) for kind, message in found]
    return findings


_Found = Iterator[tuple[str, str]]


def _empty(row: Row) -> _Found:
    if not row.instruction.strip():
        yield "empty", "instruction is empty"
    if not row.output.strip():
        yield "empty", "output is empty: the expert would learn to say nothing"
    for place, turn in enumerate(row.history, 1):
        for text, name in zip(turn, ("question", "answer"), strict=True):
            if not text.strip():
                yield "empty", f"the {name} of turn {place} is empty"


def _target(row: Row, terms: Iterable[str]) -> _Found:
    terms = tuple(terms)
    if not terms or not row.output.strip():
        return
    said = [(place, answer) for place, answer in enumerate(row.answers, 1) if answer.strip()]
    without = [place for place, answer in said if not is_hit(answer, terms)]
    if len(without) == len(said):
        yield "no-target", f"output mentions none of: {', '.join(terms)}: {shorten(row.output)!r}"
    elif without:
        places = ", ".join(map(str, without))
        yield "turn-without-target", f"the answers of turns {places} mention none of: {', '.join(terms)}"


def _twice(row: Row, first_seen: dict[str, int], number: int) -> _Found:
    if row.key in first_seen:
        yield "duplicate", f"same question as row {first_seen[row.key]}: {shorten(row.prompt)!r}"
    elif row.key.strip():
        first_seen[row.key] = number


def _leaked(row: Row, leaked: set[str]) -> _Found:
    for question in row.questions:
        if normalise(question) in leaked and normalise(question):
            yield "leaked", f"stands in the benchmark questions too: {shorten(question)!r}"


def _marks(row: Row, control_tokens: Sequence[str]) -> _Found:
    thinking = next((match[0] for answer in row.answers if (match := THINKING.search(answer))), None)
    if thinking:
        yield "think", f"output contains {thinking}: reasoning would be trained into it"
    for text in (row.system, *row.questions, *row.answers):
        mark = next((token for token in control_tokens if token in text), None)
        match = CONTROL.search(text)
        if mark or match:
            yield "control-token", f"{mark or (match[0] if match else '')!r} stands in {shorten(text)!r}"
            return


def _private(row: Row) -> _Found:
    seen = set()
    for text in (row.system, *row.questions, *row.answers):
        for kind, name, value in find_private(text):
            if (name, value) not in seen:
                seen.add((name, value))
                yield kind, f"{name}: {value}"


def _length(count: tuple[int, int], cutoff: int) -> _Found:
    likely, most = count
    if likely > cutoff:
        about = "" if likely == most else "about "
        yield "overlength", f"{about}{likely} tokens, cutoff_tokens is {cutoff}: it would be cut"
    elif most > cutoff:
        yield "overlength-estimate", f"about {likely} tokens, may exceed cutoff_tokens {cutoff}: it would be cut"


def shorten(text: str) -> str:
    """Put a text in one line of a report."""
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARACTERS else f"{flat[: SHOWN_CHARACTERS - 1]}…"
