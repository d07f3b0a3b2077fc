"""The encoder's directory and cache. No model: the real one is compared with its source in the integration test."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import EmbeddingError, OnnxEmbedder, ensure_encoder, export
from router.embedding import CHARACTERS_PER_TOKEN, FORMAT, MANIFEST, MODEL, TOKENIZER, _folds_case, _group, hash_file
from router.quantise import PARITY_TEXTS, Observed

EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "is not an exported encoder"),
    "no model": (lambda folder: (folder / MODEL).unlink(), "is not an exported encoder"),
    "changed model": (lambda folder: (folder / MODEL).write_bytes(b"other weights"), "model.onnx is damaged"),
    "changed tokenizer": (lambda folder: (folder / TOKENIZER).write_text("{}"), "tokenizer.json is damaged"),
    "broken manifest": (lambda folder: (folder / MANIFEST).write_text("{"), "is not an exported encoder"),
    "other format": (lambda folder: edit_manifest(folder, format=99), "has format 99"),
    "no files listed": (lambda folder: edit_manifest(folder, files={}), "is damaged"),
    "not a model": (lambda folder: None, "cannot be loaded"),
}


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the right shape and no real model in it."""
    (tmp_path / MODEL).write_bytes(b"weights")
    (tmp_path / TOKENIZER).write_text("tokens")
    files = {name: hash_file(tmp_path / name) for name in (MODEL, TOKENIZER)}
    (tmp_path / MANIFEST).write_text(
        json.dumps({"format": FORMAT, "dim": 4, "width": 8, "max_tokens": 16, "files": files})
    )
    return tmp_path


@pytest.mark.parametrize("name", EDITS)
def test_a_damaged_directory_is_an_embedding_error(folder: Path, name: str) -> None:
    edit, message = EDITS[name]
    edit(folder)
    with pytest.raises(EmbeddingError, match=f"{folder.name}.*{message}"):
        OnnxEmbedder(folder)


@pytest.mark.parametrize(("finetuned", "remedy"), [(False, "export it again"), (True, "fine-tune it again")])
def test_one_of_another_format_says_how_to_make_it_again(folder: Path, finetuned: bool, remedy: str) -> None:
    edit_manifest(folder, format=FORMAT - 1, finetuned=finetuned)
    with pytest.raises(EmbeddingError, match=remedy):
        OnnxEmbedder(folder)


