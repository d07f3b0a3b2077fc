"""Which slot a request takes: the one whose KV is worth most to it, and least to others."""

from __future__ import annotations

from gateway.slots import Slots


def used(count: int, *requests: tuple[str, str, float], at_once: int = 8) -> Slots:
    """Slots that have served these (expert, conversation, time) one after another, each alone."""
    slots = Slots(count, at_once)
    for expert, conversation, now in requests:
        slots.give_back(slots.take(1, expert, conversation, 1, now), now)
    return slots


def take(slots: Slots, expert: str, conversation: str, now: float, width: int = 1) -> tuple[int, ...]:
    return slots.take(9, expert, conversation, width, now)


def test_no_more_are_leased_than_run_at_once() -> None:
    slots = Slots(8, at_once=3)
    slots.take(1, "a", "x", 2, 0.0)
    assert (len(slots), slots.running, slots.room) == (8, 2, 1)
    assert Slots(2, at_once=9).at_once == 2


def test_a_conversation_gets_its_slot_back() -> None:
    slots = used(3, ("a", "x", 1.0), ("b", "y", 2.0), ("a", "z", 3.0))
    assert take(slots, "b", "y", 9.0) == (1,)


def test_a_conversation_under_another_expert_does_not_take_the_slot_it_left() -> None:
    """Its KV there is another adapter's; it stays for the case that the conversation goes back."""
    slots = used(3, ("a", "x", 1.0))
    assert take(slots, "b", "x", 2.0) != (0,)
    assert take(slots, "a", "x", 3.0) == (0,)


def test_a_slot_never_used_goes_first() -> None:
    slots = used(2, ("a", "x", 1.0))
    assert take(slots, "a", "y", 2.0) == (1,)
    assert take(used(2, ("a", "x", 1.0)), "a", "y", 999.0) == (1,)


def test_the_oldest_kv_goes_first_among_other_experts_slots() -> None:
    slots = used(3, ("a", "x", 3.0), ("b", "y", 1.0), ("c", "z", 2.0))
    assert take(slots, "d", "new", 4.0) == (1,)


def test_an_expert_keeps_to_its_own_slots_so_that_the_common_beginning_of_its_prompts_stays() -> None:
    slots = used(2, ("a", "x", 1.0), ("b", "y", 5.0))
    assert take(slots, "b", "new", 6.0) == (1,)


def test_but_takes_one_that_is_much_older() -> None:
    slots = used(2, ("a", "x", 1.0), ("b", "y", 160.0))
    assert take(slots, "b", "new", 161.0) == (0,)


def test_a_slot_beside_a_running_one_is_preferred() -> None:
    """Only neighbours are decoded together by a server whose slots have their KV apart."""
    slots = used(4, *(("a", f"talk {number}", float(number)) for number in range(4)))
    assert take(slots, "a", "talk 2", 9.0) == (2,)
    assert take(slots, "a", "new", 9.0) == (1,)


def test_a_gap_between_running_ones_is_filled_first() -> None:
    slots = Slots(16, at_once=4)
    slots.take(1, "a", "x", 1, 0.0)
    gap = slots.take(2, "a", "y", 1, 0.0)
    slots.take(3, "a", "z", 1, 0.0)
    slots.give_back(gap, 1.0)
    assert take(slots, "a", "new", 1.0) == gap


def test_not_at_the_price_of_a_conversation_that_came_back() -> None:
    slots = used(4, ("a", "before", 0.0), ("a", "gap", 0.0), ("a", "after", 0.0), ("a", "gap", 1.0))
    slots.take(1, "a", "before", 1, 2.0)
    slots.take(2, "a", "after", 1, 2.0)
    assert take(slots, "a", "new", 3.0) == (3,)
    assert slots.knows("a", "gap")


def test_a_conversation_that_came_back_keeps_its_slot_while_single_questions_pass() -> None:
    slots = used(2, ("a", "x", 1.0), ("a", "x", 2.0))
    for number in range(20):
        now = 3.0 + number
        (index,) = take(slots, "a" if number % 2 else "b", f"single {number}", now)
        assert index == 1
        slots.give_back((index,), now)
    assert slots.knows("a", "x")


def test_but_not_for_ever() -> None:
    slots = used(2, ("a", "x", 1.0), ("a", "x", 2.0), ("b", "y", 1000.0))
    assert take(slots, "b", "new", 1001.0) == (0,)


def test_a_leased_slot_is_not_taken_nor_known() -> None:
    slots = used(2, ("a", "x", 1.0))
    assert slots.knows("a", "x")
    assert not slots.knows("b", "x")
    assert take(slots, "a", "x", 2.0) == (0,)
    assert not slots.knows("a", "x")
    assert take(slots, "a", "x", 2.0) == (1,)


def test_a_wide_request_takes_its_own_slot_and_others() -> None:
    slots = used(3, ("a", "x", 1.0), ("b", "y", 2.0))
    assert take(slots, "b", "y", 3.0, width=2) == (1, 2)


def test_a_wide_request_spares_a_neighbours_kv_while_slots_were_never_used() -> None:
    slots = used(4, ("a", "x", 0.0), ("a", "y", 700.0))
    assert take(slots, "a", "x", 1000.0, width=2) == (0, 2)


def test_interleaved_conversations_never_meet_when_there_is_a_slot_for_each() -> None:
    slots = Slots(8, at_once=4)
    talks = [(f"expert {number % 4}", f"talk {number}") for number in range(8)]
    first = {}
    for turn in range(5):
        for number, (expert, conversation) in enumerate(talks):
            now = turn * 10.0 + number
            (index,) = take(slots, expert, conversation, now)
            assert first.setdefault(conversation, index) == index
            slots.give_back((index,), now)
    assert len(set(first.values())) == 8
