"""Evidence made by hand, so that what calibration must find is known."""

from __future__ import annotations

import numpy as np
import pytest

from router.calibrate import calibrate, calibration_error
from router.classifier import N_KINDS, OUTSIDE, SCOPE, Evidence, Indices
from router.threshold import leads


def make_evidence(labels: Indices, n_routes: int, *, strength: float = 3.0, seed: int = 0) -> Evidence:
    """Noise in every kind, and `strength` more for the text's own route."""
    evidence = np.random.default_rng(seed).standard_normal((len(labels), n_routes, N_KINDS))
    inside = np.flatnonzero(labels != OUTSIDE)
    evidence[inside, labels[inside]] += strength
    evidence[:, :, SCOPE] = evidence[:, :1, SCOPE]
    return evidence


@pytest.mark.parametrize("outside", [0, 200])
@pytest.mark.parametrize("asked", [0.02, 0.1])
def test_the_share_asked_for_abstains_and_scores_are_probabilities(outside: int, asked: float) -> None:
    labels = np.array([index % 4 for index in range(2000)] + [OUTSIDE] * outside)
    strangers = [make_evidence(np.full(200, OUTSIDE), 2, seed=1)]
    gate, metrics = calibrate(
        make_evidence(labels, 4, strength=1.5), labels, [] if outside else strangers, max_false_abstain=asked
    )
    assert metrics["false_abstain"] == pytest.approx(asked, abs=0.002)
    fresh = np.array([index % 4 for index in range(2000)])
    scores = gate.scores(make_evidence(fresh, 4, strength=1.5, seed=2))
    abstained = (scores.max(axis=1) < gate.threshold) | (leads(scores) < gate.margin)
    assert np.mean(abstained) == pytest.approx(asked, abs=0.02)
    assert calibration_error(scores.max(axis=1), scores.argmax(axis=1) == fresh) < 0.06


def test_what_stands_for_no_route_scores_below_what_does() -> None:
    labels = np.array([0, 1] * 200 + [OUTSIDE] * 100)
    gate, metrics = calibrate(make_evidence(labels, 2), labels, [], max_false_abstain=0.05)
    assert metrics["auroc"] > 0.95
    assert gate.scores(make_evidence(labels, 2, seed=3))[-100:].max(axis=1).mean() < 0.3


def test_the_assumed_share_of_the_traffic_is_out_of_scope_and_half_of_it_as_hard_as_strangers() -> None:
    known = np.array([index % 4 for index in range(4000)])
    outside = np.full(4000, OUTSIDE)

    def find_gap(labels: Indices, strangers: list[Evidence], share: float) -> float:
        """How much the scores promise too little when that share of the traffic is out of scope."""
        gate, _ = calibrate(make_evidence(labels, 4, strength=0.7), labels, strangers, max_false_abstain=0.05)
        inside = gate.scores(make_evidence(known, 4, strength=0.7, seed=2))
        right = inside.argmax(axis=1) == known
        unwanted = gate.scores(make_evidence(outside, 4, seed=3)).max(axis=1)
        return float((1 - share) * np.mean(right - inside.max(axis=1)) - share * unwanted.mean())

    assert find_gap(np.concatenate([known, outside[:400]]), [], 0.1) == pytest.approx(0.0, abs=0.01)
    assert find_gap(known, [make_evidence(outside, 4, seed=1)], 0.05) == pytest.approx(0.0, abs=0.01)


def test_one_route_and_nothing_else_can_still_be_ranked() -> None:
    labels = np.zeros(40, dtype=np.int64)
    gate, metrics = calibrate(make_evidence(labels, 1), labels, [], max_false_abstain=0.1)
    assert metrics["false_abstain"] == pytest.approx(0.1, abs=0.03)
    weak = np.zeros((1, 1, N_KINDS))
    assert gate.scores(weak)[0, 0] < gate.threshold


def test_a_calibration_error_is_the_distance_of_scores_and_outcomes() -> None:
    right = np.array([True] * 9 + [False])
    assert calibration_error(np.full(10, 0.9), right) == pytest.approx(0.0)
    assert calibration_error(np.full(10, 0.5), right) == pytest.approx(0.4)
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, True]), np.array([3.0, 1.0])) == pytest.approx(0.25)
