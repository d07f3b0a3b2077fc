"""An embedder made of words, and small sets of texts for it. No model, no file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cache

import numpy as np

from router.embedding import Vectors
from router.errors import EmbeddingError

DIM = 64
FILLERS = frozenset(["how", "do", "i", "my", "the", "a", "is", "it", "what", "when", "should", "to", "for", "of"])


class WordEmbedder:
    """Sum of one random direction a word, fillers weighing little: texts that share words are close."""

    dim = width = DIM

    def __init__(self, fingerprint: str = "words-1") -> None:
        self.fingerprint = fingerprint
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.poison: str | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def normalise(self, text: str) -> str:
        return " ".join(text.split()).lower()

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(list(texts))
        self.threads.add(threading.get_ident())
        self.started.set()
        assert self.gate.wait(timeout=10)
        if self.poison is not None and any(self.poison in text for text in texts):
            raise EmbeddingError(f"poisoned by {self.poison!r}")
        rows = [sum((_direction(word) for word in _words(text)), start=_direction("")) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), DIM)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def read(self, texts: Sequence[str]) -> Vectors:
        return self.embed(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(len(_words(text)) for text in texts)


class SecondLook(WordEmbedder):
    """Reads the length of a text beside its words."""

    width = DIM + 2

    def read(self, texts: Sequence[str]) -> Vectors:
        lengths = np.array([[np.cos(len(text)), np.sin(len(text))] for text in texts], dtype=np.float32)
        return np.concatenate([super().read(texts), lengths.reshape(-1, 2)], axis=1) / np.float32(2**0.5)


def _words(text: str) -> list[str]:
    return [word.strip("?!.,'").lower() for word in text.split()]


@cache
def _direction(word: str) -> Vectors:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    weight = 0.3 if word in FILLERS or not word else 1.0
    return weight * vector / np.float32(np.linalg.norm(vector))


GARDEN_WORDS = ("rose", "tomato", "compost", "soil", "hedge", "lawn", "seedling", "mulch")
BREAD_WORDS = ("dough", "sourdough", "yeast", "crust", "flour", "loaf", "oven", "proofing")
OTHER_WORDS = ("python", "invoice", "football", "president", "laptop", "passport", "guitar", "tax")
FRAMES = (
    "how do I {0} my {1}",
    "{0} or {1} for the best result",
    "what is {0} {1}",
    "my {0} has a problem with {1}",
    "when should the {1} go into {0}",
    "{1} help with {0}",
    "is {0} {1} worth it",
)


def make_texts(words: Sequence[str], count: int = 56) -> list[str]:
    """Return `count` different texts about pairs of these words."""
    pairs = [(first, second) for first in words for second in words if first != second]
    texts = [FRAMES[index % len(FRAMES)].format(*pair) for index, pair in enumerate(pairs)]
    if count > len(texts):
        raise ValueError(f"{count} texts asked, {len(texts)} can be made")
    return texts[:count]


def examples() -> dict[str, list[str]]:
    """Return two routes of 56 examples."""
    return {"garden": make_texts(GARDEN_WORDS), "bread": make_texts(BREAD_WORDS)}


def negatives() -> list[str]:
    """Return 56 texts that belong to neither."""
    return make_texts(OTHER_WORDS)
