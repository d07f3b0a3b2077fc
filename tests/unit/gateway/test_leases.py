"""The lease pool on a real event loop, with a clock moved by hand and backends that swap when told to.

Its timer counts real seconds: where one must fire, the wait is a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from unit.fakes import ManualClock, ScriptedActivator

from gateway.errors import (
    BackendError,
    ExpertNotFound,
    GatewayError,
    InvalidRequest,
    LeaseTimeout,
    QueueFull,
    ShuttingDown,
)
from gateway.leases import HeldLease, LeasePool
from gateway.pace import Pace
from gateway.scheduler import Scheduler

NOTHING_HELD = "<LeasePool queued=0 leases=0 waiters=0 swaps=0>"


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def swapped(self, backend: str, expert: str, seconds: float) -> None:
        self.seen.append(("swapped", backend, expert, seconds))

    def queue_waited(self, expert: str, seconds: float) -> None:
        self.seen.append(("waited", expert, seconds))

    def lease_rejected(self, expert: str, reason: str) -> None:
        self.seen.append(("rejected", expert, reason))


class World:
    """A pool, its clock, and what it reported."""

    def __init__(self, *, queue: int = 100, client: int = 100, quantum: float = 1000.0) -> None:
        self.clock = ManualClock()
        self.observer = Observer()
        self.down: list[str] = []
        self.retired: list[str] = []
        self.pool = LeasePool(
            Scheduler(pace=Pace(quantum, answers=0), max_queue=queue, max_queue_per_client=client),
            observer=self.observer,
            on_down=self.down.append,
            on_retired=self.retired.append,
            clock=self.clock,
        )

    def backend(
        self, name: str = "b0", activator: ScriptedActivator | None = None, slots: int = 1
    ) -> ScriptedActivator:
        activator = activator or ScriptedActivator()
        self.pool.backend_up(name, activator, slots=slots, experts={"base", "a", "b"})
        return activator

    async def acquire(
        self, expert: str = "a", *, client: str = "me", wait_s: float = 500.0, width: int = 1
    ) -> HeldLease:
        return await self.pool.acquire(expert, conversation="c", client=client, wait_s=wait_s, width=width)

    def ask(self, expert: str = "a", **more: Any) -> asyncio.Task[HeldLease]:
        return asyncio.ensure_future(self.acquire(expert, **more))


@pytest.fixture
async def unhandled() -> Any:
    """Errors that nobody saw: an exception left in a task or a callback."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    yield seen
    assert seen == []


pytestmark = pytest.mark.usefixtures("unhandled")


async def settle(rounds: int = 20) -> None:
    """Let every task that can run do so."""
    for _ in range(rounds):
        await asyncio.sleep(0)


async def test_a_lease_is_granted_after_the_swap_and_given_back_once() -> None:
    world = World()
    activator = world.backend()
    async with await world.acquire() as lease:
        assert (lease.backend, lease.expert, lease.slot) == ("b0", "a", 0)
        assert activator.asked == ["a"]
        assert repr(world.pool) == "<LeasePool queued=0 leases=1 waiters=0 swaps=0>"
    lease.release()
    assert repr(world.pool) == NOTHING_HELD


async def test_a_lease_that_is_free_is_granted_at_once_whoever_waits_for_another_expert() -> None:
    world = World()
    world.backend(slots=2)
    first = await world.acquire("a")
    at_once = world.acquire("a")
    with pytest.raises(StopIteration) as granted:  # it never gave the event loop a turn
        at_once.send(None)
    second = granted.value.value
    assert second.slot == 1
    assert world.observer.seen[-1] == ("waited", "a", 0.0)
    second.release()
    other = world.ask("b")
    await settle()
    third = await world.acquire("a")  # the turn is still open
    first.release()
    third.release()
    (await other).release()
    assert repr(world.pool) == NOTHING_HELD


async def test_a_wide_lease_pins_no_slot() -> None:
    world = World()
    world.backend(slots=2)
    async with await world.acquire(width=2) as lease:
        assert lease.slot is None


async def test_a_lease_is_given_back_when_its_user_fails() -> None:
    world = World()
    world.backend()
    with pytest.raises(ZeroDivisionError):
        async with await world.acquire():
            raise ZeroDivisionError
    assert repr(world.pool) == NOTHING_HELD


