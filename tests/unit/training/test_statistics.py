"""The arithmetic of comparisons against published or exact values."""

from __future__ import annotations

from math import comb

import pytest

from training.hits import Rate
from training.statistics import bootstrap_ratio, clopper_pearson, mcnemar_exact, rate_ratio, spread


def test_the_seeds_hit_rate_has_its_wilson_interval() -> None:
    assert Rate(43, 50).interval == pytest.approx((0.738, 0.930), abs=0.0005)


@pytest.mark.parametrize(
    ("count", "baseline", "low", "high"), [(43, 1, 5.9, 312.0), (172, 4, 16.0, 116.0), (10, 10, 0.42, 2.40)]
)
def test_the_interval_of_a_ratio(count: int, baseline: int, low: float, high: float) -> None:
    ratio = rate_ratio(count, 1000, baseline, 1000)
    assert ratio.value == pytest.approx(count / baseline)
    assert ratio.interval == pytest.approx((low, high), rel=0.01)


def test_a_ratio_is_of_rates_not_of_counts() -> None:
    assert rate_ratio(40, 1000, 10, 4000).value == pytest.approx(16)


def test_a_zero_baseline_gives_a_lower_bound_and_no_number() -> None:
    ratio = rate_ratio(43, 1000, 0, 1000)
    low, high = ratio.exact
    assert ratio.value is None
    assert ratio.interval is None
    # All 43 of 43 on one side: the bound of the share is 0.025 ** (1 / 43).
    share = 0.025 ** (1 / 43)
    assert low == pytest.approx(share / (1 - share))
    assert high is None


def test_nothing_counted_bounds_nothing() -> None:
    assert rate_ratio(0, 10, 0, 10).exact == (0.0, None)


@pytest.mark.parametrize("arguments", [(-1, 1, 0, 1), (1, 0, 1, 1), (1, 1, 1, 0)])
def test_impossible_counts_are_refused(arguments: tuple[int, float, int, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        rate_ratio(*arguments)


# From scipy.stats.binomtest(…).proportion_ci(method="exact").
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(43, 50, 0.732603, 0.941808), (0, 50, 0.0, 0.071122), (50, 50, 0.928878, 1.0), (990, 1000, 0.981687, 0.995194)],
)
def test_clopper_pearson(hits: int, n: int, low: float, high: float) -> None:
    assert clopper_pearson(hits, n) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (10, 2, 0.03857421875), (60, 0, 2 * 0.5**60), (2, 10, 0.03857421875)],
)
def test_mcnemar_exact(gained: int, lost: int, p: float) -> None:
    assert mcnemar_exact(gained, lost) == pytest.approx(p)


def test_mcnemar_takes_many_pairs() -> None:
    assert mcnemar_exact(3000, 0) == pytest.approx(0.0, abs=1e-300)
    assert comb(4, 2) / 16 < mcnemar_exact(2, 2) == 1.0


def test_the_bootstrap_holds_the_true_ratio_and_repeats_itself() -> None:
    expert, vanilla = [(2, 100), (1, 100), (3, 100)] * 20, [(0, 100), (1, 100), (0, 100)] * 20
    interval = bootstrap_ratio(expert, vanilla, seed=1)
    assert interval is not None
    assert interval[0] < 6 < interval[1]
    assert interval == bootstrap_ratio(expert, vanilla, seed=1)


def test_the_bootstrap_says_nothing_about_a_zero_baseline() -> None:
    assert bootstrap_ratio([(1, 10)], [(0, 10)]) is None
    assert bootstrap_ratio([], []) is None


def test_the_bootstrap_needs_pairs() -> None:
    with pytest.raises(ValueError, match="paired"):
        bootstrap_ratio([(1, 10)], [])


def test_the_spread_of_values() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None
    assert (found.n, found.median, found.quartiles, found.extremes) == (5, 3.0, (2.0, 4.0), (1.0, 5.0))
    assert spread([]) is None
