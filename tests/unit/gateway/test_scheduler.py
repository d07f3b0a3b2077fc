"""The scheduler's rules one by one, then a simulator that tries to break them all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulator import Arrival, Simulator
from unit.fakes import request

from gateway.actions import Action, Grant, Lease, Reject, RejectReason, Request, Retired, Swap
from gateway.pace import Pace
from gateway.scheduler import Scheduler

EXPERTS = frozenset("abcd")


def empty(quantum: float, queue: int = 1000, client: int = 1000, answers: float = 0) -> Scheduler:
    """No backend yet; the quantum is fixed unless ``answers`` says otherwise."""
    return Scheduler(pace=Pace(quantum, answers), max_queue=queue, max_queue_per_client=client)


def scheduler(*, slots: Sequence[int] = (2,), quantum: float = 5.0, queue: int = 100, client: int = 100) -> Scheduler:
    """A scheduler with a backend ``b0``, ``b1``… for each number of slots; nothing active yet."""
    made = empty(quantum, queue, client)
    for number, count in enumerate(slots):
        made.backend_up(f"b{number}", count, EXPERTS, 0.0)
    return made


def active(expert: str = "a", *, slots: int = 2, **limits: Any) -> tuple[Scheduler, Lease]:
    """A scheduler with ``expert`` active on ``b0`` and one lease running there."""
    made = scheduler(slots=(slots,), **limits)
    assert made.submit(request(0, expert), 0.0) == [Swap("b0", expert)]
    return made, leases(made.swap_done("b0", 0.0))[0]


def leases(actions: list[Action]) -> list[Lease]:
    return [action.lease for action in actions if isinstance(action, Grant)]


def granted(actions: list[Action]) -> list[int]:
    return [lease.request.id for lease in leases(actions)]


# -- rule 2: grant ------------------------------------------------------------------------------------------------


def test_rule_2_a_free_slot_under_the_active_expert_is_granted_at_once() -> None:
    made, _ = active()
    actions = made.submit(request(1), 1.0)
    assert granted(actions) == [1]
    assert leases(actions)[0].granted_s == 1.0


def test_rule_2_a_conversation_gets_its_slot_back() -> None:
    made, first = active(slots=3)
    (second,) = leases(made.submit(request(1, conversation="mine"), 0.0))
    (third,) = leases(made.submit(request(2), 0.0))
    for lease in (second, first, third):
        made.release(lease.id, 1.0)
    (again,) = leases(made.submit(request(3, conversation="mine"), 2.0))
    assert again.slots == second.slots


def test_rule_2_a_new_conversation_gets_the_least_recently_used_slot() -> None:
    made, first = active(slots=3)
    (second,) = leases(made.submit(request(1), 0.0))
    (third,) = leases(made.submit(request(2), 0.0))
    for at, lease in enumerate((third, first, second), 1):
        made.release(lease.id, float(at))
    assert leases(made.submit(request(3), 4.0))[0].slots == third.slots


def test_rule_2_a_conversation_goes_to_the_backend_that_knows_it() -> None:
    made = scheduler(slots=(1, 1))
    made.submit(request(1, conversation="x"), 0.0)
    (on_first,) = leases(made.swap_done("b0", 0.0))
    made.submit(request(2, conversation="y"), 0.0)
    (on_second,) = leases(made.swap_done("b1", 0.0))
    made.release(on_first.id, 1.0)
    made.release(on_second.id, 1.0)
    (again,) = leases(made.submit(request(3, conversation="y"), 2.0))
    assert (on_first.backend, on_second.backend, again.backend) == ("b0", "b1", "b1")


def test_rule_2_a_wide_request_takes_as_many_slots_and_waits_for_them() -> None:
    made, first = active(slots=3)
    assert made.submit(request(1, width=3), 0.0) == []
    assert made.submit(request(2), 0.0) == []
    (wide,) = leases(made.release(first.id, 1.0))
    assert (wide.request.id, sorted(wide.slots)) == (1, [0, 1, 2])


def test_a_request_wider_than_every_backend_is_refused() -> None:
    made = scheduler(slots=(2, 3))
    assert made.submit(request(1, width=4), 0.0) == [Reject(request(1, width=4), RejectReason.TOO_WIDE)]


# -- rule 3: swap -------------------------------------------------------------------------------------------------


def test_rule_3_an_idle_backend_swaps_then_grants() -> None:
    made = scheduler()
    assert made.submit(request(1), 0.0) == [Swap("b0", "a")]
    assert made.submit(request(2), 0.0) == []
    assert granted(made.swap_done("b0", 0.1)) == [1, 2]


def test_rule_3_one_swap_is_enough_for_an_expert_that_is_coming() -> None:
    made = scheduler(slots=(1, 1))
    assert made.submit(request(1), 0.0) == [Swap("b0", "a")]
    assert made.submit(request(2), 0.0) == []


def test_rule_3_the_backend_idle_for_longest_is_swapped() -> None:
    made = scheduler(slots=(1, 1))
    made.submit(request(1, "a"), 0.0)
    (first,) = leases(made.swap_done("b0", 0.0))
    made.submit(request(2, "b"), 0.0)
    (second,) = leases(made.swap_done("b1", 0.0))
    made.release(second.id, 1.0)
    made.release(first.id, 2.0)
    assert made.submit(request(3, "c"), 3.0) == [Swap("b1", "c")]


def test_rule_3_an_expert_that_a_backend_lacks_is_not_swapped_in() -> None:
    made = empty(5.0)
    made.backend_up("b0", 1, {"a"}, 0.0)
    assert made.submit(request(1, "b"), 0.0) == []
    assert made.backend_up("b1", 1, {"b"}, 1.0) == [Swap("b1", "b")]


# -- rule 4: queue ------------------------------------------------------------------------------------------------


def test_rule_4_the_queue_is_bounded_as_a_whole() -> None:
    made, lease = active(slots=1, queue=2)
    assert made.submit(request(1, client="one"), 0.0) == []
    assert made.submit(request(2, client="other"), 0.0) == []
    assert made.submit(request(3, client="third"), 0.0) == [Reject(request(3, client="third"), RejectReason.QUEUE_FULL)]
    assert made.queued_by_expert() == {"a": 2}
    assert granted(made.release(lease.id, 1.0)) == [1]


def test_rule_4_the_queue_is_bounded_for_each_client() -> None:
    made, _ = active(slots=1, client=1)
    assert made.submit(request(1), 0.0) == []
    assert made.submit(request(2, "b"), 0.0) == [Reject(request(2, "b"), RejectReason.CLIENT_QUEUE_FULL)]
    assert made.submit(request(3, client="other"), 0.0) == []


def test_rule_4_a_full_queue_does_not_refuse_what_can_run_at_once() -> None:
    made, _ = active(slots=2, queue=1, quantum=100.0)
    assert made.submit(request(1, "b"), 0.0) == []
    assert granted(made.submit(request(2, "a"), 0.0)) == [2]


# -- rule 5: turns ------------------------------------------------------------------------------------------------


def test_rule_5_a_turn_stays_open_until_another_expert_has_waited_a_quantum() -> None:
    made, _ = active(slots=3, quantum=5.0)
    assert made.submit(request(1, "b", at=1.0), 1.0) == []
    assert granted(made.submit(request(2), 5.9)) == [2]
    assert made.next_event_s(5.9) == 6.0
    assert made.tick(6.0) == []
    assert made.submit(request(3), 6.0) == []


def test_rule_5_a_closed_turn_drains_and_swaps() -> None:
    made, first = active(quantum=5.0)
    (second,) = leases(made.submit(request(1), 0.0))
    made.submit(request(2, "b"), 0.0)
    made.tick(5.0)
    assert made.submit(request(3, "a", at=5.0), 5.0) == []
    assert made.release(first.id, 6.0) == []
    assert made.release(second.id, 7.0) == [Swap("b0", "b")]
    assert granted(made.swap_done("b0", 7.1)) == [2]


def test_rule_5_the_expert_that_has_waited_longest_is_next() -> None:
    made, lease = active(slots=1)
    made.submit(request(1, "c", at=1.0), 1.0)
    made.submit(request(2, "b", at=2.0), 2.0)
    made.submit(request(3, "b", at=2.0), 2.0)
    assert made.release(lease.id, 3.0) == [Swap("b0", "c")]


def test_rule_5_a_backlog_does_not_outrank_a_newcomer_after_its_own_turn() -> None:
    made, first = active(slots=1, quantum=5.0)
    made.submit(request(1, "a", at=0.0), 0.0)
    made.submit(request(2, "b", at=4.0), 4.0)
    made.tick(9.0)
    assert made.release(first.id, 9.5) == [Swap("b0", "b")]
    (second,) = leases(made.swap_done("b0", 9.5))
    made.submit(request(3, "c", at=9.6), 9.6)
    made.submit(request(4, "b", at=9.6), 9.6)
    # "a" waits since 9.5, the end of its turn, not since 0.0.
    made.tick(14.5)
    assert made.release(second.id, 15.0) == [Swap("b0", "a")]
    (third,) = leases(made.swap_done("b0", 15.0))
    assert made.release(third.id, 15.1) == [Swap("b0", "c")]


def test_rule_5_an_idle_backend_swaps_before_the_quantum_is_over() -> None:
    made, lease = active(slots=1, quantum=5.0)
    made.submit(request(1, "b"), 0.0)
    assert made.release(lease.id, 0.1) == [Swap("b0", "b")]


def test_rule_5_a_turn_opens_again_when_those_it_closed_for_have_gone() -> None:
    made, _ = active(quantum=5.0)
    overdue = request(1, "b")
    made.submit(overdue, 0.0)
    made.tick(5.0)
    assert made.submit(request(2, "a", at=5.0), 5.0) == []
    assert granted(made.cancel(overdue, 5.5)) == [2]


def test_rule_5_one_overdue_expert_closes_one_turn() -> None:
    made = scheduler(slots=(2, 2), quantum=5.0)
    made.submit(request(1, "a"), 0.0)
    made.swap_done("b0", 0.0)
    made.submit(request(2, "b"), 0.0)
    made.swap_done("b1", 0.0)
    made.submit(request(3, "c"), 0.0)
    for now in (5.0, 6.0, 7.0):
        made.tick(now)
        assert [backend.turn_open for backend in made.backends.values()].count(False) == 1


def test_rule_5_two_overdue_experts_close_two_turns() -> None:
    made = scheduler(slots=(2, 2), quantum=5.0)
    for number, expert in enumerate("ab"):
        made.submit(request(number, expert), 0.0)
        made.swap_done(f"b{number}", 0.0)
    for number, expert in enumerate("cd", 2):
        made.submit(request(number, expert, at=float(number)), float(number))
    made.tick(7.0)
    made.tick(8.0)
    assert [backend.turn_open for backend in made.backends.values()] == [False, False]


def test_rule_5_a_turn_opens_again_as_soon_as_another_backend_comes_for_the_overdue_expert() -> None:
    made, _ = active(quantum=5.0)
    made.submit(request(1, "b"), 0.0)
    made.tick(5.0)
    assert made.submit(request(2, "a", at=5.0), 5.0) == []
    swap, grant = made.backend_up("b1", 1, EXPERTS, 6.0)
    assert swap == Swap("b1", "b")
    assert granted([grant]) == [2]


def test_rule_5_a_turn_that_starts_when_another_expert_is_overdue_grants_once() -> None:
    made, first = active(slots=2, quantum=1.0)
    made.submit(request(1, "b", at=0.0), 0.0)
    made.submit(request(2, "c", at=0.1), 0.1)
    made.tick(1.0)
    assert made.release(first.id, 2.0) == [Swap("b0", "b")]
    assert granted(made.swap_done("b0", 2.0)) == [1]
    assert not made.backends["b0"].turn_open


def test_rule_5_the_turn_with_the_fewest_running_closes() -> None:
    made = scheduler(slots=(2, 2), quantum=5.0)
    made.submit(request(1, "a"), 0.0)
    made.submit(request(2, "a"), 0.0)
    made.swap_done("b0", 0.0)
    made.submit(request(3, "b"), 0.0)
    made.swap_done("b1", 0.0)
    made.submit(request(4, "c"), 0.0)
    made.tick(5.0)
    assert {name: backend.turn_open for name, backend in made.backends.items()} == {"b0": True, "b1": False}


def test_rule_5_an_expert_nobody_can_serve_closes_no_turn() -> None:
    made, _ = active(quantum=5.0)
    made.submit(request(1, "unknown"), 0.0)
    made.tick(5.0)
    assert granted(made.submit(request(2, "a"), 5.0)) == [2]


def test_rule_5_a_retiring_backend_does_not_count_as_the_one_that_will_serve() -> None:
    """While an old backend drains after a reload, its closed turn must not keep the new one's open for ever."""
    made, _ = active(slots=1, quantum=5.0)
    made.backend_up("b1", 1, EXPERTS, 0.0)
    made.submit(request(1, "b"), 0.0)
    (running,) = leases(made.swap_done("b1", 0.0))
    made.submit(request(2, "c"), 0.0)
    made.tick(5.0)
    closed = next(name for name, backend in made.backends.items() if not backend.turn_open)
    assert closed == "b0"
    made.retire("b0", 5.0)
    made.submit(request(3, "b", at=5.0), 5.0)
    assert made.release(running.id, 6.0) == [Swap("b1", "c")]


