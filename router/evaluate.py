"""How good is a fitted router on labelled texts it was not fitted on? Measures; decides nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.artifact import FittedRouter
from router.calibrate import area_under_curve
from router.embedding import Embedder
from router.errors import RouterError
from router.threshold import Scores

FALLBACK = "base"
"""Stands for "no route" in the confusion matrix."""


@dataclass(frozen=True)
class Evaluation:
    """Shares are 0–1; None where no text of that kind was given."""

    n_in_scope: int
    n_out_of_scope: int
    accuracy: float | None
    """Of in-scope texts: the best route is right, whether or not it reached the threshold."""
    correct: float | None
    """Of in-scope texts: the decision names the right route."""
    false_abstain: float | None
    out_of_scope_recall: float | None
    """Of out-of-scope texts: the decision is the fallback."""
    auroc: float | None
    threshold: float
    confusion: Mapping[str, Mapping[str, int]]
    """True label, then decision, then count; `FALLBACK` stands for no route."""
    per_route: Mapping[str, Mapping[str, float]]
    """Recall and precision of the decisions."""
    threshold_curve: Sequence[Mapping[str, float]]
    """False abstentions and out-of-scope recall at other thresholds."""
    latency_ms: Mapping[str, float]
    """Of one text, encoder and decision, nothing remembered: p50 and p95."""
    mistakes: Sequence[Mapping[str, Any]]
    """Text, true label, decision and score of every wrong decision."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def evaluate(fitted: FittedRouter, embedder: Embedder, labelled: Sequence[tuple[str, str | None]]) -> Evaluation:
    """Decide about each text as the first turn of a conversation and compare.

    Args:
        labelled: texts with their route, None for out of scope; at least one.

    Raises:
        RouterError: nothing to evaluate, or a label that is no route.
    """
    unknown = {label for _, label in labelled} - {None, *fitted.routes}
    if unknown or not labelled:
        raise RouterError(f"labels {sorted(map(str, unknown))} among {len(labelled)} texts; routes: {fitted.routes}")
    decided: list[str] = []
    times_s: list[float] = []
    rows: list[Scores] = []
    for text, _ in labelled:
        start = time.perf_counter()
        (encoded,) = fitted.encode([text], embedder.embed([text]))
        decision = fitted.policy.decide([text], {text: encoded})
        times_s.append(time.perf_counter() - start)
        decided.append(decision.route or FALLBACK)
        rows.append(encoded.scores)
    return _summarise(fitted, labelled, decided, np.stack(rows), np.array(times_s) * 1000)


def _summarise(
    fitted: FittedRouter, labelled: Sequence[tuple[str, str | None]], decided: list[str], scores: Scores, ms: Scores
) -> Evaluation:
    true = [label or FALLBACK for _, label in labelled]
    inside = np.array([label is not None for _, label in labelled])
    best = np.array(fitted.routes)[scores.argmax(axis=1)]
    top = scores.max(axis=1)
    right, abstained = np.array(true) == np.array(decided), np.array(decided) == FALLBACK
    labels = [*fitted.routes, FALLBACK]
    confusion = {name: dict.fromkeys(labels, 0) for name in labels}
    for label, decision in zip(true, decided, strict=True):
        confusion[label][decision] += 1
    return Evaluation(
        n_in_scope=int(inside.sum()),
        n_out_of_scope=int((~inside).sum()),
        accuracy=_share((best == np.array(true))[inside]),
        correct=_share(right[inside]),
        false_abstain=_share(abstained[inside]),
        out_of_scope_recall=_share(abstained[~inside]),
        auroc=area_under_curve(top[inside], top[~inside]) if 0 < inside.sum() < len(inside) else None,
        threshold=fitted.threshold,
        confusion=confusion,
        per_route={name: _per_route(confusion, name) for name in fitted.routes},
        threshold_curve=[
            {"threshold": value, "false_abstain": below, "out_of_scope_recall": noticed}
            for value in np.round(np.arange(0.05, 1.0, 0.05), 2).tolist()
            for below, noticed in [(_share(top[inside] < value) or 0.0, _share(top[~inside] < value) or 0.0)]
        ],
        latency_ms={"p50": float(np.quantile(ms, 0.5)), "p95": float(np.quantile(ms, 0.95))},
        mistakes=[
            {"text": text, "expected": label, "decided": decision, "score": round(float(score), 4)}
            for (text, _), label, decision, score in zip(labelled, true, decided, top, strict=True)
            if label != decision
        ],
    )


def _share(flags: npt.NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _per_route(confusion: Mapping[str, Mapping[str, int]], route: str) -> dict[str, float]:
    hits, given = confusion[route][route], sum(confusion[route].values())
    named = sum(row[route] for row in confusion.values())
    return {"recall": hits / given if given else 0.0, "precision": hits / named if named else 0.0, "texts": given}
