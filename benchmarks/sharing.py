"""What does an engine lose to another one on the same cores? A replacement serves while its predecessor drains.

Two embedded engines answer alone and together, with the number of spins that the gateway sets and with libgomp's own.
The ratio in the last line: together, both engines' tokens/s with ours against libgomp's.

    python benchmarks/sharing.py [--seconds 6] [--times 2]
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack

import aiohttp
import serving

from gateway.process import THREADS_WAIT

_AT_ONCE, _WARM_S = 4, 3.0


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="a measurement (default: 6)")
    parser.add_argument("--times", type=int, default=2, help="default: 2")
    given = parser.parse_args()
    experts = serving.load_experts(given.experts)
    name, ours = THREADS_WAIT
    rows, found = [], dict[str, list[float]]()
    for spins in [ours, None] * given.times:
        os.environ.pop(name, None)
        if spins is not None:
            os.environ[name] = spins
        with ExitStack() as stack:
            urls = [stack.enter_context(serving.engine(experts)).url for _ in range(2)]
            alone = asyncio.run(tokens_per_s(urls[:1], given.seconds))
            together = asyncio.run(tokens_per_s(urls, given.seconds))
        key = "ours" if spins else "libgomp"
        rows.append([spins or "libgomp's own", alone, together])
        found.setdefault(f"{key}_alone", []).append(alone)
        found.setdefault(f"{key}_together", []).append(together)
    serving.print_table([name, "one engine, tokens/s", "two at once, both together"], rows)
    means = {key: sum(values) / len(values) for key, values in found.items()}
    facts = {key: round(value, 1) for key, value in means.items()}
    serving.finish("sharing", **facts, ratio=round(means["ours_together"] / max(means["libgomp_together"], 0.1), 2))


async def tokens_per_s(urls: list[str], seconds: float) -> float:
    """Long answers without an end, ``_AT_ONCE`` on each engine; those of the first seconds do not count."""
    tokens, headers = 0, {"authorization": f"Bearer {serving.KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def ask(url: str, number: int) -> None:
            nonlocal tokens
            messages = [{"role": "user", "content": f"Tell me a long story, number {number}"}]
            body = {"messages": messages, "max_tokens": 1900, "ignore_eos": True, "stream": True, "temperature": 0}
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    tokens += line.startswith(b"data: {")

        asking = [asyncio.ensure_future(ask(url, number)) for url in urls for number in range(_AT_ONCE)]
        await asyncio.sleep(_WARM_S)
        before, started = tokens, time.monotonic()
        await asyncio.sleep(seconds)
        rate = (tokens - before) / (time.monotonic() - started)
        for task in asking:
            task.cancel()
        for end in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(end, Exception) and not isinstance(end, asyncio.CancelledError):
                raise end
    return rate


if __name__ == "__main__":
    main()
