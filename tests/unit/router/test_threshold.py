from __future__ import annotations

import numpy as np
import pytest

from router.threshold import Gate, choose_split, choose_threshold, leads, squash


@pytest.mark.parametrize(
    ("accept", "refuse", "allowed", "low", "high"),
    [
        pytest.param([0.8, 0.9], [0.1, 0.2], 0.0, 0.2, 0.8, id="between two separate groups"),
        pytest.param([0.3, 0.8, 0.9, 0.9], [0.1, 0.2, 0.7, 0.7], 0.5, 0.7, 0.8, id="gives up one to refuse two"),
        pytest.param([0.3, 0.8, 0.9, 0.9], [0.1, 0.2, 0.7, 0.7], 0.0, 0.2, 0.3, id="may not give up any"),
        pytest.param([0.2, 0.5, 0.9], [], 0.0, 0.2, 0.2, id="nothing to refuse: quantile"),
        pytest.param([0.1, 0.2, 0.3, 0.4, 0.5], [], 0.4, 0.2, 0.3, id="nothing to refuse: larger quantile"),
        pytest.param([0.1], [0.9], 0.0, 0.0, 0.1, id="hopeless: the one example still qualifies"),
    ],
)
def test_a_split_separates_what_to_accept_from_what_to_refuse(
    accept: list[float], refuse: list[float], allowed: float, low: float, high: float
) -> None:
    value = choose_split(np.array(accept), np.array(refuse), max_false_abstain=allowed)
    assert low <= value <= high
    assert np.mean(np.array(accept) < value) <= allowed


@pytest.mark.parametrize(("share", "below"), [(0.0, 0), (0.05, 5), (0.5, 50)])
def test_the_threshold_abstains_as_often_as_asked(share: float, below: int) -> None:
    scores = np.random.default_rng(0).permutation(np.linspace(0.01, 0.99, 101))
    assert int(np.sum(scores < choose_threshold(scores, share))) == below


def test_the_lead_is_over_the_second_best_or_over_nothing() -> None:
    assert leads(np.array([[0.2, 0.9, 0.6], [0.5, 0.5, 0.1]])) == pytest.approx([0.3, 0.0])
    assert leads(np.array([[0.4]])) == pytest.approx([0.4])


def test_scores_weigh_standardised_evidence_and_ignore_kinds_of_weight_zero() -> None:
    gate = Gate(np.array([1.0, 5.0]), np.array([2.0, 1.0]), np.array([1.0, 0.0]), bias=0.5, threshold=0.5)
    evidence = np.array([[[3.0, 0.0], [1.0, 99.0]]])
    np.testing.assert_allclose(gate.scores(evidence), squash(np.array([[1.5, 0.5]])))


def test_scores_stay_between_zero_and_one_for_extreme_evidence() -> None:
    assert squash(np.array([-1e9, 0.0, 1e9])) == pytest.approx([0.0, 0.5, 1.0])
