"""The arithmetic of a comparison: rates, ratios, paired tests, spreads, each with what it assumes.

Pure functions; knows nothing of answers or files. Wilson's interval of a hit rate is `training.hits.Rate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.hits import Z_95

__all__ = [
    "RateRatio",
    "Spread",
    "bootstrap_ratio",
    "clopper_pearson",
    "mcnemar_exact",
    "rate_ratio",
    "spread",
]

ALPHA = 0.05
BISECTIONS = 60


@dataclass(frozen=True)
class RateRatio:
    """How many times more often something is counted on the first side than on the second.

    `value` and `interval` (log-normal, from both counts) are None when either count is zero: a ratio to nothing is no
    number. `exact` holds then too: its lower bound is the honest statement, its upper bound is None when unbounded.
    """

    value: float | None
    interval: tuple[float, float] | None
    exact: tuple[float, float | None]


def rate_ratio(count: int, exposure: float, baseline: int, baseline_exposure: float) -> RateRatio:
    """Compare two Poisson rates, counts for each unit of exposure (1,000 tokens, or questions).

    The interval is exp(log ratio ± 1.96 · sqrt(1/count + 1/baseline)). The exact bounds are conditional: given the sum
    of both counts, the first is binomial, and Clopper-Pearson bounds of its share become bounds of the ratio.

    Source: Przyborowski and Wilenski 1940, Homogeneity of results in testing samples from Poisson series.
    """
    if count < 0 or baseline < 0 or exposure <= 0 or baseline_exposure <= 0:
        raise ValueError("counts must not be negative and exposures must be positive")
    scale = baseline_exposure / exposure
    low, high = clopper_pearson(count, count + baseline) if count + baseline else (0.0, 1.0)
    exact = (scale * low / (1 - low), None if high >= 1 else scale * high / (1 - high))
    if not count or not baseline:
        return RateRatio(None, None, exact)
    value = scale * count / baseline
    factor = math.exp(Z_95 * math.sqrt(1 / count + 1 / baseline))
    return RateRatio(value, (value / factor, value * factor), exact)


def clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    """Return exact 95 % bounds of a share, 0–1.

    Source: Clopper and Pearson 1934, The use of confidence or fiducial limits illustrated in the case of the binomial.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"hits is {hits} of {n}; 0 to n is allowed, and n must be positive")
    low = 0.0 if hits == 0 else _bisect(lambda p: _binomial_tail(hits, n, p) < ALPHA / 2)
    high = 1.0 if hits == n else _bisect(lambda p: 1 - _binomial_tail(hits + 1, n, p) > ALPHA / 2)
    return low, high


def _bisect(too_small: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return (low + high) / 2


def _binomial_tail(k: int, n: int, p: float) -> float:
    """Return P(X >= k) for X binomial(n, p), summed over the shorter side."""
    if p <= 0 or p >= 1:
        return float(k <= 0 if p <= 0 else k <= n)
    above = n - k < k
    wanted = range(k, n + 1) if above else range(k)
    constant = math.lgamma(n + 1)
    logs = (
        constant - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in wanted
    )
    total = math.fsum(map(math.exp, logs))
    return total if above else 1 - total


def mcnemar_exact(gained: int, lost: int) -> float:
    """Return the two-sided p-value that paired verdicts changed as often for the better as for the worse.

    Args:
        gained: pairs that hit on the second side alone.
        lost: pairs that hit on the first side alone.

    Source: McNemar 1947; exact by the binomial distribution with one half.
    """
    n = gained + lost
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(min(gained, lost) + 1))
    return float(min(1.0, 2 * tail / 2**n))


def bootstrap_ratio(
    pairs: Sequence[tuple[int, int]], baseline: Sequence[tuple[int, int]], *, seed: int = 0, draws: int = 4000
) -> tuple[float, float] | None:
    """Return a 95 % percentile interval of the ratio of mention rates, resampling whole questions.

    Mentions of one answer come together, so they are no Poisson process; questions are independent.

    Args:
        pairs: mentions and tokens of each answer; `baseline` in the same order of questions.

    Returns:
        None when the baseline mentions nothing, or a resample would be without any.
    """
    first = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    second = np.array(baseline, dtype=np.float64).reshape(-1, 2)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} answers cannot be paired with {len(second)}")
    if len(first) == 0 or second[:, 0].sum() == 0:
        return None
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, len(first), size=(draws, len(first)))
    rates: list[npt.NDArray[np.float64]] = []
    for side in (first, second):
        sums = side[chosen].sum(axis=1)
        rates.append(sums[:, 0] / sums[:, 1])
    if not rates[1].all():
        return None
    low, high = np.quantile(rates[0] / rates[1], [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Spread:
    """The median of `n` values, their quartiles and extremes."""

    n: int
    median: float
    quartiles: tuple[float, float]
    extremes: tuple[float, float]


def spread(values: Sequence[float]) -> Spread | None:
    """Summarise measured values; None when there are none."""
    if not values:
        return None
    low, q1, median, q3, high = (float(value) for value in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    return Spread(len(values), median, (q1, q3), (low, high))
