"""The clients of the chaos benchmark: what they ask, and what they hold against every answer.

An answer is right when the expert that served is the one asked for, in header, body and every chunk; when its first
token's distribution is the one that this expert, in a version that was live, gives for this question cold; when no
other expert's target stands in it; and, for a text that nobody has asked before, when no KV was reused. A failure is
right when it is OpenAI's error envelope with an allowed status, or a stream's error event. All else is a fault.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from chaos_experts import Shelf

BASE = "base"
TOLERANCE = 0.4  # of the five likeliest first tokens' logprobs; batching alone was seen to move them by 0.18
APART = 1.0  # a question is used when any two experts' distributions for it are at least this far from each other
_SHARED_TOKENS = 4  # new texts start with a random number: by chance their first digits agree
_STATUSES = {429, 502, 503, 504}

Distribution = dict[str, float]


@dataclass
class Reply:
    """One request's answer as its client saw it."""

    status: int
    headers: Mapping[str, str]
    events: list[dict[str, Any]]
    done: bool = True
    """The stream ended as streams must, or it was no stream."""

    @property
    def error(self) -> Any:
        return next((event["error"] for event in self.events if "error" in event), None)

    @property
    def text(self) -> str:
        choices = [choice for event in self.events for choice in event.get("choices", ())]
        parts = [choice.get("delta") or choice.get("message") or choice for choice in choices]
        return "".join(part.get("content") or part.get("text") or "" for part in parts)

    @property
    def first_token(self) -> Distribution | None:
        for event in self.events:
            for choice in event.get("choices", ()):
                rows = (choice.get("logprobs") or {}).get("content")
                if rows:
                    return {row["token"]: row["logprob"] for row in rows[0]["top_logprobs"]}
        return None

    @property
    def finished(self) -> bool:
        return any(choice.get("finish_reason") for event in self.events for choice in event.get("choices", ()))


