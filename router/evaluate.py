"""How good is a fitted router on labelled texts it was not fitted on? Measures; decides nothing.

Every text, or conversation, is decided by the `Router` that serves live traffic, one after another and with nothing
remembered, so that the decisions and the times are those of the gateway.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from router.calibrate import area_under_curve
from router.errors import RouterError
from router.router import Router
from router.threshold import Scores
from router.types import RouteDecision

FALLBACK = "base"
"""Stands for "no route" in the confusion matrix."""

CALIBRATION_BINS = 15
"""Equal widths; the number of Guo et al., On Calibration of Modern Neural Networks, 2017."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Labelled:
    """What should be decided: user turns, oldest first, and the route of the last one, None for none."""

    turns: tuple[str, ...]
    route: str | None


@dataclass(frozen=True)
class Decided:
    """One labelled text with its decision."""

    labelled: Labelled
    decision: RouteDecision
    seconds: float

    @property
    def expected(self) -> str:
        """The label; `FALLBACK` for none."""
        return self.labelled.route or FALLBACK

    @property
    def named(self) -> str:
        """The decision; `FALLBACK` for none."""
        return self.decision.route or FALLBACK

    @property
    def best(self) -> str:
        """The route that scores highest, whether or not that was enough."""
        return self.decision.route or max(self.decision.scores, key=lambda name: self.decision.scores[name])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: one line of a file of decisions."""
        turns, decision = self.labelled.turns, self.decision
        asked: dict[str, Any] = {"text": turns[0]} if len(turns) == 1 else {"turns": turns}
        return {
            **asked,
            "expert": self.labelled.route,
            "decided": decision.route,
            "right": self.expected == self.named,
            "reason": decision.reason.value,
            "second": decision.second,
            "score": decision.score,
            "threshold": decision.threshold,
            "scores": dict(decision.scores),
            "ms": round(self.seconds * 1000, 3),
        }


@dataclass(frozen=True)
class Evaluation:
    """Shares are 0–1; None where no text of that kind was given.

    Whatever speaks of scores (AUROC, calibration, the curves) counts texts that stand alone: in a conversation the
    score may be that of its continuation.
    """

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
    """In scope against out of scope, by the best score."""
    calibration_error: float | None
    """Expected calibration error of "the best route is right"; a text out of scope has no right route."""
    threshold: float
    confusion: Mapping[str, Mapping[str, int]]
    """True label, then decision, then count; `FALLBACK` stands for no route."""
    per_route: Mapping[str, Mapping[str, float]]
    """Recall and precision of the decisions."""
    reliability: Sequence[Mapping[str, float]]
    """Mean score, share of right ones and count of each bin of scores that has any."""
    score_counts: Mapping[str, Sequence[int]]
    """Texts by best score, in 20 bins over 0–1: in scope, and out of scope."""
    threshold_curve: Sequence[Mapping[str, float]]
    """At other thresholds: false abstentions, out-of-scope recall, and for the curve of risk over coverage the share
    of all texts that are given to a route and the share of those that are given to the wrong one."""
    latency_ms: Mapping[str, float]
    """Of one decision with nothing remembered: p50 and p95."""
    mistakes: Sequence[Mapping[str, Any]]
    """Every wrong decision: text (the last turn), true label, decision and score."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


async def decide_all(router: Router, labelled: Sequence[Labelled]) -> list[Decided]:
    """Decide about each, one after another.

    Args:
        router: one that remembers nothing (`cache_size=0`), or the times are not those of new texts.

    Raises:
        RouterError: nothing to decide, or a label that is no route.
        EmbeddingError: the encoder failed.
    """
    unknown = sorted({row.route for row in labelled if row.route is not None} - set(router.routes))
    if unknown or not labelled:
        raise RouterError(
            f"labels {unknown} among {len(labelled)} texts; allowed are the routes {list(router.routes)}, and null"
        )
    found = []
    for row in labelled:
        started = time.perf_counter()
        decision = await router.decide(row.turns)
        found.append(Decided(row, decision, time.perf_counter() - started))
    return found