# -- rule 6: order ------------------------------------------------------------------------------------------------


def test_rule_6_first_come_first_served_within_an_expert() -> None:
    made, first = active(slots=1)
    for number in (1, 2, 3):
        made.submit(request(number, at=number), float(number))
    order, lease = [], first
    for _ in range(3):
        (lease,) = leases(made.release(lease.id, 4.0))
        order.append(lease.request.id)
    assert order == [1, 2, 3]


def _started(made: Scheduler, lease: Lease, count: int) -> list[int]:
    order = []
    for _ in range(count):
        (lease,) = leases(made.release(lease.id, 100.0))
        order.append(lease.request.id)
    return order


def test_rule_6_a_key_that_floods_waits_behind_itself() -> None:
    made, first = active(slots=1)
    for number in (1, 2, 3, 4):
        made.submit(request(number, client="flood"), 0.0)
    made.submit(request(5, client="other"), 1.0)
    made.submit(request(6, client="other"), 1.0)
    assert _started(made, first, 6) == [1, 5, 2, 6, 3, 4]


def test_rule_6_a_key_that_asks_again_at_once_does_not_overtake_who_waits() -> None:
    made, lease = active(slots=1)
    for number in (1, 2, 3):
        made.submit(request(number, client="patient"), 0.0)
    order = []
    for number in range(4, 9):
        made.submit(request(number, client="eager"), 1.0)
        (lease,) = leases(made.release(lease.id, 2.0))
        order.append(lease.request.client)
    assert order == ["patient", "eager", "patient", "eager", "patient"]


