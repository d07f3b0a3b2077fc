"""Plain values that leave the router. Knows nothing of how they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a decision names the route it names."""

    ROUTED = "routed"
    """The last turn qualified on its own."""

    STICKY = "sticky"
    """The last turn did not, but continues a conversation that has a route."""

    FALLBACK = "fallback"
    """Nothing qualified: no route."""


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Where the last user turn of a conversation belongs."""

    route: str | None
    """None means fallback."""

    reason: Reason

    score: float
    """0–1. Routed or fallback: that the best route is right. Sticky: that the turn continues the conversation."""

    scores: Mapping[str, float]
    """Of the last turn alone, 0–1 for every route; they need not sum to 1."""

    threshold: float
    """The score that had to be reached by the best route, or, for a continuation, by the turn."""

    runner_up: str | None
    """The route with the second highest score; None with a single route."""

    margin: float
    """Lead of the best route over the runner-up, in score."""

    turns: int
    """User turns that were considered."""

    cached: bool
    """True when no text had to be embedded."""

    second: bool = False
    """Made by the second router, since the first was in doubt; scores of a turn clear to the first are the first's."""
