"""Out-of-fold evidence -> `Gate`, and the measurements that go with it. Used by fitting only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from router.classifier import LEXICAL, LINEAR, N_KINDS, NEAREST, OUTSIDE, SCOPE, Evidence, Indices
from router.threshold import Gate, Scores, choose_threshold


def calibrate(evidence: Evidence, labels: Indices, *, max_false_abstain: float) -> tuple[Gate, dict[str, float]]:
    """Weigh the kinds of evidence so that scores are probabilities, and choose the threshold.

    Args:
        evidence: [n_texts, n_routes, n_kinds], given out of fold.
        labels: [n_texts], route or `OUTSIDE`.
        max_false_abstain: 0–1, most of the texts of routes that may fall below the threshold.
    """
    inside = labels != OUTSIDE
    own = evidence[inside, labels[inside]]
    means, scales = own.mean(axis=0), np.maximum(own.std(axis=0), 1e-3)
    standard = (evidence - means) / scales
    best = standard[:, :, [LINEAR, NEAREST, LEXICAL]].sum(axis=2).argmax(axis=1)
    right = best == labels
    if inside.all():
        weights, bias = np.ones(N_KINDS), 0.0
        weights[SCOPE] = 0.0
    else:
        weights, bias = fit_logistic(standard[np.arange(len(best)), best], right)
    gate = Gate(means, scales, weights, bias, threshold=0.5)
    scores = gate.scores(evidence)
    accept, refuse = scores[right].max(axis=1), scores[~inside].max(axis=1)
    gate = replace(gate, threshold=choose_threshold(accept, refuse, max_false_abstain=max_false_abstain))
    return gate, measure(scores, labels, gate.threshold)


def fit_logistic(rows: Scores, positive: npt.NDArray[np.bool_]) -> tuple[Scores, float]:
    """Fit a logistic regression with both classes weighted equally: weights [n_columns] and bias."""
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000).fit(rows, positive)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def measure(scores: Scores, labels: Indices, threshold: float) -> dict[str, float]:
    """Summarise scores [n_texts, n_routes] against labels (route or `OUTSIDE`); all values 0–1."""
    inside = labels != OUTSIDE
    best, top = scores.argmax(axis=1), scores.max(axis=1)
    accepted = top >= threshold
    result = {
        "accuracy": float(np.mean(best[inside] == labels[inside])),
        "correct": float(np.mean(accepted[inside] & (best[inside] == labels[inside]))),
        "false_abstain": float(np.mean(~accepted[inside])),
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
