"""What the benchmark's router reads: each text is embedded once, whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gateway.settings import Settings
from router.embedding import Vectors
from training.routed import FALSE_ABSTAIN, RememberingEmbedder


class CountingEmbedder:
    """Two numbers a text; remembers what it was asked."""

    dim = 2
    fingerprint = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        return np.array([[len(text), 1] for text in texts], dtype=np.float32).reshape(-1, 2)

    def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(map(len, texts))


def test_a_text_is_embedded_once_and_keeps_its_place() -> None:
    counting = CountingEmbedder()
    remembering = RememberingEmbedder(counting)
    first = remembering.embed(["tea", "milk", "tea"])
    again = remembering.embed(["milk", "sugar", "tea"])
    assert counting.asked == ["tea", "milk", "sugar"]
    assert first[:, 0].tolist() == [3, 4, 3]
    assert again[:, 0].tolist() == [4, 5, 3]
    assert remembering.embed([]).shape == (0, 2)
    assert (remembering.dim, remembering.fingerprint, remembering.count_tokens(["ab"])) == (2, "counting", 2)


def test_the_router_abstains_as_often_as_the_gateways() -> None:
    assert Settings().router.false_abstain == FALSE_ABSTAIN