def test_an_exported_directory_is_used_as_it_is(folder: Path, tmp_path: Path) -> None:
    assert ensure_encoder(folder, tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


def test_a_source_that_cannot_be_exported_is_an_embedding_error_that_names_it(tmp_path: Path) -> None:
    source = tmp_path / "no-model"
    source.mkdir()
    with pytest.raises(EmbeddingError, match="no-model"):
        ensure_encoder(source, tmp_path / "cache", timeout_s=0.01)


def test_an_export_can_be_ended(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(EmbeddingError, match=r"exporting encoder .*source' failed: exit code -9"):
        ensure_encoder(tmp_path / "source", tmp_path / "cache", begun=lambda end: end())


@pytest.mark.integration
def test_the_exported_encoder_agrees_with_sentence_transformers_in_any_batch(encoder_dir: Path) -> None:
    embedder = OnnxEmbedder(encoder_dir)
    texts = ["hi", "How do I prune a climbing rose in late winter?", "", "word " * 2000]
    vectors = embedder.embed(texts)
    assert vectors.shape == (4, embedder.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    others = embedder.embed([*PARITY_TEXTS, *texts])[-len(texts) :]  # an own range would move a vector by 0.01
    for text, *found in zip(texts, vectors, others, strict=True):
        np.testing.assert_allclose(found, embedder.embed([text] * 2), atol=2e-6)
    assert embedder.count_tokens(texts[-1:]) == embedder.max_tokens
    assert embedder.embed([]).shape == (0, embedder.dim)
    near, far = embedder.embed(["When should roses be cut back?", "My laptop does not start."])
    assert vectors[1] @ near > vectors[1] @ far + 0.3
    read = embedder.read(texts)
    assert read.shape == (4, embedder.width) == (4, 2 * embedder.dim)
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(read[:, : embedder.dim] * 2**0.5, vectors, atol=2e-6)
    assert embedder.read([]).shape == (0, embedder.width)
    manifest = json.loads((encoder_dir / MANIFEST).read_text())
    assert manifest["parity"]["mean"] >= 0.98
    assert manifest["fused"] is True


@pytest.mark.integration
def test_a_text_is_read_by_the_middle_of_the_layers_too(encoder_source: Path, encoder_dir: Path) -> None:
    model = export.load_source(encoder_source)
    embedder = OnnxEmbedder(encoder_dir)
    texts = ["how long for a boule", "and in fahrenheit?"]
    middle = embedder.read(texts)[:, embedder.dim :] * 2**0.5
    for text, found in zip(texts, middle, strict=True):
        batch = model.tokenizer([text], return_tensors="pt")
        layers = model[0].auto_model(**batch, output_hidden_states=True).hidden_states
        expected = [layer[0].mean(dim=0).detach().numpy() for layer in layers]
        cosines = [found @ layer / np.linalg.norm(layer) for layer in expected]
        assert len(cosines) == 7  # what the six layers are given, and what each makes of it
        assert cosines[3] == max(cosines) > 0.98


@pytest.mark.integration
@pytest.mark.parametrize("shown", [True, False])
def test_an_encoder_whose_layers_tell_nothing_is_read_by_its_embedding_alone(
    encoder_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    load_source = export.load_source

    def load_closed(source: Path) -> Any:
        model = load_source(source)
        forward = model[0].forward

        def hide(features: dict[str, Any], **options: Any) -> dict[str, Any]:
            return {name: value for name, value in forward(features).items() if name != "all_layer_embeddings"}

        model[0].forward = hide
        return model

    if shown:
        monkeypatch.setattr(export, "MAX_ALIKE", 0.3)
    else:
        monkeypatch.setattr(export, "load_source", load_closed)
    export.export_onnx(encoder_source, tmp_path / "encoder")
    embedder = OnnxEmbedder(tmp_path / "encoder")
    assert embedder.width == embedder.dim == 384
    text = ["How do I prune a climbing rose in late winter?"]
    np.testing.assert_allclose(embedder.read(text), embedder.embed(text), atol=1e-6)


@pytest.mark.integration
def test_a_graph_that_cannot_be_fused_is_exported_as_it_is(
    encoder_source: Path, encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("no such graph")

    monkeypatch.setattr("onnxruntime.transformers.optimizer.optimize_model", refuse)
    export.export_onnx(encoder_source, tmp_path / "encoder")
    manifest = json.loads((tmp_path / "encoder" / MANIFEST).read_text())
    assert (manifest["fused"], manifest["quantisation"]) == (False, "int8, fixed ranges")
    text = ["How do I prune a climbing rose in late winter?"]
    plain, fused = (OnnxEmbedder(folder).embed(text)[0] for folder in (tmp_path / "encoder", encoder_dir))
    assert plain @ fused > 0.98


@pytest.mark.integration
def test_an_encoder_with_a_layer_behind_its_pooling_is_quantised_too(encoder_source: Path, tmp_path: Path) -> None:
    from sentence_transformers.models import Dense

    model = export.load_source(encoder_source)
    model.insert(2, Dense(384, 96))
    model.save(str(tmp_path / "source"))
    export.export_onnx(tmp_path / "source", tmp_path / "encoder")
    manifest = json.loads((tmp_path / "encoder" / MANIFEST).read_text())
    assert (manifest["quantisation"], manifest["dim"], manifest["width"]) == ("int8, fixed ranges", 96, 96 + 384)


@pytest.mark.integration
@pytest.mark.parametrize("other_too", [False, True])
def test_an_encoder_that_int8_spoils_is_kept_in_float32_or_refused(
    encoder_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    other_too: bool,
) -> None:
    import onnx

    def spoil(source: Path, target: Path, *given: object) -> None:
        model = onnx.load(str(source))
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))  # of the words
        weights.raw_data = np.random.default_rng(0).permutation(np.frombuffer(weights.raw_data, "<f4")).tobytes()
        onnx.save(model, str(target))
        if other_too:
            onnx.save(model, str(source))

    monkeypatch.setattr(export, "quantise", spoil)
    monkeypatch.setattr(export, "observe", lambda *given, **options: Observed({}, {}))
    if other_too:
        with pytest.raises(EmbeddingError, match=r"differs from its source: mean cosine .* \(allowed: 0\.98 or more\)"):
            export.export_onnx(encoder_source, tmp_path / "encoder")
        assert list(tmp_path.iterdir()) == []
        return
    export.export_onnx(encoder_source, tmp_path / "encoder")
    manifest = json.loads((tmp_path / "encoder" / MANIFEST).read_text())
    assert manifest["quantisation"].startswith("none, since with int8: mean cosine 0.")
    assert manifest["parity"]["lowest"] > 0.999
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == sorted([MANIFEST, MODEL, TOKENIZER])
    with caplog.at_level("INFO", "pointsman.router"):
        assert OnnxEmbedder(tmp_path / "encoder").dim == manifest["dim"]
    assert "not quantised" in caplog.text


@pytest.mark.integration
@pytest.mark.parametrize("step", ["observe", "quantise"])
def test_an_encoder_that_cannot_be_quantised_is_kept_in_float32(
    encoder_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Unforeseen(Exception):
        """As ONNX Runtime's own: of no kind that we know."""

    def fail(*given: object, **options: object) -> None:
        raise Unforeseen("no such type")

    monkeypatch.setattr(export, step, fail)
    export.export_onnx(encoder_source, tmp_path / "encoder")
    manifest = json.loads((tmp_path / "encoder" / MANIFEST).read_text())
    assert manifest["quantisation"] == "none, since with int8: no such type"


@pytest.mark.integration
def test_of_an_encoder_that_int8_spoils_only_the_noisy_weights_stay_in_float32(
    encoder_source: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    """A channel a hundred times as large as its neighbours leaves these next to nothing of 255 steps."""
    import torch

    model = export.load_source(encoder_source)
    with torch.no_grad():
        for layer in model[0].auto_model.encoder.layer:
            value, output = layer.attention.self.value, layer.attention.output.dense
            value.weight[::64] *= 200
            value.bias[::64] *= 200
            output.weight[:, ::64] /= 200  # the same function
    model.save(str(tmp_path / "source"))
    export.export_onnx(tmp_path / "source", tmp_path / "encoder")
    manifest = json.loads((tmp_path / "encoder" / MANIFEST).read_text())
    spared = re.fullmatch(r"int8, fixed ranges, but for (\d+) weights", manifest["quantisation"])
    assert spared, manifest
    assert 6 <= int(spared[1]) < 12  # each layer's output of attention, and some that are noisy by nature
    texts = ["How do I prune a climbing rose in late winter?", "my back tyre keeps going flat"]
    cosines = np.sum(OnnxEmbedder(tmp_path / "encoder").embed(texts) * OnnxEmbedder(encoder_dir).embed(texts), axis=1)
    assert cosines.min() > 0.97
    sizes = [(folder / MODEL).stat().st_size for folder in (encoder_dir, tmp_path / "encoder")]
    assert sizes[0] < sizes[1] < 1.5 * sizes[0]


def test_texts_of_like_lengths_are_read_together() -> None:
    lengths = [3, 200, 10, 12, 11, 130, 130, 300]
    groups = _group([[1] * length for length in lengths])
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert [[lengths[row] for row in group] for group in groups] == [[3, 10, 11, 12], [130], [130], [200], [300]]
    assert _group([]) == []


@pytest.mark.integration
def test_a_text_read_by_several_threads_has_the_same_vector(encoder_dir: Path) -> None:
    alone, together = OnnxEmbedder(encoder_dir), OnnxEmbedder(encoder_dir, threads=3)
    for text in ("hi", "How do I prune a climbing rose in late winter?", "many words of all kinds " * 80):
        np.testing.assert_array_equal(together.embed([text]), alone.embed([text]))


@pytest.mark.integration
def test_a_long_text_is_read_at_its_head_and_tail(encoder_dir: Path) -> None:
    embedder = OnnxEmbedder(encoder_dir)
    filler = "the quarterly report lists several numbers and names " * 200
    question = "Which fertiliser suits my tomato plants?"
    reference, before, after, without = embedder.embed([question, question + filler, filler + question, filler])
    assert min(reference @ before, reference @ after) > reference @ without + 0.05


@pytest.mark.integration
def test_texts_that_are_read_alike_have_the_same_vector(encoder_dir: Path) -> None:
    embedder = OnnxEmbedder(encoder_dir)
    plain, typed = embedder.embed(["how do i prune a rose", "  How do I\n\tprune a ROSE "])
    np.testing.assert_array_equal(plain, typed)
    assert embedder.normalise("  How do I\n\tprune a ROSE ") == "how do i prune a rose"


@pytest.mark.integration
def test_of_a_pasted_book_no_more_than_can_be_read_is_tokenised(encoder_dir: Path) -> None:
    embedder = OnnxEmbedder(encoder_dir)
    chapter = "the quarterly report lists several numbers and names " * 50_000
    book = f"which fertiliser suits my tomato plants {chapter} which fertiliser suits my tomato plants"
    assert len(embedder.normalise(book)) <= embedder.max_tokens * CHARACTERS_PER_TOKEN + 1
    assert embedder.count_tokens([book]) == embedder.max_tokens
    whole, shortened = embedder.embed([book, f"{book[:5000]} {book[-5000:]}"])
    np.testing.assert_array_equal(whole, shortened)


@pytest.mark.parametrize(
    ("normaliser", "folds"),
    [
        (None, False),
        ({"type": "BertNormalizer", "lowercase": True}, True),
        ({"type": "BertNormalizer", "lowercase": False}, False),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, False),
    ],
)
def test_case_is_folded_where_the_tokenizer_folds_it(normaliser: object, folds: bool) -> None:
    assert _folds_case(normaliser) is folds
