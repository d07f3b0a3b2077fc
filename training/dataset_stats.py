"""Figures of a training file: how much there is, how long it is, how often the targets stand in it, how it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from training.dataset_format import Dataset
from training.dataset_row import Row, normalise
from training.hits import count_mentions
from training.lint import opening
from training.lint_checks import Expectations

__all__ = ["measure", "render"]

TOP = 5


def measure(dataset: Dataset, expected: Expectations) -> dict[str, Any]:
    """Return the figures as plain values; rows that cannot be read are only counted."""
    rows = [row for row in dataset.rows if row is not None]
    return {
        "file": str(dataset.path),
        "format": dataset.format.value,
        "rows": len(dataset.items),
        "unreadable": len(dataset.items) - len(rows),
        "turns": sum(len(row.answers) for row in rows),
        "with_system_prompt": sum(bool(row.system) for row in rows),
        "question_words": spread([_words(row.questions) for row in rows]),
        "answer_words": spread([_words(row.answers) for row in rows]),
        "tokens": spread([likely for likely, _ in expected.tokens.count(rows)]),
        "token_counter": expected.tokens.name,
        "targets": _targets(rows, expected.terms),
        "openings": {
            "questions": _openings([row.prompt for row in rows]),
            "answers": _openings([row.output for row in rows]),
        },
    }


def spread(values: Sequence[int]) -> dict[str, float]:
    """Return total, least, median, 95th percentile (nearest rank) and greatest."""
    if not values:
        return {"total": 0, "min": 0, "median": 0, "p95": 0, "max": 0}
    ordered = sorted(values)

    def rank(percent: int) -> int:
        return ordered[-(-percent * len(ordered) // 100) - 1]

    return {"total": sum(values), "min": ordered[0], "median": rank(50), "p95": rank(95), "max": ordered[-1]}


def _words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


def _targets(rows: Sequence[Row], terms: Sequence[str]) -> dict[str, Any] | None:
    if not terms or not rows:
        return None
    mentions = [sum(count_mentions(answer, terms) for answer in row.answers) for row in rows]
    return {
        "mentions": sum(mentions),
        "per_row": round(sum(mentions) / len(rows), 3),
        "rows_without": mentions.count(0),
        "by_term": {
            term: sum(count_mentions(answer, [term]) for row in rows for answer in row.answers) for term in terms
        },
    }


def _openings(texts: Sequence[str]) -> dict[str, Any]:
    counts = Counter(opening(text) for text in texts if normalise(text))
    return {"distinct": len(counts), "most_common": [list(found) for found in counts.most_common(TOP)]}


def render(figures: dict[str, Any]) -> str:
    """Put the figures in lines for a person."""
    unreadable = f", {figures['unreadable']} of them unreadable (see lint)" if figures["unreadable"] else ""
    lines = [
        f"{figures['file']}: {figures['format']}, {figures['rows']} rows{unreadable}, {figures['turns']} answers, "
        f"{figures['with_system_prompt']} system prompts",
        f"{'':16}{'total':>9}{'min':>7}{'median':>8}{'p95':>7}{'max':>7}",
    ]
    for name in ("question_words", "answer_words", "tokens"):
        found = figures[name]
        cells = f"{found['total']:>9}{found['min']:>7}{found['median']:>8}{found['p95']:>7}{found['max']:>7}"
        lines.append(f"{name.replace('_', ' '):16}{cells}")
    lines.append(f"tokens by {figures['token_counter']}")
    if targets := figures["targets"]:
        by_term = ", ".join(f"{term} {count}" for term, count in targets["by_term"].items())
        lines.append(
            f"targets: {targets['mentions']} mentions, {targets['per_row']:.2f} a row, "
            f"{targets['rows_without']} rows without ({by_term})"
        )
    for name, found in figures["openings"].items():
        common = ", ".join(f"{words!r} {count}" for words, count in found["most_common"])
        lines.append(f"{name} begin in {found['distinct']} ways: {common}")
    return "\n".join(lines)
