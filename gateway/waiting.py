"""In which order an expert's waiters start: client keys take turns, and within a key who came first is first. Pure.

Start-time fair queueing (P. Goyal et al., "Start-time Fair Queuing", 1996) over slots. Every waiter has a round: the
one being served, or, when its key has had its place in that one, as many rounds after the key's last as that was wide.
So a key that floods waits behind itself, and everybody else is at most one round away; with one key, or one request a
key, it is first come, first served.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from .actions import Request

__all__ = ["Waiting"]


class Waiting:
    """The waiters of one expert, first to start first, and when the expert's last turn ended."""

    def __init__(self) -> None:
        self.turn_ended_s = float("-inf")
        self._queue: list[tuple[int, int, Request]] = []  # round, id, request
        self._round = 0
        self._next: dict[str, int] = {}  # by key, its next waiter's round, where that is after the one being served
        self._oldest_s = float("inf")

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in self._queue)

    @property
    def first(self) -> Request:
        return self._queue[0][2]

    def since(self) -> float:
        """Since when the expert has waited: its oldest waiter's arrival, or its last turn's end when that is later."""
        return max(self._oldest_s, self.turn_ended_s)

    def add(self, request: Request) -> None:
        """Put a request in its place; its id is greater than every earlier one's."""
        round_ = max(self._round, self._next.get(request.client, 0))
        self._next[request.client] = round_ + request.width
        bisect.insort(self._queue, (round_, request.id, request))
        self._oldest_s = min(self._oldest_s, request.arrived_s)

    def pop(self) -> Request:
        """Take the first, which is served now."""
        round_, _, request = self._queue.pop(0)
        if round_ > self._round:
            self._round = round_
            self._next = {key: after for key, after in self._next.items() if after > round_}
        self._look_for_oldest(request)
        return request

    def remove(self, request: Request) -> None:
        """Take one out that is not served; those of its key behind it move up. One that is not there is ignored."""
        place = next((at for at, (_, id_, _) in enumerate(self._queue) if id_ == request.id), None)
        if place is None:
            return
        del self._queue[place]
        for at, (round_, id_, other) in enumerate(self._queue):
            if other.client == request.client and id_ > request.id:
                self._queue[at] = (max(self._round, round_ - request.width), id_, other)
        self._queue.sort(key=lambda entry: entry[:2])
        self._next[request.client] = max(self._round, self._next.get(request.client, 0) - request.width)
        self._look_for_oldest(request)

    def clear(self) -> None:
        self._queue.clear()
        self._next.clear()
        self._oldest_s = float("inf")

    def _look_for_oldest(self, gone: Request) -> None:
        if gone.arrived_s <= self._oldest_s:
            self._oldest_s = min((request.arrived_s for request in self), default=float("inf"))
