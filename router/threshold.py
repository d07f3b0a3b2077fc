"""Evidence -> score -> accept or abstain. Numpy only; knows nothing of texts or vectors.

Every kind of evidence is standardised (0 is what a route's own examples show on average, 1 a standard deviation more),
multiplied by its votes and added up. The sum is squashed into a score: the probability that the route is right. A text
is accepted when its best score reaches the threshold and leads the runner-up by the margin. Means, deviations, squash,
threshold and margin are computed by `calibrate.py` from evidence about texts the classifier had not been fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.classifier import Evidence

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gate:
    """Standardise each kind of evidence, weigh, squash."""

    means: Scores
    """[n_kinds]."""

    scales: Scores
    """[n_kinds], all above zero."""

    weights: Scores
    """[n_kinds]: the votes times the slope of the squash."""

    bias: float
    threshold: float
    """0–1."""

    margin: float = 0.0
    """0–1."""

    def scores(self, evidence: Evidence) -> Scores:
        """Return 0–1 for each text and route: [n_texts, n_routes] from [n_texts, n_routes, n_kinds]."""
        return squash(((evidence - self.means) / self.scales) @ self.weights + self.bias)


def squash(logits: Scores) -> Scores:
    """Map the real line to 0–1."""
    result: Scores = 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(logits, -30.0), 30.0)))
    return result


def leads(scores: Scores) -> Scores:
    """Return how far the best score of each row is ahead of the second: [n] from [n, n_routes]; alone, from zero."""
    if scores.shape[1] == 1:
        return scores[:, 0]
    highest = np.partition(scores, -2, axis=1)[:, -2:]
    result: Scores = highest[:, 1] - highest[:, 0]
    return result


def choose_threshold(accept: Scores, false_abstain: float) -> float:
    """Return the score below which that share of `accept` lies, and not more.

    Args:
        accept: scores of texts that should be accepted, at least one.
        false_abstain: 0–1.
    """
    return float(np.quantile(accept, false_abstain, method="lower"))


def choose_split(accept: Scores, refuse: Scores, *, max_false_abstain: float) -> float:
    """Choose the score that best separates what to accept from what to refuse.

    Minimises the share of `accept` below it plus the share of `refuse` at or above it. Where no text to refuse is
    known, or the best split would abstain too often, the `max_false_abstain` quantile of `accept` is the answer.

    Args:
        accept: scores of texts that should be accepted, at least one.
        refuse: scores of texts that should not, possibly none.
        max_false_abstain: 0–1, most of `accept` that may lie below the result.
    """
    limit = choose_threshold(accept, max_false_abstain)
    if not len(refuse):
        return limit
    values = np.unique(np.concatenate([accept, refuse]))
    candidates = np.concatenate([(values[:-1] + values[1:]) / 2, values[-1:]])
    candidates = candidates[candidates <= limit]
    if not len(candidates):
        return limit
    below = np.searchsorted(np.sort(accept), candidates, side="left") / len(accept)
    above = 1 - np.searchsorted(np.sort(refuse), candidates, side="left") / len(refuse)
    cost = below + above
    # Several splits may cost the same; the middle one is the least sensitive to any single text.
    best = np.flatnonzero(cost <= cost.min() + 1e-12)
    return float(candidates[best[len(best) // 2]])
