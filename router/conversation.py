"""The decision about a conversation: replay its user turns over a fitted router. Pure; knows no encoder or thread.

Since the decision is a function of the turns alone, every replica decides alike and no session is stored. Rules, for
each turn in order (*active* is the route after the turn before, *anchor* the last turn that was routed on its own):

1. The turn alone qualifies for a route (`Policy.qualifies`): ROUTED there, and it becomes the anchor. While another
   route is active, the best route must also lead the active one by the price of a switch; otherwise the active one
   stays (STICKY).
2. It does not, and no route is active: FALLBACK.
3. It does not, and a route is active: STICKY when the turn continues the anchor (`Continuation`), else FALLBACK, after
   which no route is active.

A switch costs the computed context (KV) of the whole conversation, since no expert may use another's. Its price is
therefore `SWITCH_PRICE` for every turn that the active route has served, in score: a clear change of topic leads by
far more, a doubtful one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from router.continuation import Continuation, Encoded, continuation_signals, join_turns
from router.threshold import Gate, Scores, leads
from router.types import Reason, RouteDecision

MAX_TURNS = 8
"""User turns that count; older ones are forgotten, which bounds the work for one decision."""

SWITCH_PRICE = 0.02


@dataclass(frozen=True, eq=False)
class Policy:
    """Everything a decision depends on besides the turns."""

    routes: tuple[str, ...]
    gate: Gate
    continuation: Continuation
    overrides: Mapping[str, float] = field(default_factory=dict)
    """Thresholds of single routes, 0–1, in place of the gate's."""

    def qualifies(self, scores: Scores) -> bool:
        """Tell whether the best route reaches its threshold and leads the runner-up by the gate's margin."""
        best = int(scores.argmax())
        return bool(scores[best] >= self.threshold_of(best) and leads(scores[None, :])[0] >= self.gate.margin)

    def threshold_of(self, route: int) -> float:
        """Return the score that a route must reach."""
        return self.overrides.get(self.routes[route], self.gate.threshold)

    def joints(self, turns: Sequence[str], known: Mapping[str, Encoded]) -> list[str]:
        """Return the joined texts that `decide` will need for these turns, all of which are in `known`."""
        anchor: str | None = None
        joints = []
        for turn in turns:
            if self.qualifies(known[turn].scores):
                anchor = turn
            elif anchor is not None:
                joints.append(join_turns(anchor, turn))
        return joints

    def decide(self, turns: Sequence[str], known: Mapping[str, Encoded], *, cached: bool = False) -> RouteDecision:
        """Decide about the last turn; see the rules in the module's docstring.

        Args:
            turns: at least one, oldest first, at most `MAX_TURNS`.
            known: every turn and every text of `joints`.
            cached: passed on into the decision.
        """
        active: int | None = None
        anchor, served = "", 0
        reason, score, threshold = Reason.FALLBACK, 0.0, self.gate.threshold
        for turn in turns:
            alone = known[turn].scores
            best = int(alone.argmax())
            score, threshold, before = float(alone[best]), self.threshold_of(best), active
            if self.qualifies(alone):  # rule 1
                price = SWITCH_PRICE * served
                stays = active is not None and best != active and score - alone[active] < price
                reason = Reason.STICKY if stays else Reason.ROUTED
                active = active if stays else best
                anchor = turn
            elif active is None:  # rule 2
                reason = Reason.FALLBACK
            else:  # rule 3
                score, threshold = self._continues(anchor, turn, active, known), self.continuation.threshold
                reason = Reason.STICKY if score >= threshold else Reason.FALLBACK
                active = active if reason is Reason.STICKY else None
            served = served + 1 if active == before else 1
        decision = self._describe(known[turns[-1]].scores, active, reason, score, threshold)
        return replace(decision, turns=len(turns), cached=cached)

    def _continues(self, anchor: str, turn: str, route: int, known: Mapping[str, Encoded]) -> float:
        joint = known[join_turns(anchor, turn)]
        phrase_cosine = float((self.continuation.phrases @ known[turn].vector).max())
        signals = continuation_signals(known[anchor], known[turn], joint, route, phrase_cosine)
        return float(self.continuation.score(signals[None, :])[0])

    def _describe(
        self, alone: Scores, active: int | None, reason: Reason, score: float, threshold: float
    ) -> RouteDecision:
        order = np.argsort(-alone, kind="stable")
        second = order[1] if len(order) > 1 else None
        return RouteDecision(
            route=None if active is None else self.routes[active],
            reason=reason,
            score=round(score, 4),
            scores={name: round(float(value), 4) for name, value in zip(self.routes, alone, strict=True)},
            threshold=round(threshold, 4),
            runner_up=None if second is None else self.routes[second],
            margin=round(float(alone[order[0]] - (0.0 if second is None else alone[second])), 4),
            turns=1,
            cached=False,
        )
