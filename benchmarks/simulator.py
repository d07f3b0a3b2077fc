"""Drives a ``Scheduler`` through simulated time and checks, after every event, everything it promises.

Keeps its own books of backends, slots and requests, so that a wrong state inside the scheduler cannot hide itself.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

from gateway.actions import Action, Grant, Lease, Reject, RejectReason, Request, Retired, Swap
from gateway.scheduler import Scheduler

__all__ = ["Arrival", "Simulator", "Truth"]

_EPSILON = 1e-6
_UNFAIR = 2
"""Times the widest request: the slots that one key may have had more than another while both waited (Goyal, 1996)."""


@dataclass(frozen=True)
class Arrival:
    """A request to come: what it asks for, how long it runs, how long it waits at the most."""

    expert: str
    service_s: float
    wait_s: float = 1000.0
    client: str = "client"
    conversation: str = ""
    width: int = 1


@dataclass
class Truth:
    """A backend as the world sees it."""

    slots: int
    experts: frozenset[str]
    at_once: int
    active: str | None = None
    swapping_to: str | None = None
    up: bool = True
    retiring: bool = False
    life: int = 0
    held: dict[int, int] = field(default_factory=dict)  # slot -> lease id

    def fits(self, request: Request) -> bool:
        return request.expert in self.experts and request.width <= self.at_once

    @property
    def in_service(self) -> bool:
        return self.up and not self.retiring and self.swapping_to is None


@dataclass
class Simulator:
    """One run. Feed it with ``arrive``, ``cancel`` and so on, move it with ``run_until``, end it with ``finish``."""

    scheduler: Scheduler
    swap_s: float = 0.0
    now: float = 0.0
    backends: dict[str, Truth] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    granted: dict[int, Lease] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    waits: list[tuple[str, float]] = field(default_factory=list)
    """(expert, seconds from when a request was at the head, and its expert out of its own turn, to its grant)."""
    own_waits: list[tuple[str, float]] = field(default_factory=list)
    """The same, counted from when the request came to the head, whatever its expert was doing."""
    placed_waits: list[tuple[int, float]] = field(default_factory=list)
    """For each granted request: its place among its key's waiters for its expert as it came, 1 first, and seconds to
    its grant."""
    swaps: int = 0
    stopped: bool = False
    carried: set[int] = field(default_factory=set)
    """Requests that a swap was made for as they came: the queue's limits do not count them."""
    _arrivals: dict[int, Arrival] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    _queues: dict[str, list[Request]] = field(default_factory=dict)
    _lead: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """(expert, key, other key): slots that the first had more than the other since both have waited."""
    _head_since: dict[str, float] = field(default_factory=dict)
    _turn_ended: dict[str, float] = field(default_factory=dict)
    _coming: list[tuple[float, int, str, tuple[object, ...]]] = field(default_factory=list)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # -- events from outside --------------------------------------------------------------------------------------

    def arrive(self, what: Arrival) -> Request:
        id_ = next(self._ids)
        conversation = what.conversation or f"conversation {id_}"
        deadline = self.now + what.wait_s
        request = Request(id_, what.expert, conversation, what.client, self.now, deadline, what.width)
        self.requests.append(request)
        self._arrivals[id_] = what
        self._queues.setdefault(what.expert, []).append(request)
        self._places[id_] = sum(other.client == what.client for other in self._queues[what.expert])
        actions = self.scheduler.submit(request, self.now)
        if any(isinstance(action, Swap) and action.expert == request.expert for action in actions):
            self.carried.add(id_)
        self._handle(actions)
        return request

    def cancel(self, request: Request) -> None:
        """As ``LeasePool`` does: a waiting request is cancelled, a granted one gives its lease back."""
        if request.id in self.granted:
            self._end(request.id, "cancelled")
        elif request.id not in self.ended:
            self.ended[request.id] = "cancelled"
            self._leave(request)
            self._handle(self.scheduler.cancel(request, self.now))

    def up(self, name: str, slots: int, experts: frozenset[str], at_once: int | None = None) -> None:
        life = self.backends[name].life + 1 if name in self.backends else 0
        self._lose(name)
        self.backends[name] = Truth(slots, experts, at_once or slots, life=life)
        self._handle(self.scheduler.backend_up(name, slots, experts, self.now, at_once))

    def down(self, name: str) -> None:
        truth = self.backends.get(name)
        if truth is not None:
            self._lose(name)
            truth.up, truth.active, truth.swapping_to, truth.life = False, None, None, truth.life + 1
            self._handle(self.scheduler.backend_down(name, self.now))

    def retire(self, name: str) -> None:
        if name in self.backends:
            self.backends[name].retiring = True
            self._handle(self.scheduler.retire(name, self.now))

    def shutdown(self) -> None:
        self.stopped = True
        self._handle(self.scheduler.shutdown())

    # -- time -----------------------------------------------------------------------------------------------------

    def run_until(self, then: float) -> None:
        """Let time pass; the scheduler is woken only when it asked to be."""
        for _ in range(10_000):
            wake = self.scheduler.next_event_s(self.now)
            assert wake is None or wake > self.now, "a busy loop: woken for now or the past"
            at = min(t for t in (wake, self._coming[0][0] if self._coming else None, then) if t is not None)
            if at > then or (at == then and at not in (wake, self._coming[0][0] if self._coming else None)):
                break
            self.now = max(self.now, at)
            if self._coming and self._coming[0][0] <= self.now:
                _, _, kind, facts = heapq.heappop(self._coming)
                self._happen(kind, facts)
            else:
                self._handle(self.scheduler.tick(self.now))
        else:
            raise AssertionError("time does not pass")
        self.now = max(self.now, then)

    def finish(self) -> None:
        """Let everything end; every request must have, and nothing may be held."""
        for _ in range(10_000):
            wake = self.scheduler.next_event_s(self.now)
            times = [t for t in (wake, self._coming[0][0] if self._coming else None) if t is not None]
            if not times:
                break
            self.run_until(min(times))
        left = [request.id for request in self.requests if request.id not in self.ended]
        assert not left, f"never ended: {left}"
        assert not self.scheduler.leases
        assert not self.scheduler.queued

    def _happen(self, kind: str, facts: tuple[object, ...]) -> None:
        match kind, facts:
            case "served", (int(request_id),):
                if request_id in self.granted:
                    self._end(request_id, "served")
            case "swapped", (str(name), int(life)):
                truth = self.backends.get(name)
                if truth is not None and truth.life == life:
                    truth.active, truth.swapping_to = truth.swapping_to, None
                    self._handle(self.scheduler.swap_done(name, self.now))

    def _later(self, seconds: float, kind: str, *facts: object) -> None:
        heapq.heappush(self._coming, (self.now + seconds, next(self._ids), kind, facts))

    def _end(self, request_id: int, how: str) -> None:
        lease = self.granted.pop(request_id)
        self.ended[request_id] = how
        truth = self.backends[lease.backend]
        truth.held = {slot: held for slot, held in truth.held.items() if held != lease.id}
        self._handle(self.scheduler.release(lease.id, self.now))
        assert self.scheduler.release(lease.id, self.now) == [], "a second release did something"

    def _lose(self, name: str) -> None:
        for request_id, lease in list(self.granted.items()):
            if lease.backend == name:
                del self.granted[request_id]
                self.ended[request_id] = "lost"
        if name in self.backends:
            self.backends[name].held = {}

    # -- actions, each checked ------------------------------------------------------------------------------------

    def _handle(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Grant(lease):
                    self._grant(lease)
                case Swap(name, expert):
                    self._swap(name, expert)
                case Reject(request, reason):
                    self._reject(request, reason)
                case Retired(name):
                    truth = self.backends.pop(name)
                    assert truth.retiring
                    assert not truth.held
                    assert truth.swapping_to is None
        for expert, queue in self._queues.items():
            if queue and self._head_since.get(expert) is None:
                self._head_since[expert] = self.now
            elif not queue:
                self._head_since.pop(expert, None)
        self._forget_leads()
        self.check()

    def _grant(self, lease: Lease) -> None:
        request, truth = lease.request, self.backends[lease.backend]
        assert request.id not in self.ended, "granted after its end"
        assert request.id not in self.granted, "granted twice"
        self._check_order(request)
        assert truth.in_service
        assert truth.active == request.expert, "granted on a backend where another expert is active"
        assert len(lease.slots) == len(set(lease.slots)) == request.width
        assert request.deadline_s > self.now, "granted after its deadline"
        for slot in lease.slots:
            assert 0 <= slot < truth.slots
            assert slot not in truth.held, "a slot holds two leases"
            truth.held[slot] = lease.id
        self._queues[request.expert].remove(request)
        head = self._head_since.pop(request.expert, self.now)
        self.own_waits.append((request.expert, self.now - head))
        since = max(head, self._turn_ended.get(request.expert, 0.0))
        self.waits.append((request.expert, self.now - since))
        if self._queues[request.expert]:
            self._head_since[request.expert] = self.now
        self.granted[request.id] = lease
        assert len(truth.held) <= truth.at_once, "more at once than allowed"
        self.placed_waits.append((self._places[request.id], self.now - request.arrived_s))
        self._serve(lease)

    def _check_order(self, request: Request) -> None:
        """Rule 6: first come, first served within a key, and no key gets much more than another that waits too."""
        queue = self._queues[request.expert]
        mine = next(other for other in queue if other.client == request.client)
        assert mine is request, "not first come, first served within its key"
        widest = max(other.width for other in self.requests)
        for other in {other.client for other in queue} - {request.client}:
            there, back = (request.expert, request.client, other), (request.expert, other, request.client)
            self._lead[there] = self._lead.get(there, 0) + request.width
            self._lead[back] = self._lead.get(back, 0) - request.width
            assert self._lead[there] <= _UNFAIR * widest, f"{request.client} is served before {other} again and again"

    def _forget_leads(self) -> None:
        """Only between keys that both wait is anything fair or unfair."""
        waiting = {(request.expert, request.client) for queue in self._queues.values() for request in queue}
        self._lead = {
            (expert, one, other): lead
            for (expert, one, other), lead in self._lead.items()
            if {(expert, one), (expert, other)} <= waiting
        }

    def _serve(self, lease: Lease) -> None:
        """An answer begins: it ends after its own time, whatever else runs."""
        self._later(self._arrivals[lease.request.id].service_s, "served", lease.request.id)

    def _swap(self, name: str, expert: str) -> None:
        truth = self.backends[name]
        assert truth.in_service
        assert not truth.held, "swapped while a lease runs"
        assert expert != truth.active
        assert expert in truth.experts
        assert self._queues.get(expert), "swapped for nobody"
        if truth.active is not None:
            self._turn_ended[truth.active] = self.now
        truth.active, truth.swapping_to = None, expert
        self.swaps += 1
        self._later(self.swap_s, "swapped", name, truth.life)

    def _reject(self, request: Request, reason: RejectReason) -> None:
        assert request.id not in self.ended, "rejected after its end"
        assert request.id not in self.granted, "rejected after its grant"
        if reason is RejectReason.DEADLINE:
            assert request.deadline_s <= self.now
        self._leave(request)
        self.ended[request.id] = reason.value

    def _leave(self, request: Request) -> None:
        self._queues[request.expert].remove(request)
        if not self._queues[request.expert]:
            self._head_since.pop(request.expert, None)

    def _head(self, queue: list[Request]) -> Request:
        """Who would start next; the order itself is checked as it starts."""
        head = self.scheduler.first(queue[0].expert)
        assert head in queue
        return head

    # -- what must hold between events ----------------------------------------------------------------------------

    def check(self) -> None:
        waiting = [request for queue in self._queues.values() for request in queue]
        assert self.scheduler.queued == len(waiting)
        counted = [request for request in waiting if request.id not in self.carried]
        assert len(counted) <= self.scheduler.max_queue
        for client in {request.client for request in counted}:
            mine = sum(request.client == client for request in counted)
            assert mine <= self.scheduler.max_queue_per_client
        assert set(self.scheduler.leases) == {lease.id for lease in self.granted.values()}
        assert all(request.deadline_s > self.now for request in waiting), "a deadline passed in silence"
        wake = self.scheduler.next_event_s(self.now)
        assert wake is None or wake > self.now, "a busy loop"
        heads = [self._head(queue) for queue in self._queues.values() if queue]
        coming = {truth.swapping_to for truth in self.backends.values()}
        for name, truth in self.backends.items():
            if truth.in_service:
                self._check_backend(name, truth, [h for h in heads if h.expert not in coming and truth.fits(h)])
        self._check_overdue([h for h in heads if h.expert not in coming])

    def _check_backend(self, name: str, truth: Truth, heads: list[Request]) -> None:
        """Nothing waits that could run: no lost wake-up."""
        if not truth.held:
            assert not heads, f"{name} is idle and {[h.expert for h in heads]} wait"
        elif self.scheduler.backends[name].turn_open:
            free = truth.at_once - len(truth.held)
            able = [h.id for h in heads if h.expert == truth.active and h.width <= free]
            assert not able, f"{name} has room and {able} wait"

    def _check_overdue(self, heads: list[Request]) -> None:
        """The expert that has waited longest, if over the quantum, has a turn closed for it (rule 5)."""
        open_, closed = [], []
        for name, truth in self.backends.items():
            if truth.in_service:
                (open_ if self.scheduler.backends[name].turn_open else closed).append(truth)

        def since(head: Request) -> float:
            oldest = min(request.arrived_s for request in self._queues[head.expert])
            return max(oldest, self._turn_ended.get(head.expert, float("-inf")))

        unserved = [h for h in heads if not any(t.active == h.expert and t.fits(h) for t in open_)]
        overdue = [h for h in unserved if self.now - since(h) > self.scheduler.pace.quantum_s + _EPSILON]
        for head in overdue:
            others = [t for t in open_ if t.held and t.fits(head)]
            if others and len(overdue) == 1:
                assert any(t.fits(head) for t in closed), f"{head.expert} is overdue and no turn closes for it"
        for truth in closed:
            wanted = [h for h in unserved if h.expert != truth.active and truth.fits(h)]
            assert wanted or not truth.held or self.stopped, "a turn is closed for nobody"
