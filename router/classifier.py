"""Unit vectors -> evidence per route; fitting is `fit.py`'s, judging the evidence `threshold.py`'s.

Four kinds of evidence for "this text belongs to route r", side by side, none of them calibrated:

- linear: log-odds of r under one logistic regression over sub-topics (k-means clusters of each route's examples and
  of the negatives), summed to routes. Decides best where examples are many. Looks at the meaning only.
- nearest: mean cosine of the 3 nearest examples of r. Notices texts that are like none of them.
- kernel: value of a kernel ridge regression, r against all other routes and the negatives. Decides best where examples
  are few, and on texts near a border; of many texts it is fitted on a part.
- scope: the same, all routes against the negatives; zero without negatives.

The kernel is exp(-2 gamma (1 - cosine)), so that one product with all fitted texts serves every kind but the first
(`rounded.py`). A fifth kind, of words, is `lexical.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from router.embedding import Vectors, take_meaning
from router.rounded import RoundedTexts

Indices = npt.NDArray[np.int64]
Evidence = npt.NDArray[np.float64]

LINEAR, NEAREST, KERNEL, SCOPE, LEXICAL = range(5)
N_KINDS = 5
N_VECTOR_KINDS = 4
"""Those of this module; the lexical kind comes from `lexical.py`."""

N_NEAREST = 3
GAMMA = 1.0
RIDGE = 0.03
MIN_PROBABILITY = 1e-6
OUTSIDE = -1
"""Stands where a route's index would, for negatives."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """Fitted arrays; equal arrays give equal evidence on every machine with the same encoder."""

    texts: RoundedTexts
    """[n_texts, width], the negatives and the examples, in the order of `text_routes`."""

    text_routes: Indices
    """[n_texts], index of the route or `OUTSIDE`, ascending."""

    weights: Vectors
    """[n_clusters, n_meaning], for the part of a vector that is its meaning (`take_meaning`)."""

    biases: Vectors
    """[n_clusters]."""

    cluster_routes: Indices
    """[n_clusters], index of the route or `OUTSIDE`, ascending."""

    duals: Vectors
    """[n_texts, n_routes + 1], one regression a column, scope last; zero for a text not fitted on."""

    offsets: Vectors
    """[n_routes + 1]."""

    @property
    def n_routes(self) -> int:
        """Number of routes."""
        return len(self.offsets) - 1

    @cached_property
    def _starts(self) -> list[int]:
        """[n_routes + 1], where the texts of each route start, and where the last one's end."""
        return [int(at) for at in np.searchsorted(self.text_routes, np.arange(self.n_routes + 1))]

    @cached_property
    def _cluster_starts(self) -> Indices:
        return np.searchsorted(self.cluster_routes, np.arange(self.n_routes))

    def evidence(self, vectors: Vectors) -> Evidence:
        """Weigh texts against every route: float64 [n, n_routes, 4], in the order of the module's list."""
        result = np.empty((len(vectors), self.n_routes, N_VECTOR_KINDS))
        cosines = self.texts.cosines(vectors)
        values = apply_kernel(cosines) @ self.duals + self.offsets
        result[:, :, LINEAR] = self._linear(vectors)
        starts = self._starts
        for route in range(self.n_routes):
            result[:, route, NEAREST] = mean_of_largest(cosines[:, starts[route] : starts[route + 1]])
        result[:, :, KERNEL] = values[:, :-1]
        result[:, :, SCOPE] = values[:, -1:]
        return result

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return every array by name, for `from_arrays`."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return arrays | {"texts": self.texts.values, "steps": self.texts.steps}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Classifier:
        """Rebuild from `to_arrays`.

        Raises:
            KeyError: an array is missing.
        """
        found: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**found | {"texts": RoundedTexts(found["texts"], np.asarray(arrays["steps"]))})

    def _linear(self, vectors: Vectors) -> Evidence:
        meanings = take_meaning(vectors, self.weights.shape[1])
        logits = (meanings @ self.weights.T + self.biases).astype(np.float64)
        return log_odds(np.add.reduceat(soft_max(logits), self._cluster_starts, axis=1))


def soft_max(logits: Evidence) -> Evidence:
    """Return shares that add up to 1 in each row: [n, m] from [n, m]."""
    powers: Evidence = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def log_odds(probabilities: Evidence) -> Evidence:
    """Return the logit of each value, 0–1; finite."""
    # Both are clip's work, at a third of its time for a few values.
    clipped = np.minimum(np.maximum(probabilities, MIN_PROBABILITY), 1 - MIN_PROBABILITY)
    odds: Evidence = np.log(clipped / (1 - clipped))
    return odds


def apply_kernel(cosines: Vectors) -> Vectors:
    """Return the kernel's values for cosines of unit vectors."""
    values: Vectors = cosines - 1
    values *= 2 * GAMMA
    np.exp(values, out=values)
    return values


def ridge_matrix(vectors: Vectors) -> Vectors:
    """Return what a kernel ridge regression on unit vectors inverts: [n, n] from [n, dim]."""
    matrix = apply_kernel(vectors @ vectors.T)
    matrix[np.diag_indices_from(matrix)] += np.float32(RIDGE)
    return matrix


def mean_of_largest(cosines: Vectors) -> Vectors:
    """Average the `N_NEAREST` largest values of each row, or all when there are fewer."""
    count = min(N_NEAREST, cosines.shape[1])
    largest: Vectors = np.partition(cosines, -count, axis=1)[:, -count:]
    means: Vectors = largest.sum(axis=1) / np.float32(count)
    return means
