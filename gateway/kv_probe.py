"""Does a llama-server reuse one expert's KV for another? Asked before any server may serve experts."""

from __future__ import annotations

import hashlib
import logging
import time

from .backend import Backend
from .experts import BASE

__all__ = ["kv_is_safe"]

log = logging.getLogger("pointsman.engine")


async def kv_is_safe(backend: Backend) -> bool:
    """Ask for one text under an expert, then, with other texts between, under the base: was the expert's KV used?

    llama-server's RAM prompt cache is keyed by tokens alone and restores an evicted prompt whatever adapter computed
    it (llama.cpp issue 26207). With one filler more than there are slots the first prompt has left every slot, so any
    KV reused for it at the end is the expert's.
    """
    expert = next(name for name in sorted(backend.experts) if name != BASE)
    slots = backend.props.slots if backend.props else 1
    nonce = f"{time.time_ns():x}"
    text = f"{nonce} " + " ".join(f"{nonce[i % 8 :]} item {i} of the probe list;" for i in range(4))
    await backend.timings(text, expert)
    for filler in range(slots + 1):
        # Unlike from the first token on: the server would put a text that begins like another's into that one's slot.
        word = hashlib.sha256(f"{nonce} {filler}".encode()).hexdigest()[:24]
        await backend.timings(f"{word} is filler {filler}", BASE)
    last = await backend.timings(text, BASE)
    reused, read = int(last["cache_n"]), int(last["prompt_n"])
    if reused > read:
        log.error("the engine reused another expert's KV", extra={"cache_n": reused, "prompt_n": read})
        return False
    return True
