"""The slots of one backend: which are leased, whose KV lies in each, and which one a request should take.

llama-server keeps a slot's KV after an answer. A request that returns to it under the same expert computes only what is
new; under another expert the server wipes the slot first. So a backend may have more slots than it computes answers at
once (``at_once``): the others hold the KV of conversations that will come back. Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Slots"]

_NEVER_USED_S = 200.0
_SAME_EXPERT_S = 100.0
_NEIGHBOUR_S = 120.0
_RETURNED_S = 300.0


@dataclass(slots=True)
class _Slot:
    """``returned``: its conversation came back at least once."""

    lease: int | None = None
    expert: str | None = None
    conversation: str | None = None
    returned: bool = False
    last_used_s: float = 0.0


class Slots:
    """``count`` slots, of which at most ``at_once`` are leased at the same time."""

    def __init__(self, count: int, at_once: int) -> None:
        self.at_once = min(at_once, count)
        self.running = 0
        """How many are leased."""
        self._slots = [_Slot() for _ in range(count)]

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def room(self) -> int:
        """How many slots may be leased now."""
        return self.at_once - self.running

    def knows(self, expert: str, conversation: str) -> bool:
        """Whether a free slot holds this conversation's KV, computed under this expert."""
        return self._own(expert, conversation) is not None

    def take(self, lease: int, expert: str, conversation: str, width: int, now: float) -> tuple[int, ...]:
        """Lease the ``width`` slots whose KV is the best to use or the least to lose.

        First the conversation's own. Then the one whose KV is least likely to be wanted again, weighed against how fast
        all will be decoded: the oldest, where one never used counts as older than all others and 200 s old at least, a
        slot of the same expert as 100 s older (the prompts of an expert begin alike, and that beginning stays), one as
        120 s older for each running neighbour (llama.cpp decodes only neighbours together, so a gap slows down all of
        them), and one whose conversation has come back before as 300 s younger (it will again). The four were tuned
        with ``benchmarks/policy.py``.
        """
        never_s = min([now - _NEVER_USED_S, *(s.last_used_s - _SAME_EXPERT_S for s in self._slots if s.expert)])
        taken: list[int] = []
        for _ in range(width):
            index = self._own(expert, conversation)
            if index is None:
                index = self._least(expert, never_s)
            slot = self._slots[index]
            slot.returned = (slot.expert, slot.conversation) == (expert, conversation)
            slot.lease, slot.expert, slot.conversation, slot.last_used_s = lease, expert, conversation, now
            taken.append(index)
        self.running += width
        return tuple(taken)

    def _own(self, expert: str, conversation: str) -> int | None:
        """The free slot that holds this conversation's KV, of several the one used last."""
        found = [
            index
            for index, slot in enumerate(self._slots)
            if slot.lease is None and slot.conversation == conversation and slot.expert == expert
        ]
        return max(found, key=lambda index: self._slots[index].last_used_s, default=None)

    def _least(self, expert: str, never_s: float) -> int:
        """The free slot whose KV is the least to lose; ``never_s``: when one never used counts as used last."""
        free = [index for index, slot in enumerate(self._slots) if slot.lease is None]
        return min(free, key=lambda index: self._rank(index, expert, never_s))

    def _rank(self, index: int, expert: str, never_s: float) -> tuple[float, ...]:
        """Least first."""
        slot = self._slots[index]
        used_s = slot.last_used_s if slot.expert else never_s
        around = self._slots[max(0, index - 1) : index + 2]
        neighbours = sum(other.lease is not None for other in around)  # the slot itself is free
        bonus = _SAME_EXPERT_S * (slot.expert == expert) + _NEIGHBOUR_S * neighbours - _RETURNED_S * slot.returned
        return used_s - bonus, slot.expert is not None, index

    def give_back(self, indices: Sequence[int], now: float) -> None:
        for index in indices:
            self._slots[index].lease, self._slots[index].last_used_s = None, now
        self.running -= len(indices)