def test_rule_6_a_wide_request_counts_for_its_slots() -> None:
    made = scheduler(slots=(3,))
    made.submit(request(0, "a", width=3), 0.0)
    (lease,) = leases(made.swap_done("b0", 0.0))
    made.submit(request(1, client="wide", width=3), 0.0)
    for number in (2, 3, 4, 5):
        made.submit(request(number, client="wide" if number == 2 else "narrow"), 0.0)
    (lease,) = leases(made.release(lease.id, 1.0))
    assert lease.request.id == 1
    assert granted(made.release(lease.id, 2.0)) == [3, 4, 5]


def test_rule_6_who_leaves_the_queue_costs_his_key_nothing() -> None:
    made, first = active(slots=1)
    gone = [request(number, client="one") for number in (1, 2, 3)]
    for each in gone:
        made.submit(each, 0.0)
    made.submit(request(4, client="one"), 0.0)
    made.submit(request(5, client="two"), 0.0)
    for each in gone:
        made.cancel(each, 0.0)
    assert _started(made, first, 2) == [4, 5]


# -- rule 7: deadlines and cancels --------------------------------------------------------------------------------


def test_rule_7_a_deadline_passed_in_the_queue_rejects() -> None:
    made, _ = active(slots=1)
    late = request(1, deadline=3.0)
    made.submit(late, 0.0)
    assert made.next_event_s(0.0) == 3.0
    assert made.tick(2.999) == []
    assert made.tick(3.0) == [Reject(late, RejectReason.DEADLINE)]
    assert made.queued == 0
    assert made.next_event_s(3.0) is None


