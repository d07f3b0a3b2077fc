"""Texts -> evidence per route from the words they are made of. Numpy only, except while fitting.

A sentence encoder hardly tells one rare word from another ("derailleur", "Bahtinov"), though such a word can settle
the topic. Here a text is a sparse vector of hashed words and hashed pieces of words: tf-idf with sublinear tf, each of
the two blocks of unit length, judged by one logistic regression over the routes and "no route". Knows nothing of
encoders, nor of how its evidence is weighed.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from router.classifier import OUTSIDE, Evidence, Indices, log_odds, soft_max

Weights = npt.NDArray[np.float16]
Values = npt.NDArray[np.float32]
Counted = tuple[Indices, Indices]
"""The buckets of a text, ascending, and how often each occurs in it."""


N_WORD_BUCKETS = 2**15
N_BUCKETS = N_WORD_BUCKETS + 2**16
"""Words come first, pieces after them."""

PIECE_LENGTHS = (3, 4, 5)
MAX_WORD_CHARACTERS = 32
MAX_CHARACTERS = 4000
"""Of a longer text, head and tail are read, half each."""

REGULARISATION_C = 5.0
MAX_ITERATIONS = 20
"""Short of convergence; measured out of fold, more of them separate no better."""

AT_ONCE = 64
"""Texts that are weighed together: of a thousand long ones the weights alone would take gigabytes."""

ABSENT_LOGIT = -30.0
MARK_SHARE, MARK_SHARE_ELSEWHERE = 0.6, 0.1
MIN_PASSAGES = 20
"""Of fewer passages, the share that holds a word says nothing about their style."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class Lexical:
    """Fitted arrays; half precision, so that the file stays near 1 MB and loading gives back what was fitted."""

    rarities: Weights
    """[n_buckets], inverse document frequency; what was never seen is rarest, so that it dilutes the rest of a text."""

    weights: Weights
    """[n_routes + 1, n_buckets], "no route" last."""

    biases: npt.NDArray[np.float32]
    """[n_routes + 1]."""

    @property
    def n_routes(self) -> int:
        """Number of routes."""
        return len(self.biases) - 1

    def evidence(self, texts: Sequence[str]) -> Evidence:
        """Return the log-odds of each route: float64 [n_texts, n_routes], finite."""
        pieces = [self._logits(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
        logits = np.concatenate([np.empty((0, len(self.biases))), *pieces])
        return log_odds(soft_max(logits + self.biases)[:, :-1])

    def _logits(self, texts: Sequence[str]) -> Evidence:
        buckets, counts, bounds = _count_together(texts)
        values = _weigh(buckets, counts, bounds, self.rarities)
        weights = self.weights[:, buckets].astype(np.float32)
        logits = np.empty((len(texts), len(self.biases)))
        for row, (start, end) in enumerate(zip(bounds[:-1:2], bounds[2::2], strict=True)):
            logits[row] = weights[:, start:end] @ values[start:end]
        return logits

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return every array by name, for `from_arrays`."""
        return {f"lexical_{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Lexical:
        """Rebuild from `to_arrays`.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays do not belong together.
        """
        lexical = cls(**{field.name: arrays[f"lexical_{field.name}"] for field in fields(cls)})  # type: ignore[arg-type]
        if lexical.rarities.shape != (N_BUCKETS,) or lexical.weights.shape != (len(lexical.biases), N_BUCKETS):
            raise ValueError(f"lexical weights of shape {lexical.weights.shape}, {N_BUCKETS} buckets are expected")
        return lexical


def fit_lexical(counted: Sequence[Counted], labels: Indices) -> Lexical:
    """Fit on texts, as `count_buckets` returned them, labelled by route or `OUTSIDE`."""
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    rarities = _measure_rarities([buckets for buckets, _ in counted])
    weights = np.zeros((int(labels.max()) + 2, N_BUCKETS), dtype=np.float16)
    biases = np.full(len(weights), ABSENT_LOGIT, dtype=np.float32)
    present = np.unique(labels)
    rows_of_weights = np.where(present == OUTSIDE, len(weights) - 1, present)
    if len(present) == 1:
        biases[rows_of_weights] = 0.0
        return Lexical(rarities, weights, biases)
    buckets, counts, bounds = _put_together(counted)
    values = _weigh(buckets, counts, bounds, rarities)
    known = np.flatnonzero(np.bincount(buckets, minlength=N_BUCKETS))
    # 32-bit indices and values halve the time of the fit.
    columns = np.zeros(N_BUCKETS, dtype=np.int32)
    columns[known] = np.arange(len(known))
    matrix = csr_matrix(
        (values, columns[buckets], np.array(bounds[::2], dtype=np.int32)), shape=(len(counted), len(known))
    )
    model: Any = LogisticRegression(C=REGULARISATION_C, class_weight="balanced", max_iter=MAX_ITERATIONS)
    model.fit(matrix, labels)
    found, offsets = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn keeps the second of two classes only
        found, offsets = np.concatenate([np.zeros_like(found), found]), np.concatenate([[0.0], offsets])
    weights[rows_of_weights[:, None], known] = found
    biases[rows_of_weights] = offsets
    return Lexical(rarities, weights, biases)


def weigh_features(text: str, rarities: Weights) -> tuple[Indices, Values]:
    """Return the buckets of a text, ascending, and their values; words and pieces of unit length each."""
    buckets, counts, bounds = _count_together([text])
    return buckets, _weigh(buckets, counts, bounds, rarities)


def count_buckets(text: str) -> Counted:
    """Return the buckets of a text, ascending, and how often each occurs."""
    buckets, counts, _ = _count_together([text])
    return buckets, counts


def drop_marks(passages: Sequence[tuple[str, str | None]]) -> list[str]:
    """Return passages without the words that mark their style rather than their topic.

    Such a word stands in nearly every passage of one route and hardly any of the others: what its author signs with,
    not what people ask.
    """
    words_by_route: dict[str | None, list[set[str]]] = {}
    for text, route in passages:
        words_by_route.setdefault(route, []).append(set(_words(text)))
    shares: dict[str, list[float]] = {}
    for texts in words_by_route.values():
        if len(texts) >= MIN_PASSAGES:
            for word, count in Counter(word for words in texts for word in words).items():
                shares.setdefault(word, []).append(count / len(texts))
    marks = {
        word
        for word, found in shares.items()
        if max(found) > MARK_SHARE and sum(share > MARK_SHARE_ELSEWHERE for share in found) == 1
    }
    return [" ".join(word for word in _words(text) if word not in marks) for text, _ in passages]


def _words(text: str) -> list[str]:
    if len(text) > MAX_CHARACTERS:
        text = f"{text[: MAX_CHARACTERS // 2]} {text[-MAX_CHARACTERS // 2 :]}"
    return [word[:MAX_WORD_CHARACTERS] for word in _WORD.findall(text.lower())]


@lru_cache(maxsize=2**14)
def _word_buckets(word: str) -> Indices:
    """Return the bucket of a word and of each piece of it; a space stands at both ends."""
    padded = f" {word} "
    pieces = [padded[at : at + size] for size in PIECE_LENGTHS for at in range(len(padded) - size + 1)]
    hashed = [N_WORD_BUCKETS + _hash(piece) % (N_BUCKETS - N_WORD_BUCKETS) for piece in pieces]
    return np.array([_hash(word) % N_WORD_BUCKETS, *hashed], dtype=np.int64)


def _hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def _measure_rarities(texts: Sequence[Indices]) -> Weights:
    """Return idf as scikit-learn smooths it; what occurs in no text is rarest."""
    holding = np.bincount(np.concatenate(texts), minlength=N_BUCKETS)
    return (np.log((1 + len(texts)) / (1 + holding)) + 1).astype(np.float16)


def _count_together(texts: Sequence[str]) -> tuple[Indices, Indices, list[int]]:
    """Do `count_buckets` for many texts: buckets and counts of all, and `_bounds`."""
    found = [np.empty(0, dtype=np.int64)]
    for row, text in enumerate(texts):
        found += [_word_buckets(word) + row * N_BUCKETS for word in _words(text)]
    numbered = np.concatenate(found)
    numbered.sort()
    begins = np.ones(len(numbered), dtype=np.bool_)
    np.not_equal(numbered[1:], numbered[:-1], out=begins[1:])
    first = begins.nonzero()[0]
    counts = np.full(len(first), len(numbered))
    counts[:-1] = first[1:]
    counts -= first
    numbered = numbered[first]
    return numbered % N_BUCKETS, counts, _bounds(numbered, len(texts))


def _put_together(counted: Sequence[Counted]) -> tuple[Indices, Indices, list[int]]:
    """Return what `_count_together` does, of texts that are counted."""
    buckets, counts = (np.concatenate(part) for part in zip(*counted, strict=True))
    rows = np.repeat(np.arange(len(counted)), [len(found) for found, _ in counted])
    return buckets, counts, _bounds(buckets + rows * N_BUCKETS, len(counted))


def _bounds(numbered: Indices, n_texts: int) -> list[int]:
    """Return where the words of each text start, and where its pieces do, and the end of all: [2 n_texts + 1].

    Args:
        numbered: buckets, plus `N_BUCKETS` times the number of the text; ascending.
    """
    edges = [row * N_BUCKETS + start for row in range(n_texts) for start in (0, N_WORD_BUCKETS)]
    found: list[int] = np.searchsorted(numbered, [*edges, n_texts * N_BUCKETS]).tolist()
    return found


def _weigh(buckets: Indices, counts: Indices, bounds: Sequence[int], rarities: Weights) -> Values:
    """Return the value of every bucket of some texts."""
    values: Values = (1 + np.log(counts)).astype(np.float32) * rarities[buckets]
    for start, end in pairwise(bounds):
        block = values[start:end]
        block /= max(sqrt(block @ block), 1e-12)
    return values
