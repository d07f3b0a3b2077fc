"""What the chaos benchmark does to a gateway, one method an event, and what it notes of each.

Events of one lane (the engine's, the files') follow one another; lanes overlap, so an engine dies during a reload too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from chaos_experts import BREAKAGES, Shelf
from chaos_load import Client, chat, completion

__all__ = ["Chaos", "Recovery"]

_GIVE_UP_S = 60.0
_SETTLED_S = 11.0
_GRACE_S = 2.0  # requests that met an expert out of service may still be on their way to their clients


@dataclass(frozen=True)
class Recovery:
    """``noticed_s`` from the event until the backend is out of service, ``back_s`` from then until all are up."""

    event: str
    noticed_s: float
    back_s: float


class Chaos:
    """Events against one gateway.

    Args:
        burst: so many requests at once overflow the queue.
        victim: the expert whose files are broken; the others are published anew.
    """

    def __init__(
        self,
        client: Client,
        session: aiohttp.ClientSession,
        shelf: Shelf,
        questions: Sequence[str],
        *,
        admin_key: str,
        burst: int,
        victim: str,
        dice: random.Random,
    ) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.recoveries: list[Recovery] = []
        self._client, self._session, self._shelf, self._questions = client, session, shelf, questions
        self._headers = {"authorization": f"Bearer {admin_key}"}
        self._burst, self._victim, self._dice = burst, victim, dice
        self._engine_lane, self._files_lane = asyncio.Lock(), asyncio.Lock()

    @property
    def events(self) -> list[Callable[[], Awaitable[str]]]:
        return [
            self.kill_engine,
            self.hang_engine,
            self.leave_queued,
            self.leave_prefill,
            self.leave_streaming,
            self.reload,
            self.publish,
            self.config_error,
            self.full_queue,
        ]

    async def run(self, event: Callable[[], Awaitable[str]]) -> None:
        """Carry one event out and note how it ended."""
        name = event.__name__.replace("_", " ")  # type: ignore[attr-defined]
        try:
            outcome = await event()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            outcome = f"FAULT {error!r}"
        if outcome.startswith("FAULT"):
            self._client.tally.fault(name, outcome)
        self.outcomes[name, outcome.split(":")[0]] += 1

    async def status(self) -> Any:
        return (await self.admin("GET", "status"))[1]

    async def admin(self, method: str, path: str) -> tuple[int, Any]:
        timeout = aiohttp.ClientTimeout(total=200)
        url = f"{self._client.url}/admin/{path}"
        async with self._session.request(method, url, headers=self._headers, timeout=timeout) as answer:
            return answer.status, await answer.json()

    # -- the engine -----------------------------------------------------------------------------------------------

    async def kill_engine(self) -> str:
        return await self._strike("kill engine", signal.SIGKILL)

    async def hang_engine(self) -> str:
        return await self._strike("hang engine", signal.SIGSTOP)

    async def _strike(self, event: str, how: signal.Signals) -> str:
        async with self._engine_lane:
            # One that dies again and again just after it came up is held back ever longer: not what is measured here.
            await asyncio.sleep(_SETTLED_S)
            status = await self.status()
            pid = self._dice.choice([row["pid"] for row in status["backends"]])
            struck = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
            if await self._until(lambda rows: all(r["pid"] != pid or not r["up"] for r in rows)) is None:
                return "FAULT not noticed"
            noticed = time.monotonic()
            rows = await self._until(lambda rows: all(r["pid"] != pid and r["up"] for r in rows))
            if rows is None:
                return "FAULT no recovery"
            self.recoveries.append(Recovery(event, noticed - struck, time.monotonic() - noticed))
            return "back"

    async def _until(self, check: Callable[[list[Any]], bool]) -> list[Any] | None:
        until = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < until:
            rows: list[Any] = (await self.status())["backends"]
            if rows and check(rows):
                return rows
            await asyncio.sleep(0.05)
        return None

    # -- clients --------------------------------------------------------------------------------------------------

    async def leave_queued(self) -> str:
        return await self._leave(chat(self._any_question(), self._any_expert(), tokens=400), 0.05)

    async def leave_prefill(self) -> str:
        sent = completion(self._any_expert(), tokens=400, stream=True)
        sent["prompt"] += " ".join(f"and word {number}" for number in range(250))
        return await self._leave(sent, 0.3)

    async def leave_streaming(self) -> str:
        sent = chat(self._any_question(), self._any_expert(), tokens=400, stream=True)
        return await self._leave({**sent, "ignore_eos": True}, None)

    async def _leave(self, sent: dict[str, Any], after_s: float | None) -> str:
        """Close the connection after so many seconds, or amid the tokens."""
        path = "/v1/chat/completions" if "messages" in sent else "/v1/completions"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after_s or 20), self._session.post(self._client.url + path, json=sent) as answer:
                tokens = 0
                async for line in answer.content:
                    tokens += b'"logprob"' in line
                    if after_s is None and tokens >= 3:
                        return "left amid tokens"
                return "answered before it left"
        return "left before an answer"

    async def full_queue(self) -> str:
        before = self._turned_away()
        await asyncio.gather(
            *(self._client.one(self._session, self._questions, self._dice) for _ in range(self._burst))
        )
        turned = self._turned_away() - before
        return f"some turned away: {turned}" if turned else "FAULT nobody was turned away"

    def _turned_away(self) -> int:
        outcomes = self._client.tally.outcomes
        return sum(count for outcome, count in outcomes.items() if outcome.endswith("queue_full"))

    # -- files ----------------------------------------------------------------------------------------------------

    async def reload(self) -> str:
        async with self._files_lane:
            return await self._reloaded(set(self._shelf.current))

    async def publish(self) -> str:
        async with self._files_lane:
            expert = self._dice.choice(sorted(set(self._shelf.current) - {self._victim}))
            self._client.broken.add(expert)  # a restart between the two steps serves without it
            await asyncio.to_thread(self._shelf.publish, expert, 3 - self._shelf.current[expert])
            return await self._reloaded(set(self._shelf.current))

    async def config_error(self) -> str:
        async with self._files_lane:
            breakage = self._dice.choice(sorted(BREAKAGES))
            others = set(self._shelf.current) - {self._victim}
            self._client.broken.add(self._victim)
            await asyncio.to_thread(self._shelf.damage, self._victim, breakage)
            try:
                outcome = await self._reloaded(others)
            finally:
                await asyncio.to_thread(self._shelf.mend, self._victim)
            mended = await self._reloaded(set(self._shelf.current))
            return outcome if outcome.startswith("FAULT") else mended

    async def _reloaded(self, expected: set[str]) -> str:
        """Reload; an engine may die meanwhile, which is a clean error and another try."""
        attempts, status, body = 0, 0, None
        while status != 200:
            attempts += 1
            status, body = await self.admin("POST", "reload")
            if status not in (200, 502, 503, 504) or not isinstance(body.get("error", {}), dict) or attempts == 5:
                return f"FAULT reload answered {status} at attempt {attempts}: {body}"
        if set(body["experts"]) != expected:
            return f"FAULT reload serves {body['experts']}, not {sorted(expected)}: {body['rejected']}"
        self._shelf.reloaded()
        if expected == set(self._shelf.current):
            await asyncio.sleep(_GRACE_S)
            self._client.mend()
        return "served" if attempts == 1 else "served at another try"

    def _any_question(self) -> str:
        return self._dice.choice(self._questions)

    def _any_expert(self) -> str:
        return self._dice.choice(["base", *self._shelf.current])
