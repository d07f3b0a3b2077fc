"""How many threads, answers at once and slots suit this machine, where the settings leave it open.

Knows cores and memory; nothing of settings, engines or leases.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["answers_at_once", "kv_slots", "memory_bytes", "threads_each", "usable_cores"]

_SLOTS_AN_ANSWER = 4  # one that runs and three whose conversations may come back
_MEMORY_SHARE = 1 / 16


def usable_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_each(cores: int, engines: int) -> int:
    """llama.cpp's threads for each of so many engines of ours.

    Its threads spin while they wait for each other, so one that has lost its core to another process holds up all:
    from four cores on, one is left to the gateway and its encoder. With fewer the loss would be larger than the gain.
    """
    return max(1, (cores - 1 if cores >= 4 else cores) // engines)


def answers_at_once(threads: int) -> int:
    """Decoding several answers together reads the weights once for all; on a CPU four fill two cores."""
    return min(16, max(4, threads))


def kv_slots(at_once: int, slot_bytes: int | None, memory: int | None) -> int:
    """Four slots for each answer at once, as far as a sixteenth of the memory goes; at least ``at_once``.

    Args:
        slot_bytes: the KV of one slot with its context full; None when the model does not say.
        memory: of the machine; None when unknown.
    """
    if not slot_bytes or not memory:
        return at_once
    return max(at_once, min(_SLOTS_AN_ANSWER * at_once, int(memory * _MEMORY_SHARE) // slot_bytes))


def memory_bytes(root: Path = Path("/")) -> int | None:
    """The machine's memory, or what this container may use of it; None where that cannot be told."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        limit = (root / "sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