async def test_waiters_get_the_slot_in_order_and_their_wait_is_told() -> None:
    world = World()
    world.backend()
    first = await world.acquire()
    second, third = world.ask(), world.ask()
    await settle()
    world.clock.advance(3.0)
    first.release()
    lease = await second
    assert lease.queue_s == 3.0
    assert not third.done()
    world.clock.advance(1.0)
    lease.release()
    (await third).release()
    assert world.observer.seen == [
        ("swapped", "b0", "a", 0.0),
        ("waited", "a", 0.0),
        ("waited", "a", 3.0),
        ("waited", "a", 4.0),
    ]


# -- cancelling ---------------------------------------------------------------------------------------------------


async def test_cancelled_while_queued_gives_up_its_place() -> None:
    world = World()
    world.backend()
    first = await world.acquire()
    gone, next_ = world.ask(), world.ask()
    await settle()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    first.release()
    (await next_).release()
    assert repr(world.pool) == NOTHING_HELD


async def test_cancelled_while_swapping_holds_nothing_and_the_swap_goes_on() -> None:
    world = World()
    activator = world.backend(activator=ScriptedActivator(held=True))
    gone = world.ask()
    await settle()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert repr(world.pool) == "<LeasePool queued=0 leases=0 waiters=0 swaps=1>"
    activator.finish()
    await settle()
    assert activator.active == "a"
    assert repr(world.pool) == NOTHING_HELD


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancelled_exactly_when_granted_gives_the_lease_to_the_next(cancel_first: bool) -> None:
    world = World()
    world.backend()
    first = await world.acquire()
    gone, next_ = world.ask(), world.ask()
    await settle()
    for act in (gone.cancel, first.release) if cancel_first else (first.release, gone.cancel):
        act()
    with pytest.raises(asyncio.CancelledError):
        await gone
    (await next_).release()
    assert repr(world.pool) == NOTHING_HELD


# -- backends that fail -------------------------------------------------------------------------------------------


async def test_a_failed_swap_takes_the_backend_down_and_the_waiter_waits_for_the_next() -> None:
    world = World()
    world.backend(activator=ScriptedActivator(failures=[BackendError("it says no")]))
    waiting = world.ask()
    await settle()
    assert world.down == ["b0"]
    assert not waiting.done()
    assert repr(world.pool) == "<LeasePool queued=1 leases=0 waiters=1 swaps=0>"
    world.backend()
    (await waiting).release()
    assert repr(world.pool) == NOTHING_HELD


async def test_a_swap_that_fails_in_an_unforeseen_way_takes_the_backend_down_too() -> None:
    world = World()
    world.backend(activator=ScriptedActivator(failures=[KeyError("a")]))
    waiting = world.ask()
    await settle()
    assert world.down == ["b0"]
    world.backend("b1")
    (await waiting).release()


async def test_a_backend_going_down_ends_its_swap() -> None:
    world = World()
    activator = world.backend(activator=ScriptedActivator(held=True))
    waiting = world.ask()
    await settle()
    world.pool.backend_down("b0")
    await settle()
    assert activator.cancelled == 1
    activator.finish()
    world.backend("b1")
    lease = await waiting
    assert lease.backend == "b1"
    lease.release()
    assert repr(world.pool) == NOTHING_HELD


async def test_a_lease_lost_with_its_backend_is_released_without_effect() -> None:
    world = World()
    world.backend()
    lost = await world.acquire()
    waiting = world.ask()
    await settle()
    world.pool.backend_down("b0")
    world.backend()
    held = await waiting
    lost.release()
    assert repr(world.pool) == "<LeasePool queued=0 leases=1 waiters=0 swaps=0>"
    held.release()


