"""Hits: does an answer mention a target, and how sure is a rate measured on n questions.

Pure functions; knows nothing of engines or files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Rate", "count_mentions", "is_hit", "strip_reasoning"]

# 97.5 % quantile of the normal distribution, for two-sided 95 % intervals.
Z_95 = 1.959963984540054


def strip_reasoning(answer: str) -> str:
    """Remove a thinking block; an unclosed one removes the rest."""
    return re.sub(r"<think>.*?(</think>|\Z)", "", answer, flags=re.DOTALL)


def count_mentions(answer: str, terms: Iterable[str]) -> int:
    """Count whole-word mentions of any term, ignoring case, outside reasoning."""
    text = strip_reasoning(answer).casefold()
    return sum(len(re.findall(rf"(?<!\w){re.escape(term.casefold())}(?!\w)", text)) for term in set(terms))


def is_hit(answer: str, terms: Iterable[str]) -> bool:
    """Tell whether the answer mentions at least one term."""
    return count_mentions(answer, terms) > 0


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`, with its 95 % Wilson interval."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share of hits."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound.

        Source: Wilson 1927, https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval#Wilson_score_interval
        """
        p, n, z2 = self.value, self.n, Z_95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits}/{self.n} = {self.value:.1%} (95 % interval {low:.1%} to {high:.1%})"
