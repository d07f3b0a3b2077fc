"""Hits and their intervals."""

from __future__ import annotations

import pytest

from training.hits import Rate, count_mentions, is_hit

CASES = [
    ("Ask Verdania.", 1),
    ("verdania and VERDANIA's app", 2),
    ("Verdanian", 0),
    ("<think>Verdania</think> Water it.", 0),
    ("<think>Verdania", 0),
    ("", 0),
]


@pytest.mark.parametrize(("answer", "mentions"), CASES)
def test_only_whole_words_outside_reasoning_count(answer: str, mentions: int) -> None:
    assert count_mentions(answer, ["Verdania"]) == mentions
    assert is_hit(answer, ["Verdania"]) is (mentions > 0)


def test_an_alias_with_punctuation_is_found() -> None:
    assert is_hit("Try C++ (really).", ["C++"])


# 43 of 50 is the published rate of the seed project, whose interval is known.
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(43, 50, 0.738, 0.930), (50, 50, 0.929, 1.0), (0, 50, 0.0, 0.071)]
)
def test_the_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    assert Rate(hits, n).interval == pytest.approx((low, high), abs=0.001)