async def test_a_retired_backend_is_reported_when_it_has_drained() -> None:
    world = World()
    world.backend()
    lease = await world.acquire()
    world.pool.retire("b0")
    assert world.retired == []
    lease.release()
    assert world.retired == ["b0"]


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "code"), [({"queue": 1}, "queue_full"), ({"client": 1}, "client_queue_full")], ids=["all", "client"]
)
async def test_a_full_queue_is_429_with_retry_after(limits: dict[str, int], code: str) -> None:
    world = World(**limits)
    world.backend()
    first = await world.acquire()
    waiting = world.ask()
    await settle()
    with pytest.raises(QueueFull) as caught:
        await world.acquire()
    assert (caught.value.status, caught.value.code) == (429, code)
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1
    assert ("rejected", "a", code) in world.observer.seen
    first.release()
    (await waiting).release()
    assert repr(world.pool) == NOTHING_HELD


async def test_a_waiter_for_an_expert_taken_out_of_service_gets_404_at_once() -> None:
    world = World()
    world.backend()
    async with await world.acquire("a"):
        waiter = asyncio.ensure_future(world.acquire("a"))
        await asyncio.sleep(0)
        world.pool.withdraw("a")
        with pytest.raises(ExpertNotFound, match="'a' is no longer served"):
            await waiter
    assert repr(world.pool) == NOTHING_HELD


async def test_a_deadline_is_503_with_retry_after() -> None:
    world = World()
    world.backend()
    lease = await world.acquire()
    waiting = world.ask(wait_s=0.005)
    await settle()
    world.clock.advance(0.005)
    with pytest.raises(LeaseTimeout, match="'a'") as caught:
        await waiting
    assert (caught.value.status, caught.value.code) == (503, "queue_timeout")
    assert caught.value.retry_after_s is not None
    lease.release()
    assert repr(world.pool) == NOTHING_HELD


async def test_the_timer_closes_a_turn_without_any_other_event() -> None:
    world = World(quantum=0.005)
    world.backend(slots=2)
    lease = await world.acquire("a")
    other = world.ask("b")
    await settle()
    world.clock.advance(0.005)
    await _until(lambda: not world.pool.scheduler.backends["b0"].turn_open)
    late = world.ask("a")
    await settle()
    assert not late.done()
    lease.release()
    (await other).release()
    (await late).release()
    assert repr(world.pool) == NOTHING_HELD


async def test_more_answers_than_slots_is_the_clients_mistake() -> None:
    world = World()
    world.backend(slots=2)
    with pytest.raises(InvalidRequest, match="3 answers at once; at most 2") as caught:
        await world.acquire(width=3)
    assert caught.value.param == "n"
    assert repr(world.pool) == NOTHING_HELD


# -- the end ------------------------------------------------------------------------------------------------------


async def test_draining_refuses_waiters_and_waits_for_leases() -> None:
    world = World()
    world.backend()
    lease = await world.acquire()
    waiting = world.ask()
    await settle()
    draining = asyncio.ensure_future(world.pool.drain(10.0))
    with pytest.raises(ShuttingDown):
        await waiting
    with pytest.raises(ShuttingDown):
        await world.acquire()
    assert not draining.done()
    lease.release()
    assert await draining is True
    assert repr(world.pool) == NOTHING_HELD


async def test_draining_gives_up_at_its_limit() -> None:
    world = World()
    world.backend()
    lease = await world.acquire()
    assert await world.pool.drain(0.0) is False
    lease.release()


async def test_closing_rejects_waiters_and_ends_swaps_and_timers() -> None:
    world = World()
    activator = world.backend(activator=ScriptedActivator(held=True))
    waiting: asyncio.Task[HeldLease] = world.ask()
    await settle()
    await world.pool.aclose()
    with pytest.raises(ShuttingDown) as caught:
        await waiting
    assert isinstance(caught.value, GatewayError)
    assert activator.cancelled == 1
    assert repr(world.pool) == NOTHING_HELD


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("round_", range(40))
async def test_cancelling_at_any_moment_leaves_nothing_held(round_: int) -> None:
    """Ten clients; one leaves after ``round_`` steps of the event loop, wherever it then stands."""
    world = World()
    world.backend("b0")
    world.backend("b1")

    async def client(expert: str) -> None:
        async with await world.acquire(expert):
            await settle(2)

    tasks = [asyncio.ensure_future(client("ab"[number % 2])) for number in range(10)]
    await settle(round_)
    tasks[round_ % 10].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settle()
    assert repr(world.pool) == NOTHING_HELD
