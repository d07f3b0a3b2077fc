"""How new a benchmark question is: its greatest similarity to any training row.

Two measures: shared character trigrams (wording), and the cosine of the router's sentence encoder (meaning). Knows
nothing of hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router import Embedder
from training.dataset import Row, normalise

__all__ = ["COSINE_EDGES", "NOVEL_BELOW", "TRIGRAM_EDGES", "Novelty", "jaccard", "measure_novelty", "trigrams"]

TRIGRAM_EDGES = (0.0, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0)
COSINE_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NOVEL_BELOW = 0.5
"""A question is called novel when its trigram similarity to every training row is below this."""


@dataclass(frozen=True)
class Novelty:
    """Similarities are 0–1, 1 is the same text; `cosine` is None without an encoder."""

    trigram: float
    nearest: str
    cosine: float | None

    @property
    def is_novel(self) -> bool:
        """Tell whether no training row is worded nearly alike."""
        return self.trigram < NOVEL_BELOW


def trigrams(text: str) -> frozenset[str]:
    """Return the character trigrams of a text without case and punctuation, padded at both ends."""
    padded = f"  {normalise(text)}  "
    return frozenset(padded[start : start + 3] for start in range(len(padded) - 2))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the share of common elements, 0–1."""
    return len(left & right) / len(left | right) if left or right else 1.0


def measure_novelty(
    questions: Sequence[str], rows: Sequence[Row], embedder: Embedder | None = None
) -> dict[str, Novelty]:
    """Compare every question with every row's instruction and input.

    Raises:
        EmbeddingError: the encoder failed.
    """
    prompts = [row.prompt for row in rows]
    grams = [trigrams(prompt) for prompt in prompts]
    cosines: list[float | None] = [None] * len(questions)
    if embedder is not None and questions:
        products = embedder.embed(questions) @ embedder.embed(prompts).T
        cosines = [float(value) for value in np.clip(products.max(axis=1), 0.0, 1.0)]
    found = {}
    for question, cosine in zip(questions, cosines, strict=True):
        own = trigrams(question)
        similarity, index = max((jaccard(own, other), -index) for index, other in enumerate(grams))
        found[question] = Novelty(similarity, prompts[-index], cosine)
    return found
