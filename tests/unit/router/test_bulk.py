from __future__ import annotations

import threading

import numpy as np
import pytest
from unit.router.word_embedder import WordEmbedder

from router import BulkEmbedder, EmbeddingError


def test_every_text_is_embedded_once_and_comes_back_in_order(embedder: WordEmbedder) -> None:
    bulk = BulkEmbedder(embedder, workers=2)
    texts = [f"text number {number % 40}" for number in range(100)]
    np.testing.assert_array_equal(bulk.embed(texts), WordEmbedder().embed(texts))
    np.testing.assert_array_equal(bulk.embed(texts[:3]), WordEmbedder().embed(texts[:3]))
    assert sum(map(len, embedder.batches)) == 40
    assert threading.get_ident() not in embedder.threads
    assert bulk.embed([]).shape == (0, embedder.dim)


def test_it_stands_in_for_the_encoder_it_wraps(embedder: WordEmbedder) -> None:
    bulk = BulkEmbedder(embedder)
    assert (bulk.dim, bulk.fingerprint) == (embedder.dim, embedder.fingerprint)
    assert bulk.normalise(" A  b") == "a b"
    assert bulk.count_tokens(["a b"]) == 2


def test_a_failure_reaches_the_caller(embedder: WordEmbedder) -> None:
    embedder.poison = "poison"
    with pytest.raises(EmbeddingError, match="poison"):
        BulkEmbedder(embedder, workers=2).embed(["fine", "poison"])