def test_rule_7_a_deadline_does_not_end_a_lease() -> None:
    made = scheduler()
    made.submit(request(1, deadline=3.0), 0.0)
    made.swap_done("b0", 0.0)
    assert made.tick(4.0) == []
    assert len(made.leases) == 1


def test_rule_7_a_cancelled_waiter_gives_up_its_place() -> None:
    made, lease = active(slots=1)
    gone = request(1)
    made.submit(gone, 0.0)
    made.submit(request(2), 0.0)
    assert made.cancel(gone, 1.0) == []
    assert granted(made.release(lease.id, 2.0)) == [2]
    assert made.cancel(gone, 3.0) == []


def test_rule_7_a_swap_for_a_client_that_left_grants_nothing_and_the_backend_goes_on() -> None:
    made = scheduler()
    gone = request(1, "a")
    made.submit(gone, 0.0)
    made.cancel(gone, 0.0)
    assert made.submit(request(2, "b"), 0.0) == []
    assert made.swap_done("b0", 0.1) == [Swap("b0", "b")]


def test_a_release_is_heard_once() -> None:
    made, lease = active(slots=1)
    made.submit(request(1), 0.0)
    made.submit(request(2), 0.0)
    assert granted(made.release(lease.id, 1.0)) == [1]
    assert made.release(lease.id, 1.0) == []


