"""The quantum follows what the engine shows, within its bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pace import Pace


def test_nothing_measured_is_the_longest_quantum() -> None:
    assert Pace(10.0).quantum_s == 10.0


def test_the_quantum_is_some_average_answers() -> None:
    pace = Pace(10.0, answers=4.0)
    for _ in range(100):
        pace.answered(0.5)
    assert pace.quantum_s == pytest.approx(2.0)
    for _ in range(100):
        pace.answered(1.0)
    assert pace.quantum_s == pytest.approx(4.0, rel=0.01)


def test_a_slow_swap_lengthens_it() -> None:
    pace = Pace(10.0, answers=4.0)
    pace.answered(0.1)
    for _ in range(200):
        pace.swapped(0.1)
    assert pace.quantum_s == pytest.approx(2.0, rel=0.01)


def test_no_answers_is_a_fixed_quantum() -> None:
    pace = Pace(10.0, answers=0)
    pace.answered(0.1)
    assert pace.quantum_s == 10.0


seconds = st.floats(0, 1e6)


@given(st.lists(st.tuples(st.booleans(), seconds)), st.floats(0.001, 1e4), st.floats(0, 100))
def test_it_is_never_longer_than_its_bound(events: list[tuple[bool, float]], most_s: float, answers: float) -> None:
    pace = Pace(most_s, answers)
    for answered, duration in events:
        (pace.answered if answered else pace.swapped)(duration)
        assert 0 <= pace.quantum_s <= most_s
