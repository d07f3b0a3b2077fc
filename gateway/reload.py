"""What is served: the experts directory scanned, given to engine and router, changed at run time without a gap.

Owns the order of a reload. Knows nothing of how an expert is checked (``experts``), loaded (``engine``) or routed to
(``routing``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from router import Router

from .engine import Engine
from .errors import ConfigError, RouterNotRenewed
from .experts import Expert, ExpertRegistry, Rejected
from .leases import LeasePool
from .routing import RouterFactory
from .selection import Selector

__all__ = ["Reloader", "Scanned"]

log = logging.getLogger("pointsman")


@dataclass(frozen=True, slots=True)
class Scanned:
    """The experts found on disk that fit the base, and those that do not."""

    experts: dict[str, Expert]
    rejected: list[Rejected]

    @property
    def weights(self) -> dict[str, tuple[str, float]]:
        """What the engine would have to load: each expert's adapter, by hash, and its scale."""
        return {name: (e.manifest.adapter.sha256, e.manifest.scale) for name, e in self.experts.items()}

    def without(self, refused: Collection[str]) -> dict[str, Expert]:
        """The experts by name, but for these."""
        return {name: expert for name, expert in self.experts.items() if name not in refused}


class Reloader:
    """Use from one event loop: ``open`` once, then ``reload``, one at a time.

    Args:
        scan: reads the experts directory; blocking.
        retry_refused: an engine that somebody else runs may have loaded meanwhile what it refused before.
    """

    def __init__(
        self, scan: Callable[[], Scanned], routers: RouterFactory, registry: ExpertRegistry, *, retry_refused: bool
    ) -> None:
        self._scan = scan
        self._routers = routers
        self._registry = registry
        self._retry_refused = retry_refused
        self._loaded: dict[str, tuple[str, float]] = {}
        self._pool: LeasePool | None = None
        self._reloading = asyncio.Lock()
        self._newest: Router | None = None
        self._incomplete: tuple[Router, list[Expert]] | None = None
        """The newest router, while it waits for its second."""
        self._completing: asyncio.Task[None] | None = None

    def refuse(self, name: str, reason: str) -> None:
        """The engine could not keep an expert: out of service until a reload, which will try it again."""
        self._registry.reject(name, reason)
        self._loaded.pop(name, None)
        self._withdraw({name})

    async def open(self, engine: Engine, pool: LeasePool) -> Router | None:
        """Start the engine with what is there, then the router; a second router follows.

        Raises:
            ConfigError, BackendStartError: one of them cannot be had.
        """
        self._pool = pool
        found = await asyncio.to_thread(self._scan)
        log.info("starting the engine", extra={"experts": len(found.experts)})
        refused = await engine.start(pool, list(found.experts.values()))
        self._register(found, refused)
        log.info("opening the router; fitted anew when examples changed, which takes half a minute")
        return await self._router(found, refused)

    async def aclose(self) -> None:
        """Wait for no second router any more."""
        if self._completing is not None:
            self._completing.cancel()
            await asyncio.wait([self._completing])

    async def reload(self, engine: Engine, selector: Selector) -> dict[str, Any]:
        """Serve what the directory holds now; running streams go on to their end.

        Mistakes in files are looked for first. Then the router is fitted while the engine is replaced. Once that is up,
        a new expert answers by its name, some twenty seconds before the router is ready and `auto` finds it. Meanwhile
        the router before decides, and what it gives to an expert that is gone goes to the fallback. A second router may
        take minutes: it follows, and until then the first decides alone.

        Raises:
            ConfigError, BackendStartError: one of them cannot be had; all is served as before.
            RouterNotRenewed: the experts are served, but `auto` goes on with the router before.
        """
        async with self._reloading:
            found = await asyncio.to_thread(self._scan)
            left_out = self._refused_before(found)
            await asyncio.to_thread(self._routers.check, list(found.without(left_out).values()))
            preparing = self._prepare(found, left_out)
            replaced = found.weights != self._loaded
            refused = await engine.replace(list(found.experts.values())) if replaced else left_out
            self._register(found, refused)
            try:
                await preparing
                fresh = await self._router(found, refused)
            except Exception as error:
                log.exception("no router for the experts that are served now; the one before decides")
                raise RouterNotRenewed(
                    "The experts are served by name, but auto decides as before, for lack of a router: "
                    f"{error or type(error).__name__}"
                ) from error
            old, selector.router = selector.router, fresh
            if old is not None:
                await old.aclose()
            return {
                "experts": [expert.name for expert in self._registry],
                "rejected": [{"name": row.name, "reason": row.reason} for row in self._registry.rejected],
                "engine_replaced": replaced,
            }

    def _refused_before(self, found: Scanned) -> dict[str, str]:
        """What the engine could not load and would not load now: the same adapters."""
        known = {row.name: row.reason for row in self._registry.rejected}
        return {n: known[n] for n, w in found.weights.items() if n in known and self._loaded.get(n) == w}

    def _prepare(self, found: Scanned, left_out: Collection[str]) -> asyncio.Future[None]:
        """Fit beside the engine. Goes on when that fails: the next reload finds what was fitted."""
        experts = list(found.without(left_out).values())
        return asyncio.ensure_future(asyncio.to_thread(self._routers.prepare, experts))

    async def _router(self, found: Scanned, refused: Mapping[str, str]) -> Router | None:
        experts = list(found.without(refused).values())
        router = self._newest = await asyncio.to_thread(partial(self._routers.build, experts, complete=False))
        self._incomplete = None if router is None else (router, experts)
        if self._completing is None or self._completing.done():
            self._completing = asyncio.create_task(self._complete())
        return router

    async def _complete(self) -> None:
        """Give the newest router its second; what was begun for one before it goes on first, and is kept for a fit."""
        while self._incomplete is not None:
            (router, experts), self._incomplete = self._incomplete, None
            try:
                second = await asyncio.to_thread(self._routers.build_second, experts)
                if second is not None and router is self._newest:
                    router.add_second(second)
                    log.info("the second router is there: it decides what the first is in doubt about")
            except ConfigError as error:
                log.error("no second router until the next reload, the first decides alone: %s", error)
            except Exception:
                log.exception("no second router until the next reload, the first decides alone")

    def _register(self, found: Scanned, refused: Mapping[str, str]) -> None:
        good = found.without(refused)
        rejected = [*found.rejected, *(Rejected(name, reason) for name, reason in sorted(refused.items()))]
        before = {expert.name for expert in self._registry}
        self._registry.replace(good, rejected)
        self._withdraw(before - good.keys())
        self._loaded = {n: w for n, w in found.weights.items() if not (self._retry_refused and n in refused)}
        for row in rejected:
            log.error("expert refused: %s", row.reason, extra={"expert": row.name})

    def _withdraw(self, names: Set[str]) -> None:
        """Whoever waits for one of them would wait in vain."""
        for name in sorted(names):
            if self._pool is not None:
                self._pool.withdraw(name)
