"""Why did a decision fall as it did? Every number that took part, the nearest examples, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from router.classifier import N_KINDS
from router.continuation import Encoded
from router.reference import Neighbour
from router.threshold import Gate
from router.types import Reason, RouteDecision

KINDS = {
    "linear": "log-odds of the route, one logistic regression over sub-topics",
    "nearest": "mean cosine of the route's 3 nearest texts, as they are read: meaning and wording",
    "kernel": "kernel ridge regression, this route against everything else",
    "scope": "kernel ridge regression, all routes against the out-of-scope texts",
    "lexical": "log-odds of the route by the words and their pieces",
}
"""Of the evidence, in its order; what each says."""


@dataclass(frozen=True)
class Weighed:
    """One kind of evidence about one route."""

    kind: str
    value: float
    """As the classifier gave it."""
    standardised: float
    """In standard deviations of what a route's own examples show."""
    weight: float
    contribution: float
    """Standardised times weight: the score is 1 / (1 + exp(-(bias + sum of these)))."""


@dataclass(frozen=True)
class Explanation:
    """A decision about the last user turn, and what it rests on."""

    decision: RouteDecision
    why: str
    evidence: dict[str, list[Weighed]]
    """Of the last turn alone, by route, best first."""
    bias: float
    nearest: list[Neighbour]
    """The labelled texts nearest to the last turn."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def explain_decision(
    decision: RouteDecision, turn: Encoded, gate: Gate, routes: Sequence[str], nearest: list[Neighbour]
) -> Explanation:
    """Put together what a decision rests on.

    Args:
        turn: the last user turn.
        routes: in the order of the scores.
    """
    assert len(KINDS) == N_KINDS
    standard = (turn.evidence - gate.means) / gate.scales
    evidence = {
        route: [
            Weighed(
                kind,
                value=round(float(turn.evidence[index, column]), 4),
                standardised=round(float(standard[index, column]), 4),
                weight=round(float(gate.weights[column]), 4),
                contribution=round(float(standard[index, column] * gate.weights[column]), 4),
            )
            for column, kind in enumerate(KINDS)
        ]
        for index, route in enumerate(routes)
    }
    ordered = dict(sorted(evidence.items(), key=lambda item: -decision.scores[item[0]]))
    return Explanation(decision, say_why(decision), ordered, round(float(gate.bias), 4), nearest)


def say_why(decision: RouteDecision) -> str:
    """Say in one sentence why a decision fell as it did."""
    best = max(decision.scores, key=lambda name: decision.scores[name])
    alone, score, threshold = decision.scores[best], decision.score, decision.threshold
    rival = f"; the runner-up {decision.runner_up!r} is {decision.margin:.2f} below" if decision.runner_up else ""
    if decision.reason is Reason.ROUTED:
        return f"{best!r} scores {alone:.2f}, which reaches the threshold of {threshold:.2f}{rival}."
    if decision.reason is Reason.STICKY:
        if score == alone:  # it qualified, but for another route than the active one, by too little
            return (
                f"{best!r} scores {alone:.2f} on the last turn, not enough more than {decision.route!r}, which the "
                "conversation is about: it stays there."
            )
        return (
            f"The last turn alone says too little ({best!r} {alone:.2f}), but it continues the conversation about "
            f"{decision.route!r}: {score:.2f}, which reaches the {threshold:.2f} needed for that."
        )
    if score == alone and score >= threshold:
        lead = f"its lead of {decision.margin:.2f} over {decision.runner_up!r} does not"
        return f"{best!r} scores {alone:.2f}, which would suffice, but {lead}."
    if score == alone:
        return f"The best route, {best!r}, scores {alone:.2f}, below the threshold of {threshold:.2f}: none qualifies."
    return (
        f"The best route of the last turn, {best!r}, scores only {alone:.2f}, and the turn does not continue the "
        f"conversation before it either: {score:.2f}, below the {threshold:.2f} needed for that."
    )
