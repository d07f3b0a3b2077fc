"""What the engine has shown of its speed, and the quantum that follows from it. Pure: no I/O and no clock.

Two averages: how long an answer holds its slots (prefill and decode as they are on this machine, under this load), and
how long a swap takes. Each weighs the last ten or so.
"""

from __future__ import annotations

__all__ = ["Pace"]

_WEIGHT = 0.1  # of the newest measurement


class Pace:
    """The quantum: how long an expert waits before another's turn closes for it.

    It is ``answers`` average answers: so much of a turn runs with its slots filled, against the end of each, when they
    empty one by one. And it is 20 swaps at least, so that swapping costs a twentieth of the time at the most. Both
    within ``most_s``, which bounds every wait (``scheduler.py``); it holds while nothing has been measured.

    Args:
        most_s: seconds, the longest quantum.
        answers: 0 for a quantum of ``most_s``, whatever is measured.
    """

    def __init__(self, most_s: float, answers: float = 4.0) -> None:
        self.most_s = most_s
        self.answers = answers
        self.answer_s: float | None = None
        self.swap_s = 0.0

    def answered(self, seconds: float) -> None:
        """An answer has held its slots so long."""
        self.answer_s = seconds if self.answer_s is None else self.answer_s + _WEIGHT * (seconds - self.answer_s)

    def swapped(self, seconds: float) -> None:
        """A swap has taken so long."""
        self.swap_s += _WEIGHT * (seconds - self.swap_s)

    @property
    def quantum_s(self) -> float:
        if self.answer_s is None or self.answers == 0:
            return self.most_s
        return min(self.most_s, max(self.answers * self.answer_s, 20 * self.swap_s))