# -- rule 8: failures ---------------------------------------------------------------------------------------------


def test_rule_8_a_failed_backend_loses_its_leases_and_the_queue_waits_for_the_next() -> None:
    made, lease = active(slots=1)
    made.submit(request(1), 0.0)
    assert made.backend_down("b0", 1.0) == []
    assert (made.leases, made.queued) == ({}, 1)
    assert made.release(lease.id, 1.5) == []
    assert made.backend_up("b0", 1, EXPERTS, 2.0) == [Swap("b0", "a")]
    assert granted(made.swap_done("b0", 2.0)) == [1]


def test_rule_8_a_backend_that_fails_while_swapping_forgets_the_swap() -> None:
    made = scheduler(slots=(1, 1))
    assert made.submit(request(1), 0.0) == [Swap("b0", "a")]
    assert made.backend_down("b0", 0.1) == [Swap("b1", "a")]
    assert made.swap_done("b0", 0.2) == []
    assert granted(made.swap_done("b1", 0.2)) == [1]


def test_a_request_that_the_next_backend_is_too_narrow_for_does_not_block_the_others() -> None:
    made = scheduler(slots=())
    made.submit(request(1, "a", width=2), 0.0)
    made.submit(request(2, "a"), 0.0)
    actions = made.backend_up("b0", 1, EXPERTS, 1.0)
    assert Reject(request(1, "a", width=2), RejectReason.TOO_WIDE) in actions
    assert Swap("b0", "a") in actions


def test_a_wide_request_is_not_kept_waiting_by_a_narrow_backend_of_its_expert() -> None:
    """``b0`` serves "a" but is too narrow for the waiter; ``b1`` could, and its turn must close."""
    made = scheduler(slots=(1, 2), quantum=5.0)
    made.submit(request(1, "a"), 0.0)
    made.swap_done("b0", 0.0)
    made.submit(request(2, "b"), 0.0)
    (running,) = leases(made.swap_done("b1", 0.0))
    made.submit(request(3, "a", width=2), 0.0)
    made.tick(5.0)
    assert made.submit(request(4, "b", at=5.0), 5.0) == []
    assert made.release(running.id, 6.0) == [Swap("b1", "a")]


# -- retirement ---------------------------------------------------------------------------------------------------


def test_a_retiring_backend_drains_and_is_forgotten() -> None:
    made, lease = active()
    assert made.retire("b0", 1.0) == []
    assert made.submit(request(1), 1.0) == []
    assert made.release(lease.id, 2.0) == [Retired("b0")]
    assert made.backends == {}


def test_a_backend_retired_while_swapping_waits_for_the_end_of_the_swap() -> None:
    made = scheduler()
    made.submit(request(1), 0.0)
    assert made.retire("b0", 0.1) == []
    assert made.swap_done("b0", 0.2) == [Retired("b0")]
    assert made.queued == 1


@pytest.mark.parametrize("down_first", [True, False])
def test_a_retiring_backend_that_fails_is_forgotten(down_first: bool) -> None:
    made, _ = active()
    events = [made.backend_down, made.retire] if down_first else [made.retire, made.backend_down]
    actions = [action for event in events for action in event("b0", 1.0)]
    assert actions == [Retired("b0")]
    assert made.backends == {}


def test_events_of_unknown_backends_are_ignored() -> None:
    made = scheduler(slots=())
    assert [made.swap_done("x", 0.0), made.backend_down("x", 0.0), made.retire("x", 0.0)] == [[], [], []]


def test_rule_8_who_waits_for_an_expert_that_is_no_longer_served_is_rejected() -> None:
    made, lease = active(slots=1)
    mine, other = request(1, "a"), request(2, "b")
    made.submit(mine, 0.0)
    made.submit(other, 0.0)
    assert made.withdraw("a", 1.0) == [Reject(mine, RejectReason.WITHDRAWN)]
    assert list(made.leases) == [lease.id]
    assert made.release(lease.id, 2.0) == [Swap("b0", "b")]
    assert made.withdraw("c", 3.0) == []


