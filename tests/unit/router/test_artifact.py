from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unit.router.word_embedder import WordEmbedder, examples, negatives

from router import ArtifactError, FittedRouter, RouterError, fit, load_artifact, load_current


def test_a_saved_router_judges_as_before(fitted: FittedRouter, embedder: WordEmbedder, tmp_path: Path) -> None:
    fitted.save(tmp_path / "deep" / "router.npz")
    loaded = load_artifact(tmp_path / "deep" / "router.npz")
    texts = ["prune my rose", "a python laptop", "thanks"]
    vectors = embedder.embed(texts)
    for before, after in zip(fitted.encode(texts, vectors), loaded.encode(texts, vectors), strict=True):
        np.testing.assert_array_equal(before.scores, after.scores)
    assert (loaded.routes, loaded.threshold) == (fitted.routes, fitted.threshold)
    assert (loaded.provenance, loaded.metrics) == (fitted.provenance, fitted.metrics)
    assert loaded.policy.continuation.threshold == fitted.policy.continuation.threshold


def test_saving_leaves_nothing_but_the_file(fitted: FittedRouter, tmp_path: Path) -> None:
    for _ in range(2):
        fitted.save(tmp_path / "router.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["router.npz"]


def test_the_file_holds_no_pickle(fitted: FittedRouter, tmp_path: Path) -> None:
    fitted.save(tmp_path / "router.npz")
    with np.load(tmp_path / "router.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


def write_garbage(path: Path) -> None:
    path.write_bytes(b"not a router")


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def flip_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 50] = bytes(byte ^ 0xFF for byte in data[middle : middle + 50])
    path.write_bytes(bytes(data))


def drop_an_array(path: Path) -> None:
    rewrite(path, lambda arrays: arrays.pop("duals"))


def drop_the_words(path: Path) -> None:
    rewrite(path, lambda arrays: arrays.pop("lexical_weights"))


def cut_the_words(path: Path) -> None:
    rewrite(path, lambda arrays: arrays.update(lexical_weights=arrays["lexical_weights"][:, :100]))


def drop_the_meta(path: Path) -> None:
    rewrite(path, lambda arrays: arrays.pop("meta"))


def raise_the_format(path: Path) -> None:
    def edit(arrays: dict[str, np.ndarray]) -> None:
        meta = json.loads(arrays["meta"].tobytes())
        arrays["meta"] = np.frombuffer(json.dumps(meta | {"format": 99}).encode(), dtype=np.uint8)

    rewrite(path, edit)


def rewrite(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    edit(arrays)
    np.savez(path, **arrays)


def delete(path: Path) -> None:
    path.unlink()


DAMAGES = [
    delete, write_empty, write_garbage, truncate, flip_bytes, drop_an_array, drop_the_words,
    cut_the_words, drop_the_meta, raise_the_format,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_artifact_error_that_names_it(
    fitted: FittedRouter, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "router.npz"
    fitted.save(path)
    damage(path)
    with pytest.raises(ArtifactError, match=r"router\.npz"):
        load_artifact(path)


def small_examples() -> dict[str, list[str]]:
    return {route: texts[:12] for route, texts in examples().items()}


def test_a_router_is_current_for_the_input_that_it_was_fitted_on(embedder: WordEmbedder, tmp_path: Path) -> None:
    path, texts, outside = tmp_path / "router.npz", small_examples(), negatives()[:12]
    assert load_current(path, texts, outside, embedder) is None
    first = fit(texts, outside, embedder)
    first.save(path)
    embedder.batches.clear()
    second = load_current(path, texts, outside, embedder)
    assert second is not None
    assert second.provenance == first.provenance
    assert embedder.batches == []


def test_no_router_is_current_once_our_own_texts_have_changed(embedder: WordEmbedder, tmp_path: Path) -> None:
    path, texts, outside = tmp_path / "router.npz", small_examples(), negatives()[:12]
    fitted = fit(texts, outside, embedder)
    replace(fitted, provenance=replace(fitted.provenance, taught="of other follow-ups")).save(path)
    assert load_current(path, texts, outside, embedder) is None


def test_a_damaged_file_is_not_current(embedder: WordEmbedder, tmp_path: Path) -> None:
    path = tmp_path / "router.npz"
    path.write_bytes(b"PK nonsense")
    assert load_current(path, small_examples(), [], embedder) is None


@pytest.mark.parametrize(
    "changed",
    [
        "nothing",
        "an example",
        "a new route",
        "negatives",
        "encoder",
        "seed",
        "max_false_abstain",
        "passages",
        "further",
    ],
)
def test_no_router_is_current_after_any_change_of_the_input(tmp_path: Path, changed: str) -> None:
    path, texts, outside = tmp_path / "router.npz", small_examples(), negatives()[:12]
    fit(texts, outside, WordEmbedder()).save(path)
    if changed == "an example":
        texts["bread"][3] = "an entirely new sourdough text"
    if changed == "a new route":
        texts["guitar"] = ["tune my guitar", "guitar strings snapped"]
    if changed == "negatives":
        outside = outside[:-1]
    stored = load_current(
        path,
        texts,
        outside,
        WordEmbedder("words-2" if changed == "encoder" else "words-1"),
        passages={"bread": ["an answer about dough"]} if changed == "passages" else None,
        further={"bread": ["which tin for a panettone"]} if changed == "further" else None,
        seed=1 if changed == "seed" else 0,
        max_false_abstain=0.1 if changed == "max_false_abstain" else 0.05,
    )
    assert (stored is not None) == (changed == "nothing")


def test_thresholds_of_single_routes_hold_for_them_alone_and_are_not_saved(
    fitted: FittedRouter, tmp_path: Path
) -> None:
    strict = fitted.with_thresholds({"bread": 0.99, "unknown": 0.5})
    assert [strict.policy.threshold_of(route) for route in range(2)] == [0.99, fitted.threshold]
    strict.save(tmp_path / "router.npz")
    assert load_artifact(tmp_path / "router.npz").policy.threshold_of(0) == fitted.threshold


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan")])
def test_an_impossible_threshold_is_refused(fitted: FittedRouter, value: float) -> None:
    with pytest.raises(RouterError, match="threshold of 'bread'"):
        fitted.with_thresholds({"bread": value})
