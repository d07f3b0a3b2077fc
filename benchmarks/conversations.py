"""How much of a conversation's KV is used again, when several on different experts take turns?

Two to eight conversations, each of some turns, each on an expert of its own as far as they reach, interleaved: every
client sends its next turn as soon as the last is answered. What is reusable of a turn's prompt is what the conversation
had in KV before: the tokens of its last prompt and of the answer, as far as the new prompt repeats them. llama.cpp's
own ``cache_n`` says what was used. The answer's tokens count as the server counted them; a template that ends an answer
in another way than the model did leaves a token or two out, so a little less than all can be had.

``cache_n`` over what is reusable would be foreign KV, of another conversation; the beginning that an expert's prompts
share is all that a first turn may honestly find. (KV of another *expert* for the same tokens would not show here:
``contamination.py`` looks for that.)

The peer is llama-server itself, RAM prompt cache off, each request naming its adapters and choosing no slot.

    python benchmarks/conversations.py [--turns 4] [--tokens 32] [--counts 2,4,8]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import serving
from serving import Engine

_ASKS = (
    "Tell me how to begin, please, in a few words.",
    "And what comes after that?",
    "Why is that so important?",
    "What would you do differently in winter?",
    "Which mistake should I avoid?",
    "Thank you. One last piece of advice?",
)
_SHARED_TOKENS = 32  # the template's own first words (28 with the default base), and digits that agree by chance


@dataclass
class Turn:
    """Tokens of one turn's prompt: all, reusable, reused; and seconds to its first token."""

    prompt: int
    reusable: int
    reused: int
    first_s: float


@dataclass
class Way:
    name: str
    conversations: int
    turns: list[Turn] = field(default_factory=list)

    @property
    def share(self) -> float:
        later = [turn for turn in self.turns if turn.reusable]
        return sum(min(turn.reused, turn.reusable) for turn in later) / sum(turn.reusable for turn in later)

    @property
    def foreign(self) -> int:
        """Turns that used more than was theirs."""
        return sum(turn.reused > max(turn.reusable, _SHARED_TOKENS) for turn in self.turns)


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--turns", type=int, default=4, help=f"at most {len(_ASKS)}")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--counts", default="2,4,8", help="conversations at the same time")
    sys.exit(asyncio.run(measure(parser.parse_args())))


async def measure(given: argparse.Namespace) -> int:
    experts = serving.load_experts(given.experts)
    names = [expert.name for expert in experts]
    counts = [int(count) for count in given.counts.split(",")]
    ways: list[Way] = []
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3600), connector=connector) as session:
        with serving.engine(experts, slots=4, ctx=4096) as engine:
            for count in counts:
                ways.append(await converse("straight", straight(engine), session, names, count, given))
        sections = {"experts": {"dir": str(given.experts)}, "engine": {"port": serving.free_port("127.0.0.1")}}
        with serving.gateway(sections) as url:
            for count in counts:
                ways.append(await converse("Pointsman", through_gateway(url), session, names, count, given))
    return report(ways)


@dataclass(frozen=True)
class Sender:
    """Where requests go, and what they carry there."""

    url: str
    headers: dict[str, str]
    engine: Engine | None

    def fields(self, expert: str) -> dict[str, Any]:
        return {"lora": self.engine.lora(expert)} if self.engine else {"model": expert}


def straight(engine: Engine) -> Sender:
    return Sender(engine.url, engine.headers, engine)


def through_gateway(url: str) -> Sender:
    return Sender(url, {}, None)


async def converse(
    name: str,
    sender: Sender,
    session: aiohttp.ClientSession,
    names: Sequence[str],
    count: int,
    given: argparse.Namespace,
) -> Way:
    """All conversations at the same time; their first words differ."""
    seen: list[list[Turn]] = [[] for _ in range(count)]

    async def talk(number: int) -> None:
        expert = names[number % len(names)]
        opening = f"{uuid.uuid4().hex} is my number. "
        messages: list[dict[str, str]] = []
        known = 0
        for turn in range(min(given.turns, len(_ASKS))):
            messages.append({"role": "user", "content": (opening if turn == 0 else "") + _ASKS[turn]})
            text, timings, first_s = await ask(session, sender, expert, messages, given.tokens)
            prompt = timings["cache_n"] + timings["prompt_n"]
            seen[number].append(Turn(prompt, min(known, prompt), timings["cache_n"], first_s))
            messages.append({"role": "assistant", "content": text})
            known = prompt + timings["predicted_n"] - 1  # the last token was sampled, never computed

    await asyncio.gather(*(talk(number) for number in range(count)))
    return Way(name, count, [turn for turns in seen for turn in turns])


async def ask(
    session: aiohttp.ClientSession, sender: Sender, expert: str, messages: list[dict[str, str]], tokens: int
) -> tuple[str, dict[str, Any], float]:
    """One turn: the answer's text, the engine's timings, seconds to the first token."""
    sent = {"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True, **sender.fields(expert)}
    started, first_s, text, timings = time.monotonic(), float("nan"), "", None
    url = f"{sender.url}/v1/chat/completions"
    async with session.post(url, json=sent, headers=sender.headers) as response:
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(line.decode())
            for choice in event.get("choices", []):
                if content := choice["delta"].get("content"):
                    first_s = time.monotonic() - started if not text else first_s
                    text += content
            timings = event.get("timings") or timings
    if timings is None:
        raise RuntimeError(f"{url} answered {response.status} without timings")
    return text, timings, first_s


def report(ways: Sequence[Way]) -> int:
    rows, facts = [], []
    for way in ways:
        later = [turn.first_s for turn in way.turns if turn.reusable]
        prompt = sum(turn.prompt for turn in way.turns)
        row = [way.name, way.conversations, prompt, sum(turn.reused for turn in way.turns) / prompt, way.share]
        rows.append([*row, way.foreign, serving.percentile(later, 0.5), serving.percentile(later, 0.95)])
        facts.append(
            {"way": way.name, "conversations": way.conversations, "share": round(way.share, 3), "foreign": way.foreign}
        )
    header = ["", "conversations", "prompt tokens", "from KV", "of what is reusable", "foreign KV"]
    serving.print_table([*header, "TTFT p50, s", "TTFT p95, s"], rows)
    ours, peer = ([way for way in ways if (way.name == "Pointsman") == mine] for mine in (True, False))
    foreign = sum(way.foreign for way in ours)
    serving.finish(
        "conversations",
        reused_share=round(min(way.share for way in ours), 3),
        ratio=round(min(way.share for way in ours) / max(1e-9, min(way.share for way in peer)), 2),
        foreign_kv=foreign,
        ways=facts,
    )
    return 1 if foreign else 0


if __name__ == "__main__":
    main()
