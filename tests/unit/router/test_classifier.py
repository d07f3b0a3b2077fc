from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router.classifier import GAMMA, KERNEL, LINEAR, NEAREST, OUTSIDE, SCOPE, Classifier, mean_of_largest
from router.rounded import RoundedTexts


@pytest.fixture
def classifier() -> Classifier:
    """Two routes on the axes of a plane and one negative between them on the far side."""
    texts = np.array([[-1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=np.float32)
    return Classifier(
        texts=RoundedTexts.of(texts),
        text_routes=np.array([OUTSIDE, 0, 0, 1]),
        weights=np.array([[-2.0, 0.0], [2.0, 0.0], [1.0, 1.0], [0.0, 2.0]], dtype=np.float32),
        biases=np.zeros(4, dtype=np.float32),
        cluster_routes=np.array([OUTSIDE, 0, 0, 1]),
        duals=np.array([[0, 0, -1], [1, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32),
        offsets=np.array([0.0, 0.5, 2.0], dtype=np.float32),
    )


def test_linear_evidence_sums_the_clusters_of_a_route(classifier: Classifier) -> None:
    vector = np.array([[1.0, 0.0]], dtype=np.float32)
    powers = np.exp(np.array([2.0, 1.0, 0.0, -2.0]))
    shares = np.array([powers[0] + powers[1], powers[2]]) / powers.sum()
    np.testing.assert_allclose(classifier.evidence(vector)[0, :, LINEAR], np.log(shares / (1 - shares)), rtol=1e-5)


def test_linear_evidence_looks_at_the_meaning_only(classifier: Classifier) -> None:
    meanings = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    wider = replace(classifier, texts=RoundedTexts.of(np.ones((4, 3), dtype=np.float32)))
    read = np.concatenate([meanings, np.ones((2, 1), dtype=np.float32)], axis=1) / np.float32(2**0.5)
    expected = classifier.evidence(meanings)[:, :, LINEAR]
    np.testing.assert_allclose(wider.evidence(read)[:, :, LINEAR], expected, rtol=1e-5)


def test_nearest_evidence_averages_all_examples_of_a_route_with_fewer_than_three(classifier: Classifier) -> None:
    vector = np.array([[1.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(classifier.evidence(vector)[0, :, NEAREST], [0.8, 0.0], atol=1 / 254)


def test_kernel_evidence_is_a_machine_a_route_and_scope_is_shared(classifier: Classifier) -> None:
    vector = np.array([[0.0, 1.0]], dtype=np.float32)
    evidence = classifier.evidence(vector)[0]
    np.testing.assert_allclose(evidence[:, KERNEL], [np.exp(-2 * GAMMA), 1.5], rtol=1e-5)
    np.testing.assert_allclose(evidence[:, SCOPE], [2 - np.exp(-2 * GAMMA)] * 2, rtol=1e-5)


def test_evidence_of_a_text_does_not_depend_on_its_neighbours(classifier: Classifier) -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=np.float32)
    together = classifier.evidence(vectors)
    alone = np.concatenate([classifier.evidence(vectors[row : row + 1]) for row in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_no_texts_give_no_evidence(classifier: Classifier) -> None:
    assert classifier.evidence(np.empty((0, 2), dtype=np.float32)).shape == (0, 2, 4)


def test_the_mean_of_the_largest_uses_three_values() -> None:
    cosines = np.array([[0.1, 0.9, 0.5, 0.7], [0.0, 0.0, 0.3, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(mean_of_largest(cosines), [0.7, 0.1], rtol=1e-6)


def test_arrays_survive_a_round_trip(classifier: Classifier) -> None:
    copy = Classifier.from_arrays(classifier.to_arrays())
    vector = np.array([[0.6, 0.8]], dtype=np.float32)
    np.testing.assert_array_equal(copy.evidence(vector), classifier.evidence(vector))
    with pytest.raises(KeyError):
        Classifier.from_arrays({"texts": classifier.texts.values})
