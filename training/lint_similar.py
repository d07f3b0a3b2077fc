"""Texts that are worded nearly alike: every pair above a similarity, exactly, without comparing all pairs.

Similarity is the Jaccard index of character trigrams, as in `novelty`. A set whose index with another is at least t
shares `ceil(t * size)` of its elements with it, hence at least n of its rarest `size - ceil(t * size) + n`: only sets
that share so many rare ones are compared.
Source: Bayardo, Ma, Srikant, "Scaling up all pairs similarity search", WWW 2007 (prefix filtering, there with n = 1).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from training.novelty import trigrams

__all__ = ["Similar", "clusters", "nearest_texts", "similar_pairs"]

Similar = tuple[int, int, float]
# Keeps 0.8 * 45, a little more than 36 as a float, from becoming 37.
ROUNDING = 1e-9


def similar_pairs(texts: Sequence[str], threshold: float) -> Iterator[Similar]:
    """Yield (earlier, later, similarity) for every pair of texts at least so similar; positions count from 0.

    A text that stands several times is compared once; its copies are paired with its first place, as 1.0.
    """
    first: dict[frozenset[str], int] = {}
    distinct = []
    for place, text in enumerate(texts):
        grams = trigrams(text)
        if grams in first:
            yield first[grams], place, 1.0
        else:
            first[grams] = place
            distinct.append((place, grams))
    yield from _pairs(distinct, distinct, threshold)


def nearest_texts(texts: Sequence[str], others: Sequence[str], threshold: float) -> dict[int, tuple[int, float]]:
    """Return, for each text with an at least so similar one among the others, that one and the similarity."""
    left = [(place, trigrams(text)) for place, text in enumerate(texts)]
    right = [(place, trigrams(text)) for place, text in enumerate(others)]
    best: dict[int, tuple[int, float]] = {}
    for other, place, similarity in _pairs(right, left, threshold):
        if similarity > best.get(place, (0, -1.0))[1]:
            best[place] = (other, similarity)
    return best


def clusters(texts: Sequence[str], threshold: float, keys: Sequence[Sequence[str]] = ()) -> list[int]:
    """Return a family number for each text: similar ones, and those that share a key, are one family."""
    parents = list(range(len(texts)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    def join(left: int, right: int) -> None:
        low, high = sorted((root(left), root(right)))
        parents[high] = low

    for left, right, _ in similar_pairs(texts, threshold):
        join(left, right)
    holder: dict[str, int] = {}
    for place, names in enumerate(keys):
        for name in names:
            join(holder.setdefault(name, place), place)
    return [root(place) for place in range(len(texts))]


_Grams = Sequence[tuple[int, frozenset[str]]]


def _pairs(indexed: _Grams, probes: _Grams, threshold: float) -> Iterator[Similar]:
    """Yield (indexed, probe, similarity); within one collection each pair once, the earlier first."""
    if not indexed:
        return
    within = indexed is probes
    index = _Index([grams for _, grams in indexed])
    for position, (place, grams) in enumerate(probes):
        for other in index.candidates(grams, threshold):
            if within and other >= position:
                break
            other_place, other_grams = indexed[other]
            shared = len(grams & other_grams)
            similarity = shared / (len(grams) + len(other_grams) - shared)
            if similarity >= threshold:
                yield other_place, place, similarity


class _Index:
    """Which sets hold a gram: `_holders` from `_starts[number]` to `_starts[number + 1]`, for the gram's number."""

    def __init__(self, collection: Sequence[frozenset[str]]) -> None:
        frequency = Counter(gram for grams in collection for gram in grams)
        ordered = sorted(frequency, key=lambda gram: (frequency[gram], gram))
        self._numbers = {gram: number for number, gram in enumerate(ordered)}
        numbers = np.fromiter((self._numbers[gram] for grams in collection for gram in grams), np.int64)
        self._sizes = np.array([len(grams) for grams in collection])
        self._holders = np.repeat(np.arange(len(collection)), self._sizes)[np.argsort(numbers, kind="stable")]
        self._starts = np.concatenate(([0], np.cumsum([frequency[gram] for gram in ordered]))).tolist()

    def candidates(self, grams: frozenset[str], threshold: float) -> list[int]:
        """Return the positions, ascending, of all sets that can be so similar."""
        size = len(grams)
        overlap = math.ceil(threshold * size - ROUNDING)
        needed = max(1, overlap // 2)
        known = sorted(self._numbers[gram] for gram in grams if gram in self._numbers)
        # Grams that no set holds are the rarest of all, and shared with none.
        looked_at = known[: max(0, size - overlap + needed - (size - len(known)))]
        if not looked_at:
            return []
        found = np.concatenate([self._holders[self._starts[gram] : self._starts[gram + 1]] for gram in looked_at])
        enough = np.bincount(found, minlength=len(self._sizes)) >= needed
        fits = (self._sizes >= threshold * size - ROUNDING) & (self._sizes <= size / threshold + ROUNDING)
        positions: list[int] = np.flatnonzero(enough & fits).tolist()
        return positions
