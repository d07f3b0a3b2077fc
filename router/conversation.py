"""The decision about a conversation: replay its user turns over a fitted router. Pure; knows no encoder or thread.

Since the decision is a function of the turns alone, every replica decides alike and no session is stored. Rules, for
each turn in order (*active* is the route after the turn before, *anchor* the last turn that was routed on its own):

1. The turn alone qualifies (`Policy.qualifies`) for the active route: ROUTED there, and it becomes the anchor.
2. Another route is active, and the turn continues the anchor (`Continuation`), whatever it may say alone: STICKY. A
   turn that announces another subject (`ANNOUNCES`) continues nothing.
3. Else, a turn that qualifies for a route is ROUTED there and becomes the anchor, unless it leads the active route by
   less than the price of a switch (STICKY), or replies to a turn that belonged to none: it points back
   (`referring_marks`), and together the two do not reach the route's threshold (FALLBACK).
4. Else FALLBACK, after which no route is active.

A switch costs the computed context (KV) of the whole conversation, since no expert may use another's. Its price is
therefore `SWITCH_PRICE` for every turn that the active route has served, in score: a clear change of topic leads by
far more, a doubtful one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from router.continuation import ANNOUNCES, Continuation, Encoded, continuation_signals, join_turns, referring_marks
from router.threshold import Gate, Scores, leads
from router.types import Reason, RouteDecision

MAX_TURNS = 8
"""User turns that count; older ones are forgotten, which bounds the work for one decision."""

SWITCH_PRICE = 0.02

CLEARLY_ONE, CLEARLY_NONE = 0.95, 0.1
"""Scores from and below which a text is not in doubt. `benchmarks/routing_quality.py --second-encoder` shows what lies
between, and what a second reading of it is worth."""


NOBODY, DOUBTFUL = -1, -2


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

    def in_doubt(self, turns: Sequence[str], known: Mapping[str, Encoded]) -> bool:
        """Tell whether a decision may well be wrong: not every turn alone is clearly for one and the same route.

        Nor clearly for none, all of them. So a follow-up to a routed turn is in doubt.
        """
        found = {self._clearly_for(known[turn].scores) for turn in turns}
        return len(found) > 1 or DOUBTFUL in found

    def is_clear(self, scores: Scores) -> bool:
        """Tell whether a turn alone is clearly for a route, or clearly for none."""
        return self._clearly_for(scores) != DOUBTFUL

    def missing(self, turns: Sequence[str], known: Mapping[str, Encoded]) -> str | None:
        """Return the next joined text that `decide` will need for these turns and is not known; None: it has all."""
        try:
            self._replay(turns, known)
        except KeyError as unknown:
            return str(unknown.args[0])
        return None

    def decide(self, turns: Sequence[str], known: Mapping[str, Encoded], *, cached: bool = False) -> RouteDecision:
        """Decide about the last turn; see the rules in the module's docstring.

        Args:
            turns: at least one, oldest first, at most `MAX_TURNS`.
            known: every turn, and what `missing` named until it named no more.
            cached: passed on into the decision.
        """
        active, reason, score, threshold = self._replay(turns, known)
        decision = self._describe(known[turns[-1]].scores, active, reason, score, threshold)
        return replace(decision, turns=len(turns), cached=cached)

    def _clearly_for(self, scores: Scores) -> int:
        """Return a route, `NOBODY`, or `DOUBTFUL`."""
        best = int(scores.argmax())
        threshold = self.threshold_of(best)
        if scores[best] < min(CLEARLY_NONE, threshold):
            return NOBODY
        return best if scores[best] >= max(CLEARLY_ONE, threshold) and self.qualifies(scores) else DOUBTFUL

    def _replay(self, turns: Sequence[str], known: Mapping[str, Encoded]) -> tuple[int | None, Reason, float, float]:
        """Return the active route after the last turn, why, and the score that decided, with its threshold.

        Raises:
            KeyError: the text that is not known.
        """
        active: int | None = None
        anchor, last, served = "", "", 0
        reason, score, threshold = Reason.FALLBACK, 0.0, self.gate.threshold
        for turn in turns:
            alone = known[turn].scores
            best, before = int(alone.argmax()), active
            score, threshold = float(alone[best]), self.threshold_of(best)
            qualifies, stays = self.qualifies(alone), False
            if active is not None and not (qualifies and best == active):  # else rule 1
                continues = self._continues(anchor, turn, active, known)
                stays = continues >= self.continuation.threshold
                if stays or not qualifies:
                    score, threshold = continues, self.continuation.threshold
                stays = stays or (qualifies and float(alone[best] - alone[active]) < SWITCH_PRICE * served)
            elif qualifies and active is None and last and self._is_reply(last, turn, best, known):
                qualifies = False
            if stays:
                reason = Reason.STICKY
            elif qualifies:
                reason, active, anchor = Reason.ROUTED, best, turn
            else:
                reason, active = Reason.FALLBACK, None
            served = served + 1 if active == before else 1
            last = turn
        return active, reason, score, threshold

    def _continues(self, anchor: str, turn: str, route: int, known: Mapping[str, Encoded]) -> float:
        if ANNOUNCES.search(turn.lower()):
            return 0.0
        joint = known[join_turns(anchor, turn)]
        dependence = self.continuation.dependence(known[turn].vector)
        marks = referring_marks(turn)
        signals = continuation_signals(known[anchor], known[turn], joint, route, dependence, marks)
        return float(self.continuation.score(signals[None, :])[0])

    def _is_reply(self, last: str, turn: str, best: int, known: Mapping[str, Encoded]) -> bool:
        """Tell whether a turn goes on with something that belonged to no route, and is about its route only alone."""
        opens, referring, _ = referring_marks(turn)
        if not (opens or referring) or ANNOUNCES.search(turn.lower()):
            return False
        return bool(known[join_turns(last, turn)].scores[best] < self.threshold_of(best))

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
