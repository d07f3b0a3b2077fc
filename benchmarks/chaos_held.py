"""What a gateway process holds: descriptors, sockets, threads, children, tasks, leases. Linux: read from ``/proc``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Footprint", "Held"]

_IDLE_S = 6.0  # connections that nobody uses are closed within this


@dataclass(frozen=True)
class Footprint:
    descriptors: int
    sockets: int
    threads: int
    children: int
    tasks: int
    memory_mb: int

    def leaked(self, before: Footprint) -> dict[str, int]:
        """What there is more of.

        The event loop's pool of threads grows as it is used, up to the cores and four; memory by what the allocator
        keeps of a reload.
        """
        spare = {"threads": (os.cpu_count() or 1) + 4, "memory_mb": 100}
        more = {name: held - getattr(before, name) - spare.get(name, 0) for name, held in vars(self).items()}
        return {name: count for name, count in more.items() if count > 0}


class Held:
    """Looks at one gateway; ``status`` asks its ``/admin/status``."""

    def __init__(self, pid: int, status: Callable[[], Awaitable[Any]]) -> None:
        self._process, self._status = Path(f"/proc/{pid}"), status

    async def rest(self, limit_s: float = 15.0) -> bool:
        """Wait until nothing is leased or queued and one backend is up; False when it never was so."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            status = await self._status()
            up = [row["up"] for row in status["backends"]]
            if not status["leases"] and not any(status["queued"].values()) and up == [True]:
                return True
            await asyncio.sleep(0.1)
        return False

    async def footprint(self) -> Footprint:
        await asyncio.sleep(_IDLE_S)
        return self._count((await self._status())["tasks"])

    async def settled(self, before: Footprint, limit_s: float = 30.0) -> Footprint:
        """The footprint once it is as small as before, or after the limit."""
        until = time.monotonic() + limit_s
        while (after := await self.footprint()).leaked(before) and time.monotonic() < until:
            pass
        return after

    def _count(self, tasks: int) -> Footprint:
        links = []
        for path in (self._process / "fd").iterdir():
            try:
                links.append(str(path.readlink()))
            except FileNotFoundError:  # closed since the listing
                continue
        facts = dict(line.split(":", 1) for line in (self._process / "status").read_text().splitlines())
        return Footprint(
            descriptors=len(links),
            sockets=sum(link.startswith("socket:") for link in links),
            threads=int(facts["Threads"]),
            children=sum(len(path.read_text().split()) for path in self._process.glob("task/*/children")),
            tasks=tasks,
            memory_mb=int(facts["VmRSS"].split()[0]) // 1024,
        )
