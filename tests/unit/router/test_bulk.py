from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from unit.router.word_embedder import SecondLook, WordEmbedder

from router import BulkEmbedder, EmbeddingError


def test_every_text_is_embedded_once_and_comes_back_in_order(embedder: WordEmbedder) -> None:
    bulk = BulkEmbedder(embedder, workers=2)
    texts = [f"text number {number % 40}" for number in range(100)]
    np.testing.assert_array_equal(bulk.read(texts), WordEmbedder().read(texts))
    np.testing.assert_array_equal(bulk.read(texts[:3]), WordEmbedder().read(texts[:3]))
    assert sum(map(len, embedder.batches)) == 40
    assert threading.get_ident() not in embedder.threads
    assert bulk.embed([]).shape == (0, embedder.dim)


def test_it_gives_the_meaning_and_what_is_read() -> None:
    bulk, texts = BulkEmbedder(SecondLook()), ["one text", "another"]
    np.testing.assert_array_equal(bulk.read(texts), SecondLook().read(texts))
    np.testing.assert_allclose(bulk.embed(texts), WordEmbedder().embed(texts), rtol=1e-5)


def test_it_stands_in_for_the_encoder_it_wraps(embedder: WordEmbedder) -> None:
    bulk = BulkEmbedder(embedder)
    assert (bulk.dim, bulk.width, bulk.fingerprint) == (embedder.dim, embedder.width, embedder.fingerprint)
    assert bulk.normalise(" A  b") == "a b"
    assert bulk.count_tokens(["a b"]) == 2


def test_a_failure_reaches_the_caller(embedder: WordEmbedder) -> None:
    embedder.poison = "poison"
    with pytest.raises(EmbeddingError, match="poison"):
        BulkEmbedder(embedder, workers=2).embed(["fine", "poison"])


def test_what_was_saved_is_not_embedded_again(embedder: WordEmbedder, tmp_path: Path) -> None:
    store = tmp_path / "router" / "vectors.npz"
    first = BulkEmbedder(embedder, store=store)
    vectors = first.embed(["one text", "another", "a third"])
    first.save()
    embedder.batches.clear()
    second = BulkEmbedder(embedder, store=store)
    np.testing.assert_array_equal(second.embed(["a third", "new", "one text"])[[0, 2]], vectors[[2, 0]])
    assert embedder.batches == [["new"]]
    second.save()
    embedder.batches.clear()
    BulkEmbedder(embedder, store=store).embed(["new", "a third", "another", "newer"])
    assert embedder.batches == [["newer"]]


def test_the_store_keeps_what_was_asked_for_last(
    embedder: WordEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.bulk.MOST_STORED", 3)
    store = tmp_path / "vectors.npz"
    for texts in (["oldest", "old"], ["one", "two"], ["three"]):
        bulk = BulkEmbedder(embedder, store=store)
        bulk.embed(texts)
        bulk.save()
    embedder.batches.clear()
    last = BulkEmbedder(embedder, store=store)
    last.embed(["one", "two", "three", "old"])
    assert embedder.batches == [["old"]]
    last.save()
    embedder.batches.clear()
    BulkEmbedder(embedder, store=store).embed(["one", "two", "three", "old"])
    assert embedder.batches == [], "more than are kept were asked for at once"


@pytest.mark.parametrize("damage", ["cut", "other encoder", "other size", "text"])
def test_a_store_that_cannot_be_used_holds_nothing(embedder: WordEmbedder, tmp_path: Path, damage: str) -> None:
    store = tmp_path / "vectors.npz"
    bulk = BulkEmbedder(embedder, store=store)
    vectors = bulk.embed(["one text"])
    bulk.save()
    other = WordEmbedder()
    if damage == "cut":
        store.write_bytes(store.read_bytes()[:-40])
    elif damage == "text":
        store.write_text("not an archive")
    elif damage == "other encoder":
        other.fingerprint = "another"
    else:
        other.width += 1
    again = BulkEmbedder(other, store=store)
    again.embed(["one text"])
    assert other.batches == [["one text"]]
    if damage in {"cut", "text"}:
        again.save()
        np.testing.assert_array_equal(BulkEmbedder(WordEmbedder(), store=store).embed(["one text"]), vectors)
