"""The slots of one backend: which are leased, whose KV lies in each, and which one a request should take.

llama-server keeps a slot's KV after an answer. A request that returns to it under the same expert computes only what is
new; under another expert the server wipes the slot first. So a backend may have more slots than it computes answers at
once (``at_once``): the others hold the KV of conversations that will come back. Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Slots"]

_SAME_EXPERT_S = 100.0
_BESIDE_S = 10.0
_RETURNED_S = 300.0


@dataclass(slots=True)
class _Slot:
    """``returned``: its conversation came back at least once."""

    lease: int | None = None
    expert: str | None = None
    conversation: str | None = None
    returned: bool = False
    last_used_s: float = float("-inf")


class Slots:
    """``count`` slots, of which at most ``at_once`` are leased at the same time."""

    def __init__(self, count: int, at_once: int) -> None:
        self.at_once = min(at_once, count)
        self._slots = [_Slot() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def running(self) -> int:
        return sum(slot.lease is not None for slot in self._slots)

    @property
    def room(self) -> int:
        """How many slots may be leased now."""
        return self.at_once - self.running

    def knows(self, expert: str, conversation: str) -> bool:
        """Whether a free slot holds this conversation's KV, computed under this expert."""
        return any(s.lease is None and (s.expert, s.conversation) == (expert, conversation) for s in self._slots)

    def take(self, lease: int, expert: str, conversation: str, width: int, now: float) -> tuple[int, ...]:
        """Lease the ``width`` slots whose KV is the best to use or the least to lose.

        First the conversation's own. Then one never used, in the expert's own part of the slots if it has one. Then the
        one whose KV is least likely to be wanted again: the oldest, where a slot of the same expert counts as 100 s
        older (the prompts of an expert begin alike, and that beginning stays), one beside a running slot as 10 s
        (llama.cpp decodes only neighbours together), and one whose conversation has come back before as 300 s younger
        (it will again). The three were tuned with ``benchmarks/policy.py``.
        """
        taken: list[int] = []
        for _ in range(width):
            free = (index for index, slot in enumerate(self._slots) if slot.lease is None)
            index = min(free, key=lambda i: self._rank(i, expert, conversation))
            slot = self._slots[index]
            slot.returned = (slot.expert, slot.conversation) == (expert, conversation)
            slot.lease, slot.expert, slot.conversation, slot.last_used_s = lease, expert, conversation, now
            taken.append(index)
        return tuple(taken)

    def _rank(self, index: int, expert: str, conversation: str) -> tuple[float, ...]:
        """Least first."""
        slot = self._slots[index]
        if (slot.expert, slot.conversation) == (expert, conversation):
            return 0, -slot.last_used_s
        beside = any(self._slots[i].lease is not None for i in (index - 1, index + 1) if 0 <= i < len(self._slots))
        if slot.expert is None:
            # As many slots as run at once make a part; an expert that finds one empty begins its own there.
            start = index - index % self.at_once
            part = {other.expert for other in self._slots[start : start + self.at_once]}
            return 1, 0 if expert in part else 1 if part == {None} else 2, not beside, index
        bonus = _SAME_EXPERT_S * (slot.expert == expert) + _BESIDE_S * beside - _RETURNED_S * slot.returned
        return 2, slot.last_used_s - bonus

    def give_back(self, indices: Sequence[int], now: float) -> None:
        for index in indices:
            self._slots[index].lease, self._slots[index].last_used_s = None, now
