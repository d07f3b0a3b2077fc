"""Out-of-fold evidence -> `Gate`, and the measurements that go with it. Used by fitting only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from router.classifier import KERNEL, LEXICAL, LINEAR, N_KINDS, NEAREST, OUTSIDE, SCOPE, Evidence, Indices
from router.threshold import Gate, Scores, choose_threshold, leads

VOTES = {LINEAR: 1.0, NEAREST: 1.0, KERNEL: 1.0, SCOPE: 1.0, LEXICAL: 1.0}
"""How much a standard deviation of each kind counts. Fitted weights were no better out of sample, on CLINC150 with 10
to 1,500 examples a route and on the experts shipped."""

ENOUGH_NEGATIVES = 0.5
"""Of the number of examples. With fewer negatives, scope counts in proportion (few seldom resemble what really comes),
and nearest, which alone notices unknown topics without them, counts that much more."""

OUTSIDE_SHARE = 0.1
"""Of the traffic, assumed out of scope: how often a score must be right depends on it, and no file tells."""

STRANGER_SHARE = OUTSIDE_SHARE / 2
"""Of the traffic, assumed as hard to refuse as strangers are, which stand in for negatives where none are labelled. The
rest of what is out of scope is far from every route: it scores near zero by itself, and bends no curve."""

MARGINS = (0.0, 0.05, 0.1, 0.2, 0.3)
N_BINS = 10


def calibrate(
    evidence: Evidence, labels: Indices, strangers: Sequence[Evidence], *, max_false_abstain: float
) -> tuple[Gate, dict[str, float]]:
    """Make scores probabilities, and choose threshold and margin.

    Args:
        evidence: [n_texts, n_routes, n_kinds], given out of fold.
        labels: [n_texts], route or `OUTSIDE`.
        strangers: evidence about texts whose own route was unknown to the witnesses, for as many routes as they knew.
            They stand in for negatives where none are labelled.
        max_false_abstain: 0–1, the share of the texts of routes that falls below the threshold or the margin.
    """
    inside = labels != OUTSIDE
    own = evidence[inside, labels[inside]]
    votes = _count_votes(inside)
    gate = Gate(own.mean(axis=0), np.maximum(own.std(axis=0), 1e-3), votes, bias=0.0, threshold=0.5)
    refused = [evidence[~inside], *strangers]
    sums = _sum_votes(gate, evidence[inside])
    right = sums.argmax(axis=1) == labels[inside]
    slope, bias = _fit_squash(
        sums.max(axis=1),
        right,
        np.concatenate([_sum_votes(gate, group).max(axis=1) for group in refused]),
        STRANGER_SHARE if inside.all() else OUTSIDE_SHARE,
    )
    gate = replace(gate, weights=votes * slope, bias=bias)
    scores = gate.scores(evidence)
    threshold, margin = _choose(scores[inside], right, [gate.scores(group) for group in refused], max_false_abstain)
    gate = replace(gate, threshold=threshold, margin=margin)
    return gate, measure(scores, labels, gate)


def fit_logistic(rows: Scores, positive: npt.NDArray[np.bool_]) -> tuple[Scores, float]:
    """Fit a logistic regression with both classes weighted equally: weights [n_columns] and bias."""
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000).fit(rows, positive)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def measure(scores: Scores, labels: Indices, gate: Gate) -> dict[str, float]:
    """Summarise scores [n_texts, n_routes] against labels (route or `OUTSIDE`); all values 0–1."""
    inside = labels != OUTSIDE
    best, top = scores.argmax(axis=1), scores.max(axis=1)
    right = best == labels
    accepted = (top >= gate.threshold) & (leads(scores) >= gate.margin)
    result = {
        "accuracy": float(np.mean(right[inside])),
        "correct": float(np.mean((accepted & right)[inside])),
        "false_abstain": float(np.mean(~accepted[inside])),
        "calibration_error": calibration_error(top, right, _weigh(inside, OUTSIDE_SHARE)),
    }
    if not inside.all():
        result["false_accept"] = float(np.mean(accepted[~inside]))
        result["auroc"] = area_under_curve(top[inside], top[~inside])
    return result


def area_under_curve(accept: Scores, refuse: Scores) -> float:
    """Return the chance that a text to accept scores above a text to refuse; ties count half."""
    ordered = np.sort(refuse)
    below = np.searchsorted(ordered, accept, side="left")
    not_above = np.searchsorted(ordered, accept, side="right")
    return float(np.mean((below + not_above) / 2) / len(refuse))


def calibration_error(scores: Scores, right: npt.NDArray[np.bool_], weights: Scores | None = None) -> float:
    """Return the expected calibration error, 0–1: mean distance of score and share of right ones, over 10 equal bins.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.

    Args:
        scores: 0–1, of the named routes.
        weights: how much each text counts; all alike without.
    """
    shares = np.full(len(scores), 1 / len(scores)) if weights is None else weights / weights.sum()
    bins = np.minimum((scores * N_BINS).astype(np.int64), N_BINS - 1)
    gaps = np.bincount(bins, weights=shares * (scores - right), minlength=N_BINS)
    return float(np.abs(gaps).sum())


def _count_votes(inside: npt.NDArray[np.bool_]) -> Scores:
    """Return the votes of each kind: [n_kinds]."""
    votes = np.array([VOTES[kind] for kind in range(N_KINDS)])
    missing = max(0.0, 1.0 - float(np.sum(~inside) / np.sum(inside)) / ENOUGH_NEGATIVES)
    votes[NEAREST] += missing * votes[SCOPE]
    votes[SCOPE] *= 1.0 - missing
    return votes


def _sum_votes(gate: Gate, evidence: Evidence) -> Scores:
    sums: Scores = ((evidence - gate.means) / gate.scales) @ gate.weights
    return sums


def _weigh(inside: npt.NDArray[np.bool_], outside_share: float) -> Scores:
    """Return weights that give the texts outside this share of the total, whatever their number."""
    if inside.all():
        return np.ones(len(inside))
    share = float(np.mean(~inside))
    return np.where(inside, (1 - outside_share) / (1 - share), outside_share / share)


def _fit_squash(
    sums: Scores, right: npt.NDArray[np.bool_], refused: Scores, refused_share: float
) -> tuple[float, float]:
    """Return slope and bias that turn a sum of votes into the probability that it is right.

    Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.

    Args:
        sums: best sums of texts of routes; `right` tells whether that route is their own.
        refused: best sums of texts that no route should get.
        refused_share: 0–1, of the traffic that is like those.
    """
    from sklearn.linear_model import LogisticRegression

    values = np.concatenate([sums, refused])
    positive = np.concatenate([right, np.zeros(len(refused), dtype=np.bool_)])
    if positive.all() or not positive.any():
        return 1.0, 0.0  # nothing tells right from wrong: a score then only ranks
    weights = _weigh(np.arange(len(values)) < len(sums), refused_share)
    model: Any = LogisticRegression(C=1.0, max_iter=1000).fit(values[:, None], positive, sample_weight=weights)
    # A negative slope would mean that more evidence makes a route less likely: chance, on very few texts.
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])


def _choose(
    scores: Scores, right: npt.NDArray[np.bool_], refused: Sequence[Scores], max_false_abstain: float
) -> tuple[float, float]:
    """Return threshold and margin: of the pairs that abstain as often as asked, the one with the fewest mistakes.

    A mistake is a wrong route, or a route for a text that none should get: a share of the texts of its side each.

    Args:
        scores: [n_texts, n_routes], of texts of routes; `right` tells whether the best is their own.
        refused: scores of texts that no route should get.
    """
    ranked = _rank(scores, 0.0)
    best, fewest = (choose_threshold(ranked, max_false_abstain), 0.0), np.inf
    for margin in MARGINS:
        ranked = _rank(scores, margin)
        threshold = choose_threshold(ranked, max_false_abstain)
        outside = np.concatenate([_rank(group, margin) for group in refused])
        mistakes = float(np.mean((ranked >= threshold) & ~right))
        if len(outside):
            mistakes += float(np.mean(outside >= threshold))
        if threshold > 0.0 and mistakes < fewest - 1e-9:
            best, fewest = (threshold, margin), mistakes
    return best


def _rank(scores: Scores, margin: float) -> Scores:
    """Return the best scores, 0 where the margin is missed, so that threshold and margin refuse as many as asked."""
    if not len(scores):
        return np.empty(0)
    return np.where(leads(scores) >= margin, scores.max(axis=1), 0.0)
