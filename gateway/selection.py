"""From a request to an expert: named, routed, sticky or fallback. The one decision function of the gateway.

Live traffic, ``/v1/route`` and ``pointsman route`` all go through ``Selector.select``. Knows nothing of HTTP, leases
or backends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from router import Explanation, Router, RouterError

from .errors import ExpertNotFound
from .experts import AUTO, BASE, ExpertRegistry

__all__ = ["Selection", "Selector"]

log = logging.getLogger("pointsman.selection")


class Selection(NamedTuple):
    """Which expert serves, and why. ``score`` is None when nothing was routed; ``note`` explains a fallback."""

    requested: str
    expert: str
    reason: str
    score: float | None
    route_s: float
    scores: Mapping[str, float]
    threshold: float | None = None
    note: str | None = None
    second: bool = False
    """Decided by the second router, since the first was in doubt."""

    def facts(self) -> dict[str, Any]:
        """The ``pointsman`` object of a body, as far as selection knows it."""
        return {
            "requested_model": self.requested,
            "expert": self.expert,
            "reason": self.reason,
            "score": None if self.score is None else round(self.score, 4),
            "route_ms": round(self.route_s * 1000, 2),
        }


class Selector:
    """Selects experts. ``fallback`` serves when no score qualifies; it must be ``base`` or a served expert."""

    def __init__(self, registry: ExpertRegistry, router: Router | None, *, fallback: str = BASE) -> None:
        self._registry = registry
        self.router = router
        """None when there is nothing to route to; replaced when the router is refitted."""
        self._fallback = fallback

    async def select(self, model: str | None, turns: Sequence[str]) -> Selection:
        """Decide. An absent model means ``auto``.

        Raises:
            ExpertNotFound: the model is none of ``auto``, ``base`` and the enabled experts.
        """
        requested = model or AUTO
        if requested != AUTO:
            if requested != BASE:
                self._check_served(requested)
            return Selection(requested, requested, "named", None, 0.0, {})
        started = time.perf_counter()
        while True:
            router = self.router
            try:
                return await self._route(requested, turns, started)
            except RouterError as error:
                if self.router is not router:
                    continue  # a reload has replaced and closed it meanwhile
                log.error("router failed; the fallback serves", extra={"error": str(error)})
                return self._fall_back(requested, started, note=f"router failed: {error}")

    async def explain(self, turns: Sequence[str]) -> tuple[Selection, Explanation | None]:
        """Select as for ``auto``, and say what the decision rests on; None where the router decided nothing."""
        selection = await self.select(AUTO, turns)
        if self.router is None or not selection.scores:
            return selection, None
        try:
            return selection, await self.router.explain([turn for turn in turns if turn.strip()])
        except RouterError as error:
            log.error("the decision cannot be explained", extra={"error": str(error)})
            return selection, None

    async def _route(self, requested: str, turns: Sequence[str], started: float) -> Selection:
        if self.router is None or not any(turn.strip() for turn in turns):
            return self._fall_back(requested, started, note="there is nothing to route on")
        decision = await self.router.decide([turn for turn in turns if turn.strip()])
        elapsed = time.perf_counter() - started
        common: dict[str, Any] = {
            "score": decision.score,
            "scores": decision.scores,
            "threshold": decision.threshold,
            "second": decision.second,
        }
        route = decision.route
        if route is None:
            return self._fall_back(requested, started, **common)
        if not self._registry.is_enabled(route):
            return self._fall_back(requested, started, note=f"expert {route!r} is not in service", **common)
        return Selection(requested, route, decision.reason.value, route_s=elapsed, **common)

    def _fall_back(self, requested: str, started: float, **known: Any) -> Selection:
        expert = self._fallback if self._fallback == BASE or self._registry.is_enabled(self._fallback) else BASE
        known = {"score": None, "scores": {}, **known}
        return Selection(requested, expert, "fallback", route_s=time.perf_counter() - started, **known)

    def _check_served(self, name: str) -> None:
        if self._registry.is_enabled(name):
            return
        if name in self._registry:
            raise ExpertNotFound(f"The model {name!r} is disabled.", param="model")
        for rejected in self._registry.rejected:
            if rejected.name == name:
                raise ExpertNotFound(f"The model {name!r} is not served: {rejected.reason}", param="model")
        names = ", ".join([AUTO, BASE, *(e.name for e in self._registry if self._registry.is_enabled(e.name))])
        raise ExpertNotFound(f"The model {name[:100]!r} does not exist. Available: {names}.", param="model")