def summarise(decided: Sequence[Decided], routes: Sequence[str], threshold: float) -> Evaluation:
    """Measure decisions.

    Args:
        routes: every label a decision can name.
        threshold: what a text that stands alone had to reach, 0–1.
    """
    inside = np.array([row.labelled.route is not None for row in decided])
    right = np.array([row.expected == row.named for row in decided])
    abstained = np.array([row.decision.route is None for row in decided])
    best_right = np.array([row.best == row.expected for row in decided])
    alone = np.array([len(row.labelled.turns) == 1 for row in decided])
    top = np.array([max(row.decision.scores.values()) for row in decided])
    accept, refuse = top[inside & alone], top[~inside & alone]
    confusion = _confusion(decided, [*routes, FALLBACK])
    bins = reliability_bins(top[alone], best_right[alone])
    ms = np.array([row.seconds for row in decided]) * 1000
    return Evaluation(
        n_in_scope=int(inside.sum()),
        n_out_of_scope=int((~inside).sum()),
        accuracy=_share(best_right[inside]),
        correct=_share(right[inside]),
        false_abstain=_share(abstained[inside]),
        out_of_scope_recall=_share(abstained[~inside]),
        auroc=area_under_curve(accept, refuse) if len(accept) and len(refuse) else None,
        calibration_error=calibration_error(bins),
        threshold=threshold,
        confusion=confusion,
        per_route={name: _per_route(confusion, name) for name in routes},
        reliability=bins,
        score_counts={
            "in_scope": np.histogram(accept, 20, (0.0, 1.0))[0].tolist(),
            "out_of_scope": np.histogram(refuse, 20, (0.0, 1.0))[0].tolist(),
        },
        threshold_curve=_threshold_curve(top[alone], inside[alone], best_right[alone]),
        latency_ms={"p50": float(np.quantile(ms, 0.5)), "p95": float(np.quantile(ms, 0.95))},
        mistakes=[
            {
                "text": row.labelled.turns[-1],
                "turns": len(row.labelled.turns),
                "expected": row.expected,
                "decided": row.named,
                "score": row.decision.score,
            }
            for row in decided
            if row.expected != row.named
        ],
    )


def reliability_bins(scores: Scores, right: Flags) -> list[dict[str, float]]:
    """Group scores, 0–1, into `CALIBRATION_BINS` of equal width: mean score, share that is right, count."""
    places = np.minimum((scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    return [
        {"score": float(scores[chosen].mean()), "right": float(right[chosen].mean()), "count": int(chosen.sum())}
        for place in range(CALIBRATION_BINS)
        if (chosen := places == place).any()
    ]


def calibration_error(bins: Sequence[Mapping[str, float]]) -> float | None:
    """Return the mean distance between score and share of right ones, each bin weighted by its texts; None of none."""
    total = sum(row["count"] for row in bins)
    return sum(row["count"] * abs(row["score"] - row["right"]) for row in bins) / total if total else None


def _confusion(decided: Sequence[Decided], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    confusion = {name: dict.fromkeys(labels, 0) for name in labels}
    for row in decided:
        confusion[row.expected][row.named] += 1
    return confusion


def _threshold_curve(top: Scores, inside: Flags, best_right: Flags) -> list[dict[str, float]]:
    curve = []
    for value in np.round(np.arange(0.0, 1.0, 0.02), 2).tolist():
        given = top >= value
        curve.append(
            {
                "threshold": value,
                "false_abstain": _share(~given[inside]) or 0.0,
                "out_of_scope_recall": _share(~given[~inside]) or 0.0,
                "coverage": _share(given) or 0.0,
                "risk": _share(~best_right[given]) or 0.0,
            }
        )
    return curve


def _share(flags: Flags) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _per_route(confusion: Mapping[str, Mapping[str, int]], route: str) -> dict[str, float]:
    hits, given = confusion[route][route], sum(confusion[route].values())
    named = sum(row[route] for row in confusion.values())
    return {"recall": hits / given if given else 0.0, "precision": hits / named if named else 0.0, "texts": given}
