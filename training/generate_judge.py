"""Decide whether a generated row is kept: the lint's errors, and what is too near to a row or a benchmark question.

Rows are judged one after another against those accepted before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from training.dataset_row import Row, normalise
from training.lint_checks import Expectations, check_rows
from training.lint_kinds import errors
from training.novelty import NOVEL_BELOW, jaccard, trigrams

__all__ = ["Judge", "Tally"]

NEAR_DUPLICATE = 0.9
"""A template's rows are alike by design; above this they are the same question."""


@dataclass
class Tally:
    """How many were made, and why some were not kept."""

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str | None) -> None:
        """Count one row."""
        if reason is None:
            self.accepted += 1
        else:
            self.rejected[reason] += 1

    def as_dict(self) -> dict[str, object]:
        """Return the figures as plain values; the rate is null where nothing was made."""
        made = self.accepted + self.rejected.total()
        rate = round(self.accepted / made, 4) if made else None
        return {"made": made, "accepted": self.accepted, "rate": rate, "rejected": dict(self.rejected.most_common())}

    def __str__(self) -> str:
        made = self.accepted + self.rejected.total()
        share = f" ({self.accepted / made:.1%})" if made else ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.rejected.most_common())
        return f"{self.accepted} of {made} accepted{share}" + (f"; rejected: {reasons}" if reasons else "")


class Judge:
    """Remembers what it accepted."""

    def __init__(self, expected: Expectations) -> None:
        self._expected = expected
        self._keys: set[str] = set()
        self._answers: set[str] = set()
        self._accepted: list[frozenset[str]] = []
        self._questions = [trigrams(question) for question in expected.questions]

    def accept(self, row: Row) -> str | None:
        """Keep the row and return None, or return the kind of finding that speaks against it."""
        found = errors(check_rows([row], self._expected))
        if found:
            return found[0].kind
        grams = trigrams(row.prompt)
        if row.key in self._keys:
            return "duplicate"
        answer = normalise(row.output)
        if answer in self._answers:
            return "same-answer"
        if any(jaccard(grams, other) >= NOVEL_BELOW for other in self._questions):
            return "near-leak"
        if any(_is_near(grams, other) for other in self._accepted):
            return "near-duplicate"
        self._keys.add(row.key)
        self._answers.add(answer)
        self._accepted.append(grams)
        return None


def _is_near(left: frozenset[str], right: frozenset[str]) -> bool:
    small, large = sorted((len(left), len(right)))
    if small < NEAR_DUPLICATE * large:
        return False
    shared = len(left & right)
    return shared >= NEAR_DUPLICATE * (small + large - shared)