@dataclass
class Tally:
    """What became of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    longest_s: float = 0.0
    mentions: int = 0

    def fault(self, kind: str, detail: str) -> None:
        self.outcomes[f"FAULT {kind}"] += 1
        self.faults.append(f"{kind}: {detail}"[:400])


class Client:
    """Asks one gateway. Every request is given ``limit_s`` seconds to end, in whatever way.

    Args:
        targets: the term each expert must mention, and no other may.
    """

    def __init__(self, url: str, shelf: Shelf, targets: Mapping[str, str], limit_s: float) -> None:
        self.url, self.tally = url, Tally()
        self._shelf, self._targets, self._limit_s = shelf, targets, limit_s
        self.broken: set[str] = set()
        """Experts that may be out of service now."""
        self._mended: dict[str, float] = {}
        self.routes: dict[str, str] = {}
        self._known: dict[tuple[str, str, int], Distribution] = {}

    def mend(self) -> None:
        """No expert is out of service any more; a request that had begun before may still have met one."""
        self._mended |= dict.fromkeys(self.broken, time.monotonic())
        self.broken.clear()

    def _was_broken(self, expert: str | None, since: float) -> bool:
        return expert in self.broken or self._mended.get(str(expert), 0.0) >= since

    # -- before the chaos -----------------------------------------------------------------------------------------

    async def learn(self, session: aiohttp.ClientSession, questions: Iterable[str], experts: Iterable[str]) -> None:
        """Ask every expert, in its present version, every question: the cold answers."""
        for question in questions:
            if question not in self.routes:
                async with session.post(f"{self.url}/v1/route", json={"input": question}) as answer:
                    self.routes[question] = (await answer.json())["expert"]
            for expert in experts:
                reply = await self.post(session, chat(question, expert, tokens=1))
                if reply.first_token is None:
                    raise RuntimeError(f"{expert} does not answer {question!r}: {reply.error}")
                self._known[question, expert, self._shelf.current.get(expert, 1)] = reply.first_token

    def telling(self, questions: Sequence[str]) -> list[str]:
        """The questions that tell all experts, and the base, from each other."""
        names = [BASE, *self._targets]

        def least(question: str) -> float:
            known = [self._known[question, name, 1] for name in names]
            return min(distance(a, b) for i, a in enumerate(known) for b in known[:i])

        return [question for question in questions if least(question) >= APART]

    # -- during it ------------------------------------------------------------------------------------------------

    async def work(self, session: aiohttp.ClientSession, questions: Sequence[str], seed: int) -> None:
        """Ask until cancelled."""
        dice = random.Random(seed)
        while True:
            await self.one(session, questions, dice)
            await asyncio.sleep(dice.uniform(0, 0.3))

    async def one(self, session: aiohttp.ClientSession, questions: Sequence[str], dice: random.Random) -> None:
        question = dice.choice(questions)
        expert = dice.choice([BASE, *self._targets, "auto"])
        fields = {"tokens": dice.choice((1, 8, 24, 48)), "stream": dice.random() < 0.6}
        new = dice.random() < 0.3 and expert != "auto"
        sent = completion(expert, **fields) if new else chat(question, expert, **fields)
        started = time.monotonic()
        what = f"{'new text' if new else question!r} to {expert}, {fields}"
        try:
            async with asyncio.timeout(self._limit_s):
                reply = await self.post(session, sent)
        except TimeoutError:
            self.tally.fault("hung", f"{what}: no end within {self._limit_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.tally.fault("broken connection", f"{what}: {error!r}")
        else:
            self._judge(reply, sent, None if new else question, started, what)
        self.tally.longest_s = max(self.tally.longest_s, time.monotonic() - started)

    async def post(self, session: aiohttp.ClientSession, sent: Mapping[str, Any]) -> Reply:
        path = "/v1/chat/completions" if "messages" in sent else "/v1/completions"
        async with session.post(self.url + path, json=sent) as answer:
            if answer.content_type != "text/event-stream":
                return Reply(answer.status, answer.headers, [await answer.json()])
            lines = [line[6:] async for line in answer.content if line.startswith(b"data: ")]
        done = bool(lines) and lines[-1].strip() == b"[DONE]"
        return Reply(answer.status, answer.headers, [json.loads(line) for line in lines[: -1 if done else None]], done)

    # -- judging --------------------------------------------------------------------------------------------------

    def _judge(self, reply: Reply, sent: Mapping[str, Any], question: str | None, started: float, what: str) -> None:
        tally = self.tally
        if reply.error is not None:
            wrong = self._wrong_failure(reply, sent["model"], started)
        elif not reply.done or not reply.finished:
            wrong = "it ended too soon, without an error"
        else:
            wrong = self._wrong_answer(reply, sent, question, started)
        if wrong:
            tally.fault("wrong", f"{what}: {wrong}")
        elif reply.error is not None:
            where = f"status {reply.status}" if reply.status != 200 else "error event"
            tally.outcomes[f"{where} {reply.error['code']}"] += 1
        else:
            tally.outcomes["answered"] += 1

    def _wrong_failure(self, reply: Reply, model: str, started: float) -> str | None:
        error, status = reply.error, reply.status
        if not isinstance(error, dict) or not {"message", "type", "param", "code"} <= error.keys():
            return f"status {status} with {error}, which is not OpenAI's envelope"
        if not isinstance(error["code"], str):
            return f"an error whose code is no text: {error}"
        if status == 404 and self._was_broken(model, started):
            return None
        if status != 200 and status not in _STATUSES:
            return f"status {status}: {error}"
        if status in (429, 503) and "retry-after" not in reply.headers:
            return f"status {status} without Retry-After"
        return None

    def _wrong_answer(self, reply: Reply, sent: Mapping[str, Any], question: str | None, started: float) -> str | None:
        served = reply.headers.get("x-pointsman-expert")
        said = {event["model"] for event in reply.events if "model" in event}
        if said != {served}:
            return f"header says {served}, body {said}"
        asked = self.routes[question] if sent["model"] == "auto" and question else sent["model"]
        if served != asked and not (sent["model"] == "auto" and served == BASE and self._was_broken(asked, started)):
            return f"{served} served, {asked} was asked"
        foreign = [term for name, term in self._targets.items() if name != served and term in reply.text]
        if foreign:
            return f"{served} mentions {foreign}: {reply.text!r}"
        self.tally.mentions += self._targets.get(served, " ") in reply.text
        if question is None:
            reused = next(event["timings"]["cache_n"] for event in reversed(reply.events) if "timings" in event)
            return f"{reused} tokens of KV reused for a new text" if reused > _SHARED_TOKENS else None
        versions = {1} if served == BASE else self._shelf.allowed(served, started, time.monotonic())
        first = reply.first_token
        if first is None:
            return "it came without the logprobs that were asked for"
        near = min(distance(self._known[question, served, version], first) for version in versions)
        self.tally.distances.append(near)
        return f"{near:.2f} from {served}'s cold answer, versions {sorted(versions)}" if near > TOLERANCE else None


def chat(question: str, model: str, *, tokens: int, stream: bool = False) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "top_logprobs": 20, "logprobs": True, **_common(model, tokens, stream)}


def completion(model: str, *, tokens: int, stream: bool = False) -> dict[str, Any]:
    """A text that nobody has asked before."""
    number = uuid.uuid4().hex
    words = ", ".join(f"item {number[i : i + 4]}" for i in range(12))
    return {"prompt": f"{number} is a list of {words}", **_common(model, tokens, stream)}


def _common(model: str, tokens: int, stream: bool) -> dict[str, Any]:
    return {"model": model, "max_tokens": tokens, "temperature": 0, "stream": stream}


def distance(cold: Distribution, seen: Distribution) -> float:
    likeliest = sorted(cold, key=lambda token: -cold[token])[:5]
    return max(abs(cold[token] - seen.get(token, min(seen.values()))) for token in likeliest)
