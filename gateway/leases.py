"""Carries out the scheduler's decisions: leases for requests, swaps on backends, a timer for deadlines.

Owns the one task-side of scheduling: every event enters here, on the event loop's thread, and every action is
performed here. Decides nothing (``scheduler``), speaks no HTTP (``backend``).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from .actions import Action, Grant, Lease, Reject, RejectReason, Request, Retired, Swap
from .errors import (
    BackendError,
    ExpertNotFound,
    GatewayError,
    InvalidRequest,
    LeaseTimeout,
    QueueFull,
    ShuttingDown,
)
from .scheduler import Scheduler

__all__ = ["Activator", "HeldLease", "LeaseObserver", "LeasePool"]

log = logging.getLogger("pointsman.leases")


class Activator(Protocol):
    """What the pool needs of a backend."""

    async def activate(self, expert: str) -> None:
        """Make ``expert`` the active one and prove it.

        Raises:
            BackendError: it could not be made active; the pool then takes the backend out of service.
        """


class LeaseObserver(Protocol):
    """Told what happens, for metrics."""

    def swapped(self, backend: str, expert: str, seconds: float) -> None: ...
    def queue_waited(self, expert: str, seconds: float) -> None: ...
    def lease_rejected(self, expert: str, reason: str) -> None: ...


class HeldLease:
    """A granted lease. Release it exactly once: ``release`` is idempotent, and ``async with`` does it."""

    def __init__(self, pool: LeasePool, lease: Lease) -> None:
        self._pool = pool
        self._lease = lease
        self.queue_s = lease.granted_s - lease.request.arrived_s

    @property
    def backend(self) -> str:
        return self._lease.backend

    @property
    def expert(self) -> str:
        return self._lease.request.expert

    @property
    def slot(self) -> int | None:
        """The slot to pin the request to; None when it takes several."""
        return self._lease.slots[0] if len(self._lease.slots) == 1 else None

    def release(self) -> None:
        self._pool.release(self._lease.id)

    async def __aenter__(self) -> HeldLease:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()


class LeasePool:
    """The async shell around ``Scheduler``. Use it from one event loop only.

    Args:
        scheduler: owned by the pool from now on.
        on_down: called with a backend's name when a swap on it failed and it was taken out of service.
        on_retired: called with a backend's name when it has drained after ``retire``.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        observer: LeaseObserver | None = None,
        on_down: Callable[[str], None] = lambda name: None,
        on_retired: Callable[[str], None] = lambda name: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self._observer = observer
        self._on_down = on_down
        self._on_retired = on_retired
        self._clock = clock
        self._ids = itertools.count(1)
        self._waiters: dict[int, asyncio.Future[Lease]] = {}
        self._activators: dict[str, Activator] = {}
        self._swaps: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return (
            f"<LeasePool queued={self.scheduler.queued} leases={len(self.scheduler.leases)} "
            f"waiters={len(self._waiters)} swaps={len(self._swaps)}>"
        )

    async def acquire(self, expert: str, *, conversation: str, client: str, wait_s: float, width: int = 1) -> HeldLease:
        """Wait for a lease, ``wait_s`` seconds at the most. Cancelling gives up the place or the lease.

        Raises:
            QueueFull: no place in the queue, for anyone or for this client.
            LeaseTimeout: not granted in time.
            ShuttingDown: the gateway stops.
            InvalidRequest: it asks for more slots than any backend has.
        """
        now = self._clock()
        request = Request(next(self._ids), expert, conversation, client, now, now + wait_s, width)
        actions = self.scheduler.submit(request, now)
        match actions:
            case [Grant(lease)] if lease.request is request and not self._waiters:
                pass  # at once, and nobody waits: neither a future nor a timer is needed
            case _:
                lease = await self._wait(request, actions)
        held = HeldLease(self, lease)
        if self._observer is not None:
            self._observer.queue_waited(expert, held.queue_s)
        return held

    async def _wait(self, request: Request, actions: list[Action]) -> Lease:
        """Perform what was decided on ``request``, and wait for its lease."""
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiters[request.id] = future
        try:
            self._perform(actions)
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result().id)
            else:
                self._perform(self.scheduler.cancel(request, self._clock()))
            raise
        finally:
            self._waiters.pop(request.id, None)

    def release(self, lease_id: int) -> None:
        self._perform(self.scheduler.release(lease_id, self._clock()))

    # -- backends -------------------------------------------------------------------------------------------------

    def backend_up(
        self, name: str, activator: Activator, *, slots: int, experts: Iterable[str], at_once: int | None = None
    ) -> None:
        """A backend serves from now on; ``at_once``: how many of its slots may be busy, None for all."""
        self._activators[name] = activator
        self._perform(self.scheduler.backend_up(name, slots, experts, self._clock(), at_once))

    def running(self, name: str) -> int:
        """How many slots of a backend are leased."""
        backend = self.scheduler.backends.get(name)
        return backend.running if backend is not None else 0

    def backend_down(self, name: str) -> None:
        """Take a failed backend out of service; its leases are lost, the queue waits for the next one."""
        swap = self._swaps.pop(name, None)
        if swap is not None and swap is not asyncio.current_task():
            swap.cancel()
        self._perform(self.scheduler.backend_down(name, self._clock()))

    def set_experts(self, name: str, experts: Iterable[str]) -> None:
        """A backend now serves other experts; what runs on it goes on."""
        self._perform(self.scheduler.set_experts(name, experts, self._clock()))

    def withdraw(self, expert: str) -> None:
        """An expert is no longer served: who waits for it hears so at once."""
        self._perform(self.scheduler.withdraw(expert, self._clock()))

    def retire(self, name: str) -> None:
        self._perform(self.scheduler.retire(name, self._clock()))

    # -- shutdown -------------------------------------------------------------------------------------------------

    async def drain(self, limit_s: float) -> bool:
        """Refuse new and queued requests, wait for the leases; True when all have ended within the limit (rule 9)."""
        self._perform(self.scheduler.shutdown())
        until = self._clock() + limit_s
        while self.scheduler.leases and self._clock() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return not self.scheduler.leases

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._perform(self.scheduler.shutdown())
        swaps = list(self._swaps.values())
        for task in swaps:
            task.cancel()
        await asyncio.gather(*swaps, return_exceptions=True)

    # -- actions --------------------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Grant(lease):
                    self._deliver(lease)
                case Reject(request, reason):
                    self._reject(request, reason)
                case Swap(backend, expert):
                    task = asyncio.get_running_loop().create_task(self._swap(backend, expert))
                    self._swaps[backend] = task
                case Retired(backend):
                    self._activators.pop(backend, None)
                    self._on_retired(backend)
        self._set_timer()

    def _deliver(self, lease: Lease) -> None:
        future = self._waiters.get(lease.request.id)
        if future is not None and not future.done():
            future.set_result(lease)
        else:  # gone between the decision and now
            self.release(lease.id)

    def _reject(self, request: Request, reason: RejectReason) -> None:
        if self._observer is not None:
            self._observer.lease_rejected(request.expert, reason.value)
        future = self._waiters.get(request.id)
        if future is not None and not future.done():
            future.set_exception(self._rejection(request, reason))

    def _rejection(self, request: Request, reason: RejectReason) -> GatewayError:
        retry_after_s = max(1.0, self.scheduler.pace.quantum_s)
        match reason:
            case RejectReason.QUEUE_FULL:
                allowed = self.scheduler.max_queue
                return QueueFull(f"The queue is full: {allowed} requests are waiting.", retry_after_s=retry_after_s)
            case RejectReason.CLIENT_QUEUE_FULL:
                allowed = self.scheduler.max_queue_per_client
                message = f"Too many waiting requests for this key: {allowed} are allowed."
                return QueueFull(message, code="client_queue_full", retry_after_s=retry_after_s)
            case RejectReason.DEADLINE:
                waited = self._clock() - request.arrived_s
                message = f"No slot for expert {request.expert!r} became free within {waited:.0f} s."
                return LeaseTimeout(message, retry_after_s=retry_after_s)
            case RejectReason.TOO_WIDE:
                widest = max((b.slots.at_once for b in self.scheduler.backends.values()), default=0)
                message = f"This request asks for {request.width} answers at once; at most {widest} are allowed."
                return InvalidRequest(message, param="n")
            case RejectReason.WITHDRAWN:
                return ExpertNotFound(f"The model {request.expert!r} is no longer served.", param="model")
            case RejectReason.SHUTDOWN:
                return ShuttingDown("The gateway is shutting down.", retry_after_s=retry_after_s)

    async def _swap(self, name: str, expert: str) -> None:
        started = self._clock()
        try:
            await self._activators[name].activate(expert)
        except Exception as error:  # whatever it was, nobody knows now what is active there
            known = isinstance(error, BackendError)
            facts = {"backend": name, "expert": expert, "error": str(error)}
            log.error("swap failed", exc_info=not known, extra=facts)
            self.backend_down(name)
            self._on_down(name)
            return
        finally:
            if self._swaps.get(name) is asyncio.current_task():
                del self._swaps[name]
        if self._observer is not None:
            self._observer.swapped(name, expert, self._clock() - started)
        self._perform(self.scheduler.swap_done(name, self._clock()))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        at = self.scheduler.next_event_s(now)
        if at is not None:
            delay_s = at - now + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._perform(self.scheduler.tick(self._clock()))
