from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from unit.router.word_embedder import WordEmbedder, examples, negatives

from router import ArtifactError, Reference, load_reference


@pytest.fixture
def reference(embedder: WordEmbedder) -> Reference:
    return Reference.build(examples(), negatives(), embedder)


def test_the_nearest_texts_come_first_with_their_labels(reference: Reference, embedder: WordEmbedder) -> None:
    (vector,) = embedder.embed(["compost help with soil"])
    nearest = reference.nearest(vector, 3)
    cosines = reference.vectors @ vector
    assert [row.cosine for row in nearest] == sorted((round(float(c), 4) for c in cosines), reverse=True)[:3]
    assert {row.route for row in nearest} == {"garden"}
    (vector,) = embedder.embed([negatives()[0]])
    assert (reference.nearest(vector, 1)[0].text, reference.nearest(vector, 1)[0].route) == (negatives()[0], None)


def test_saving_and_loading_keeps_texts_labels_and_nearly_the_vectors(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "new" / "examples.npz")
    loaded = load_reference(tmp_path / "new" / "examples.npz")
    assert (loaded.texts, loaded.labels, loaded.embedder) == (reference.texts, reference.labels, reference.embedder)
    np.testing.assert_allclose(loaded.vectors, reference.vectors, atol=1e-3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["examples.npz"]


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04"])
def test_a_damaged_file_is_an_artifact_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "examples.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"examples\.npz"):
        load_reference(path)


def test_another_format_is_refused(reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.reference.FORMAT", 99)
    reference.save(tmp_path / "examples.npz")
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="format 99"):
        load_reference(tmp_path / "examples.npz")