# -- rule 9: shutdown ---------------------------------------------------------------------------------------------


def test_rule_9_shutdown_rejects_the_queue_and_what_comes_and_lets_leases_run() -> None:
    made, lease = active(slots=1)
    waiting, newcomer = request(1), request(2)
    made.submit(waiting, 0.0)
    assert made.shutdown() == [Reject(waiting, RejectReason.SHUTDOWN)]
    assert made.submit(newcomer, 1.0) == [Reject(newcomer, RejectReason.SHUTDOWN)]
    assert list(made.leases) == [lease.id]
    assert made.release(lease.id, 2.0) == []


# -- the clock ----------------------------------------------------------------------------------------------------


def test_nothing_to_wait_for_needs_no_tick() -> None:
    assert scheduler().next_event_s(0.0) is None
    made, _ = active()
    assert made.next_event_s(0.0) is None


@given(
    arrived=st.floats(0, 1e6, allow_nan=False).map(lambda x: x / 3),
    quantum=st.floats(0.001, 100).map(lambda x: x / 7),
)
def test_the_tick_asked_for_closes_the_turn_whatever_rounding_does(arrived: float, quantum: float) -> None:
    made, _ = active(quantum=quantum)
    made.submit(request(1, "b", at=arrived, deadline=1e9), arrived)
    wake = made.next_event_s(arrived)
    if wake is not None and wake < 1e9:
        made.tick(wake)
        assert made.next_event_s(wake) == 1e9
    assert not made.backends["b0"].turn_open


# -- everything at once -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    pause_s: float
    kind: str
    arrival: Arrival
    which: int


def tenths(least: int, most: int) -> st.SearchStrategy[float]:
    """Seconds with one decimal: most cannot be written exactly in binary, so sums round."""
    return st.integers(least, most).map(lambda n: n / 10)


arrivals = st.builds(
    Arrival,
    expert=st.sampled_from("abcd"),
    service_s=tenths(1, 40),
    wait_s=st.one_of(tenths(1, 80), st.just(10_000.0)),
    client=st.sampled_from(["one", "two"]),
    conversation=st.sampled_from(["", "x", "y"]),
    width=st.sampled_from([1, 1, 1, 2, 3]),
)
kinds = st.sampled_from(["arrive"] * 12 + ["cancel"] * 3 + ["down", "up", "retire", "new"])
steps = st.lists(st.builds(Step, tenths(0, 15), kinds, arrivals, st.integers(0, 30)), min_size=1, max_size=40)
thorough = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(
    steps=steps,
    slots=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    quantum=tenths(1, 40),
    answers=st.sampled_from([0.0, 1.0, 4.0]),
    swap_s=tenths(0, 5),
    idle_slots=st.integers(0, 4),
    queue=st.integers(1, 12),
    per_client=st.integers(1, 12),
    stop=st.booleans(),
)
def test_every_promise_holds_whatever_happens(
    steps: list[Step],
    slots: list[int],
    quantum: float,
    answers: float,
    swap_s: float,
    idle_slots: int,
    queue: int,
    per_client: int,
    stop: bool,
) -> None:
    world = Simulator(empty(quantum, queue, per_client, answers), swap_s=swap_s)
    for number, count in enumerate(slots):
        experts = EXPERTS - frozenset("d" if number == 1 else "")
        world.up(f"b{number}", count + idle_slots, experts, at_once=count)
    for number, step in enumerate(steps):
        world.run_until(world.now + step.pause_s)
        _perform(world, step, slots, number)
    if stop:
        world.shutdown()
    world.finish()


def _perform(world: Simulator, step: Step, slots: list[int], number: int) -> None:
    name = f"b{step.which % len(slots)}"
    match step.kind:
        case "arrive":
            world.arrive(step.arrival)
        case "cancel":
            if world.requests:
                world.cancel(world.requests[-1 - step.which % len(world.requests)])
        case "down":
            world.down(name)
        case "up":
            world.up(name, 1 + step.which % 4, EXPERTS)
        case "retire":
            world.retire(name)
        case "new":
            world.up(f"new{number}", 1 + step.which % 4, EXPERTS)


