"""Does a llama-server reuse one expert's KV for another? Asked before any server may serve experts."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from . import __version__
from .backend import Backend
from .experts import BASE
from .member import EngineConfig
from .process import CHILD_CWD, binary_arguments

__all__ = ["Proofs", "kv_is_safe", "server_identity"]

log = logging.getLogger("pointsman.engine")

_PROBE = "1"
"""Another number when the probe asks for more than it did."""
_READ_BY_SERVER = ("LLAMA_", "GGML_", "LD_")


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


class Proofs:
    """The servers of ours that have passed the probe, which takes longer than their start.

    Args:
        folder: where they are remembered from one start of the gateway to the next; None: nowhere.

    A server without an identity is never known.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: set[str] = set()

    def __contains__(self, identity: str | None) -> bool:
        if identity is None:
            return False
        with contextlib.suppress(OSError):
            if self._folder is not None and (self._folder / identity).exists():
                return True
        return identity in self._known

    def add(self, identity: str | None) -> None:
        if identity is None:
            return
        self._known.add(identity)
        if self._folder is not None:
            with contextlib.suppress(OSError):  # it is asked again at the next start
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / identity).touch()


def server_identity(config: EngineConfig, build: str) -> str | None:
    """Sha256 of all that a child's dealing with KV depends on; None when that cannot be told.

    Its executable or wheel and its base (a file by path, size and time: one that was replaced is another), its whole
    command line but for the port and the adapters (of which no cache of llama.cpp's knows anything), what of the
    environment it reads, its build, and what we are ourselves, who start and ask it.
    """
    if (launch := config.launch) is None:
        return None
    name = config.executable or "embedded"
    facts = [
        _PROBE,
        __version__,
        build,
        *binary_arguments(name, replace(launch, port=0, adapters=()), config.extra_arguments),
    ]
    facts += sorted(f"{key}={value}" for key, value in os.environ.items() if key.startswith(_READ_BY_SERVER))
    try:
        if config.executable is None:
            facts.append(importlib.metadata.version("xllamacpp"))
        for file in filter(None, [launch.model, config.executable]):
            path = CHILD_CWD / (shutil.which(file) or file)
            stat = path.stat()
            facts.append(f"{path} {stat.st_size} {stat.st_mtime_ns}")
    except (OSError, importlib.metadata.PackageNotFoundError):
        return None
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()
