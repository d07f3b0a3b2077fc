from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from router.embedding import Vectors
from router.rounded import AT_ONCE, RoundedTexts


def unit_vectors(count: int, dim: int = 96, *, outlier: float = 1.0, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    vectors[:, 0] *= outlier
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_texts_are_rounded_by_half_a_step_at_most() -> None:
    vectors = unit_vectors(50)
    rounded = RoundedTexts.of(vectors)
    assert rounded.values.dtype == np.int8
    assert np.all(np.abs(rounded.vectors - vectors) <= rounded.steps / 2 + 1e-7)
    np.testing.assert_allclose(np.abs(rounded.values).max(axis=0), 127)


@pytest.mark.parametrize(("outlier", "error"), [(1.0, 1e-4), (30.0, 1e-3)])
def test_cosines_are_those_of_the_rounded_texts(outlier: float, error: float) -> None:
    rounded, asked = RoundedTexts.of(unit_vectors(200, outlier=outlier)), unit_vectors(7, outlier=outlier, seed=1)
    np.testing.assert_allclose(rounded.cosines(asked), asked @ rounded.vectors.T, atol=error)


def test_the_largest_values_together_overflow_nothing() -> None:
    rounded = RoundedTexts.of(np.array([[1.0] * 768, [-1.0] * 768], dtype=np.float32) / np.float32(768**0.5))
    asked = rounded.vectors * np.float32(0.5)
    np.testing.assert_allclose(rounded.cosines(asked), [[0.5, -0.5], [-0.5, 0.5]], atol=1e-4)


def test_a_text_has_the_same_cosines_in_any_company() -> None:
    rounded, asked = RoundedTexts.of(unit_vectors(200)), unit_vectors(9, seed=1)
    together = rounded.cosines(asked)
    alone = np.concatenate([rounded.cosines(asked[row : row + 1]) for row in range(9)])
    np.testing.assert_array_equal(together, alone)


def test_many_texts_are_multiplied_piece_by_piece() -> None:
    rounded, asked = RoundedTexts.of(unit_vectors(20)), unit_vectors(2 * AT_ONCE + 3, seed=1)
    np.testing.assert_allclose(rounded.cosines(asked), asked @ rounded.vectors.T, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        (np.ones((3, 4), dtype=np.float32), np.ones(4, dtype=np.float32)),
        (np.ones((3, 4), dtype=np.int8), np.ones(3, dtype=np.float32)),
        (np.ones(4, dtype=np.int8), np.ones(4, dtype=np.float32)),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(values: Any, steps: Vectors) -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        RoundedTexts(values, steps)


def test_nothing_and_the_zero_vector_are_multiplied_too() -> None:
    rounded = RoundedTexts.of(unit_vectors(20))
    assert rounded.cosines(np.empty((0, 96), dtype=np.float32)).shape == (0, 20)
    np.testing.assert_array_equal(rounded.cosines(np.zeros((1, 96), dtype=np.float32)), np.zeros((1, 20)))
