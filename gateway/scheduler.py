"""Who runs next, on which slot, under which expert: pure decisions.

Events go in, actions come out. No I/O, no clock, no asyncio: ``now`` is an argument (seconds, monotonic). The owner
(``leases.LeasePool``) feeds every event from one task and performs every action returned. Which slot a request takes is
decided in ``slots.py``, how long the quantum is in ``pace.py``.

Rules, as numbered in docs/ARCHITECTURE.md:

1. A request is (expert, conversation key, arrival time, deadline).
2. A backend has that expert active, room, and its turn is open: grant, first on a backend that holds this
   conversation's KV.
3. Else, if a backend is idle: swap it, then grant.
4. Else queue. The queue is bounded, as a whole and per client key; a request that rule 3 has just swapped a backend for
   only passes through it, and is never turned away.
5. A turn closes when another expert has waited longer than the quantum. A closed turn grants nothing more; when its
   leases have drained, the backend swaps to the expert that has waited longest.
6. Within an expert: client keys take turns; within a key, first come, first served (``waiting.py``).
7. A deadline passed in the queue: rejected. A client gone, in whatever state: its place or lease is freed.
8. A backend that went down loses its leases; the waiting requests stay in the queue for the next backend. Those for an
   expert that is no longer served at all are rejected.
9. Shutdown: nothing more is accepted, the queue is rejected, running leases end by themselves.

An expert "has waited" since its oldest waiter arrived, or since its own last turn ended, whichever is later. So a
long backlog of one expert cannot outrank a newcomer of another after each of its own turns, and the head waiter of an
expert starts within ``quantum + swap + k * (longest lease + swap)`` on one backend, where k is the number of other
experts waiting or running, and the quantum is at most ``Pace.most_s``: the open turn closes after one quantum and
drains; each of the at most k - 1 experts that have waited longer gets one closed turn of one batch. As many of an
expert's waiters as the backend answers at once start with its head, so the n-th starts within ``ceil(n / at once)``
times (that bound + the longest lease). Among m keys, a key's j-th waiter is at most the m * (j + 1)-th (rule 6).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from .actions import Action, Grant, Lease, Reject, RejectReason, Request, Retired, Swap
from .pace import Pace
from .slots import Slots
from .waiting import Waiting

__all__ = ["Backend", "Scheduler"]


class BackendState(enum.Enum):
    UP = "up"
    SWAPPING = "swapping"
    DOWN = "down"


@dataclass(slots=True)
class Backend:
    """What the scheduler knows of one backend. Read it; only the scheduler writes."""

    name: str
    slots: Slots
    experts: frozenset[str]
    state: BackendState = BackendState.UP
    active: str | None = None
    swapping_to: str | None = None
    turn_open: bool = True
    retiring: bool = False
    idle_since: float = 0.0
    swapped_s: float = 0.0
    """When its last swap began."""

    @property
    def running(self) -> int:
        return self.slots.running

    def grants(self, expert: str) -> bool:
        """Whether it may grant to ``expert`` as far as its state and turn go (rules 2 and 5)."""
        return self.state is BackendState.UP and self.turn_open and not self.retiring and self.active == expert

    def fits(self, request: Request) -> bool:
        """Whether it could ever run ``request``, whatever it does now."""
        return request.expert in self.experts and request.width <= self.slots.at_once


class Scheduler:
    """See the module's docstring. Every event method returns the actions to perform, in order.

    Args:
        pace: what the engine shows of its speed, and the quantum that follows.
    """

    def __init__(self, *, pace: Pace, max_queue: int, max_queue_per_client: int) -> None:
        self.pace = pace
        self.max_queue = max_queue
        self.max_queue_per_client = max_queue_per_client
        self.backends: dict[str, Backend] = {}
        self.leases: dict[int, Lease] = {}
        self._waiting: dict[str, Waiting] = {}
        self._next_lease = 0
        self._shutdown = False

    # -- what is so -----------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())

    def first(self, expert: str) -> Request:
        """The waiter of ``expert`` that starts next (rule 6); there must be one."""
        return self._waiting[expert].first

    def queued_by_expert(self) -> dict[str, int]:
        return {expert: len(waiting) for expert, waiting in self._waiting.items()}

    def next_event_s(self, now: float) -> float | None:
        """When ``tick`` must be called at the latest: the next deadline or the next end of a quantum after ``now``."""
        if not self._anyone_waits():
            return None
        times = [request.deadline_s for waiting in self._waiting.values() for request in waiting]
        if any(backend.turn_open and backend.running for backend in self.backends.values()):
            times += [self._waiting[expert].since() + self.pace.quantum_s for expert in self._unserved()]
        return min((time for time in times if time > now), default=None)

    # -- events ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> list[Action]:
        if self._shutdown:
            return [Reject(request, RejectReason.SHUTDOWN)]
        alone = not self._anyone_waits() and request.deadline_s > now
        self._waiting.setdefault(request.expert, Waiting()).add(request)
        if alone and (granted := self._grant(now)):
            return granted  # rule 2, as _schedule would decide: while nobody waits all turns are open and none is due
        actions = self._schedule(now)
        if any(isinstance(a, Grant) and a.lease.request is request for a in actions):
            return actions
        if any(isinstance(a, Swap) and a.expert == request.expert for a in actions):
            return actions  # a backend is made ready for it: it only passes through the queue
        reason = self._over_limit(request)
        if reason is not None:
            self._waiting[request.expert].remove(request)
            actions.append(Reject(request, reason))
        return actions

    def cancel(self, request: Request, now: float) -> list[Action]:
        """The client has gone while queued (rule 7); unknown requests are ignored."""
        waiting = self._waiting.get(request.expert)
        if waiting is not None:
            waiting.remove(request)
        return self._schedule(now)

    def release(self, lease_id: int, now: float) -> list[Action]:
        """A lease has ended; a lease lost with its backend is ignored (rule 8)."""
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            backend = self.backends[lease.backend]
            backend.slots.give_back(lease.slots, now)
            backend.idle_since = now
            self.pace.answered(now - lease.granted_s)
        return self._schedule(now)

    def swap_done(self, name: str, now: float) -> list[Action]:
        backend = self.backends.get(name)
        if backend is not None and backend.state is BackendState.SWAPPING:
            self.pace.swapped(now - backend.swapped_s)
            backend.state, backend.turn_open = BackendState.UP, True
            backend.active, backend.swapping_to = backend.swapping_to, None
        return self._schedule(now)

    def backend_up(
        self, name: str, slots: int, experts: Iterable[str], now: float, at_once: int | None = None
    ) -> list[Action]:
        """A backend is ready, for the first time or again; nothing is active on it yet.

        Args:
            at_once: how many of its slots may be leased at the same time; None for all.
        """
        self._lose_leases(name)
        self.backends[name] = Backend(name, Slots(slots, at_once or slots), frozenset(experts))
        return self._schedule(now)

    def backend_down(self, name: str, now: float) -> list[Action]:
        """A backend failed: its leases are lost and it grants nothing until ``backend_up`` (rule 8)."""
        backend = self.backends.get(name)
        if backend is None:
            return []
        self._lose_leases(name)
        if backend.retiring:
            del self.backends[name]
            return [Retired(name), *self._schedule(now)]
        backend.state, backend.active, backend.swapping_to, backend.turn_open = BackendState.DOWN, None, None, True
        return self._schedule(now)

    def set_experts(self, name: str, experts: Iterable[str], now: float) -> list[Action]:
        """A backend now serves other experts; its leases and its active expert stay."""
        if name in self.backends:
            self.backends[name].experts = frozenset(experts)
        return self._schedule(now)

    def withdraw(self, expert: str, now: float) -> list[Action]:
        """An expert is no longer served: who waits for it is rejected, what runs goes on (rule 8)."""
        waiting = self._waiting.pop(expert, Waiting())
        return [*(Reject(r, RejectReason.WITHDRAWN) for r in waiting), *self._schedule(now)]

    def retire(self, name: str, now: float) -> list[Action]:
        """Grant nothing more on this backend; ``Retired`` follows when its leases have drained."""
        if name in self.backends:
            self.backends[name].retiring = True
        return self._schedule(now)

    def tick(self, now: float) -> list[Action]:
        return self._schedule(now)

    def shutdown(self) -> list[Action]:
        """Refuse what comes and what waits (rule 9)."""
        self._shutdown = True
        actions: list[Action] = []
        for waiting in self._waiting.values():
            actions += [Reject(request, RejectReason.SHUTDOWN) for request in waiting]
            waiting.clear()
        return actions

    # -- decisions ------------------------------------------------------------------------------------------------

    def _schedule(self, now: float) -> list[Action]:
        actions = self._expire(now) if self._anyone_waits() else []
        # A grant starts a turn that may be due to close at once, and a swap reopens what other backends closed for its
        # expert: decide until nothing changes.
        while self._anyone_waits() and (decided := self._decide(now)):
            actions += decided
        if not self._anyone_waits():
            self._reopen_turns()
        for backend in [b for b in self.backends.values() if b.retiring and not b.running]:
            if backend.state is not BackendState.SWAPPING:
                del self.backends[backend.name]
                actions.append(Retired(backend.name))
        return actions

    def _anyone_waits(self) -> bool:
        return any(self._waiting.values())

    def _decide(self, now: float) -> list[Action]:
        self._reopen_turns()
        self._close_turns(now)
        return self._grant(now) + self._swap_idle(now)

    def _expire(self, now: float) -> list[Action]:
        """Rule 7; and what no backend has slots for must not keep those behind it waiting."""
        actions: list[Action] = []
        widest = max((b.slots.at_once for b in self.backends.values() if not b.retiring), default=None)
        for waiting in self._waiting.values():
            for request in list(waiting):
                too_wide = widest is not None and request.width > widest
                if too_wide or request.deadline_s <= now:
                    waiting.remove(request)
                    actions.append(Reject(request, RejectReason.TOO_WIDE if too_wide else RejectReason.DEADLINE))
        return actions

    def _grant(self, now: float) -> list[Action]:
        """Rules 2 and 6."""
        actions: list[Action] = []
        for expert, waiting in self._waiting.items():
            while waiting:
                request = waiting.first
                able = [b for b in self.backends.values() if b.grants(expert) and b.slots.room >= request.width]
                if not able:
                    break
                waiting.pop()
                actions.append(Grant(self._lease(_fittest(able, request), request, now)))
        return actions

    def _lease(self, backend: Backend, request: Request, now: float) -> Lease:
        self._next_lease += 1
        slots = backend.slots.take(self._next_lease, request.expert, request.conversation, request.width, now)
        lease = Lease(self._next_lease, request, backend.name, slots, now)
        self.leases[lease.id] = lease
        return lease

    def _reopen_turns(self) -> None:
        """A closed turn opens again when those it closed for have gone."""
        closed = [backend for backend in self.backends.values() if not backend.turn_open]
        unserved = self._unserved() if closed else []
        for backend in closed:
            backend.turn_open = not any(e != backend.active and backend.fits(self.first(e)) for e in unserved)

    def _close_turns(self, now: float) -> None:
        """Rule 5, first half: one turn closes for each overdue expert that no backend is coming to serve."""
        busy = [b for b in self.backends.values() if b.state is BackendState.UP and b.running and not b.retiring]
        closed = [b.name for b in busy if not b.turn_open]
        for expert in self._unserved():
            # Added up as in next_event_s: a difference can round to less than the quantum at the very time it names.
            if self._waiting[expert].since() + self.pace.quantum_s > now:
                continue
            able = [b for b in busy if b.active != expert and b.fits(self.first(expert))]
            coming = next((b.name for b in able if b.name in closed), None)
            if coming is not None:
                closed.remove(coming)
            elif open_turns := [b for b in able if b.turn_open]:
                min(open_turns, key=lambda b: b.running).turn_open = False

    def _swap_idle(self, now: float) -> list[Action]:
        """Rule 3, and rule 5, second half."""
        actions: list[Action] = []
        idle = [b for b in self.backends.values() if b.state is BackendState.UP and not b.running and not b.retiring]
        for backend in sorted(idle, key=lambda b: b.idle_since):
            able = [e for e in self._by_wait() if e != backend.active and backend.fits(self.first(e))]
            able = [e for e in able if not self._is_coming(e)]
            if not able:
                continue
            if backend.active is not None:
                self._waiting.setdefault(backend.active, Waiting()).turn_ended_s = now
            backend.state, backend.active, backend.swapping_to = BackendState.SWAPPING, None, able[0]
            backend.swapped_s = now
            actions.append(Swap(backend.name, able[0]))
        return actions

    def _by_wait(self) -> list[str]:
        """Experts with waiters, the one that has waited longest first."""
        names = [expert for expert, waiting in self._waiting.items() if waiting]
        return sorted(names, key=lambda expert: self._waiting[expert].since())

    def _is_coming(self, expert: str) -> bool:
        return any(backend.swapping_to == expert for backend in self.backends.values())

    def _unserved(self) -> list[str]:
        """Experts with waiters that no open turn serves and no swap is bringing, longest wait first."""
        return [
            expert
            for expert in self._by_wait()
            if not self._is_coming(expert)
            and not any(b.grants(expert) and b.fits(self.first(expert)) for b in self.backends.values())
        ]

    def _over_limit(self, request: Request) -> RejectReason | None:
        """Rule 4."""
        if self.queued > self.max_queue:
            return RejectReason.QUEUE_FULL
        mine = sum(r.client == request.client for w in self._waiting.values() for r in w)
        return RejectReason.CLIENT_QUEUE_FULL if mine > self.max_queue_per_client else None

    def _lose_leases(self, name: str) -> None:
        for lease in [lease for lease in self.leases.values() if lease.backend == name]:
            del self.leases[lease.id]
            self.backends[name].slots.give_back(lease.slots, lease.granted_s)


def _fittest(able: list[Backend], request: Request) -> Backend:
    """The backend that holds the conversation's KV on a free slot, else the one with most room."""
    if len(able) == 1:
        return able[0]
    return max(able, key=lambda b: (b.slots.knows(request.expert, request.conversation), b.slots.room))
