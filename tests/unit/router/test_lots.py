from __future__ import annotations

import numpy as np

from router.lots import Draw, choose, deal, draw_lots, shuffle

TEXTS = [f"text number {number}" for number in range(400)]
LOTS = draw_lots(TEXTS, seed=0)
ROWS = np.arange(400)


def test_a_lot_hangs_on_its_text_and_the_seed_alone() -> None:
    np.testing.assert_array_equal(draw_lots(TEXTS[::-1], seed=0)[::-1], LOTS)
    assert (draw_lots(TEXTS, seed=1) != LOTS).all()
    assert (draw_lots(TEXTS, seed=-1) != LOTS).all()
    assert len(draw_lots([], seed=0)) == 0


def test_an_order_does_not_change_when_others_are_left_out_and_not_with_their_place() -> None:
    order = shuffle(ROWS, LOTS, Draw.SWITCHES)
    some = order[order % 3 == 0]
    np.testing.assert_array_equal(shuffle(np.sort(some), LOTS, Draw.SWITCHES), some)
    np.testing.assert_array_equal(shuffle(ROWS[::-1], LOTS, Draw.SWITCHES), order)
    assert sorted(order) == list(ROWS)


def test_draws_of_different_kinds_have_nothing_to_do_with_each_other() -> None:
    first, second = (set(shuffle(ROWS, LOTS, draw)[:100].tolist()) for draw in (Draw.SWITCHES, Draw.NEIGHBOURS))
    assert 10 < len(first & second) < 40  # 25 by chance


def test_a_choice_stays_unless_a_new_row_wins() -> None:
    before = [choose(lot, ROWS[:300], LOTS, Draw.ANCHOR) for lot in LOTS]
    after = [choose(lot, ROWS, LOTS, Draw.ANCHOR) for lot in LOTS]
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert all(new >= 300 for new in changed)
    assert 60 < len(changed) < 140  # 100 by chance
    assert len(set(after)) > 200


def test_two_do_not_choose_each_other_more_often_than_by_chance() -> None:
    rows = ROWS[:20]
    chosen = [choose(LOTS[row], rows[rows != row], LOTS, Draw.ANCHOR) for row in rows]
    assert sum(chosen[chosen[row]] == row for row in rows) <= 6


def test_hands_are_about_even_and_a_text_keeps_its_own() -> None:
    hands = deal(LOTS, 10, Draw.FOLD)
    assert np.bincount(hands, minlength=10).min() > 20
    np.testing.assert_array_equal(deal(LOTS[5:9], 10, Draw.FOLD), hands[5:9])