@thorough
@given(
    steps=steps,
    slots=st.integers(3, 4),
    quantum=tenths(1, 40),
    answers=st.sampled_from([0.0, 1.0, 4.0]),
    swap_s=tenths(0, 5),
)
def test_the_head_waiter_of_an_expert_starts_within_the_bound(
    steps: list[Step], slots: int, quantum: float, answers: float, swap_s: float
) -> None:
    """On one backend: quantum + swap + k * (longest lease + swap), k the other experts."""
    world = Simulator(empty(quantum, answers=answers), swap_s=swap_s)
    world.up("b0", slots, EXPERTS)
    for number, step in enumerate(steps):
        world.run_until(world.now + step.pause_s)
        if step.kind in ("arrive", "cancel"):
            _perform(world, step, [slots], number)
    world.finish()
    longest = max((step.arrival.service_s for step in steps if step.kind == "arrive"), default=0.0)
    others = len({r.expert for r in world.requests}) - 1
    bound = max(quantum + swap_s + others * (longest + swap_s), longest + swap_s)
    assert all(wait <= bound + 1e-6 for _, wait in world.waits), (bound, world.waits)


@thorough
@given(
    steps=steps,
    at_once=st.integers(1, 4),
    quantum=tenths(1, 40),
    answers=st.sampled_from([0.0, 4.0]),
    swap_s=tenths(0, 5),
)
def test_every_waiter_starts_within_the_bound_of_its_place(
    steps: list[Step], at_once: int, quantum: float, answers: float, swap_s: float
) -> None:
    """The n-th waiter: ceil(n / at once) times the head's bound and the longest lease; of m keys, a key's j-th waiter
    is at most the m (j + 1)-th."""
    world = Simulator(empty(quantum, answers=answers), swap_s=swap_s)
    world.up("b0", at_once + 3, EXPERTS, at_once)
    arrived = [replace(s.arrival, width=1, wait_s=10_000.0) for s in steps if s.kind == "arrive"]
    for step in steps:
        world.run_until(world.now + step.pause_s)
        if step.kind == "arrive":
            world.arrive(replace(step.arrival, width=1, wait_s=10_000.0))
    world.finish()
    longest = max((arrival.service_s for arrival in arrived), default=0.0)
    others = len({arrival.expert for arrival in arrived}) - 1
    head = quantum + swap_s + others * (longest + swap_s)
    keys = len({arrival.client for arrival in arrived})
    for place, wait in world.placed_waits:
        n = place if keys == 1 else keys * (place + 1)
        assert wait <= math.ceil(n / at_once) * (head + longest) + 1e-6


def _saturated(world: Simulator, experts: str, *, seconds: float, service_s: float, clients_each: int) -> None:
    """Closed loop: each client of each expert asks again as soon as it has been answered."""
    waiting: list[Request | None] = [None] * (len(experts) * clients_each)
    while world.now < seconds:
        for index, last in enumerate(waiting):
            if last is None or last.id in world.ended:
                waiting[index] = world.arrive(Arrival(experts[index % len(experts)], service_s))
        world.run_until(world.now + 0.05)


@pytest.mark.parametrize(
    ("slots", "experts", "clients"),
    [((2,), "ab", 1), ((2,), "ab", 4), ((1,), "abcd", 2), ((4,), "abcd", 3), ((2, 2), "abcd", 3), ((1, 4), "abc", 5)],
)
def test_saturated_experts_all_get_turns_and_swap_no_more_than_they_must(
    slots: tuple[int, ...], experts: str, clients: int
) -> None:
    quantum, service_s, swap_s = 2.0, 0.5, 0.05
    world = Simulator(empty(quantum), swap_s=swap_s)
    for number, count in enumerate(slots):
        world.up(f"b{number}", count, EXPERTS)
    _saturated(world, experts, seconds=60.0, service_s=service_s, clients_each=clients)
    bound = quantum + len(experts) * (service_s + swap_s)
    for expert in experts:
        starts = [wait for name, wait in world.own_waits if name == expert]
        assert len(starts) > 10
        assert max(starts) <= bound + 1e-6
    if len(slots) == 1:
        assert world.swaps <= 60.0 / service_s


def test_one_expert_alone_swaps_once() -> None:
    world = Simulator(empty(0.1), swap_s=0.05)
    world.up("b0", 2, EXPERTS)
    _saturated(world, "a", seconds=20.0, service_s=0.3, clients_each=6)
    assert world.swaps == 1
