"""What somebody writes first: a gateway that takes requests in order and swaps whenever the expert changes.

The peer of ``mixed.py``. It is correct (it drains before it swaps) and does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from serving import Engine

__all__ = ["NaiveGateway"]


class NaiveGateway:
    """At most ``engine.slots`` requests of one expert at a time, strictly first come, first served."""

    def __init__(self, session: aiohttp.ClientSession, engine: Engine) -> None:
        self._session = session
        self._engine = engine
        self._turn = asyncio.Lock()  # fair: who waits first gets it first
        self._room = asyncio.Semaphore(engine.slots)
        self._active: str | None = None

    @contextlib.asynccontextmanager
    async def lease(self, expert: str) -> AsyncIterator[None]:
        async with self._turn:
            if expert != self._active:
                await self._swap(expert)
            await self._room.acquire()
        try:
            yield
        finally:
            self._room.release()

    async def _swap(self, expert: str) -> None:
        for _ in range(self._engine.slots):  # drain
            await self._room.acquire()
        url = f"{self._engine.url}/lora-adapters"
        async with self._session.post(url, json=self._engine.lora(expert), headers=self._engine.headers) as answer:
            answer.raise_for_status()
        self._active = expert
        for _ in range(self._engine.slots):
            self._room.release()
