"""Mistakes in experts' files are found without opening an encoder or fitting a router."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.fakes import write_expert_files
from unit.router.word_embedder import WordEmbedder, examples, negatives

from gateway.errors import ConfigError
from gateway.experts import Expert, load_expert
from gateway.routing import RouterFactory, Source, draw_passages
from gateway.routing import _keep_newest as keep_newest
from router import ApartFitter, FittedRouter, Reference, fit
from router.embedding import Vectors


@pytest.fixture
def factory(tmp_path: Path) -> RouterFactory:
    return RouterFactory("/no/such/encoder", None, tmp_path / "cache")


@pytest.fixture
def expert(tmp_path: Path) -> Callable[..., Expert]:
    def write(name: str, *texts: str) -> Expert:
        folder = write_expert_files(tmp_path, name)
        loaded = load_expert(folder, None)
        (folder / "examples.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return loaded

    return write


def test_good_files_pass(factory: RouterFactory, expert: Callable[..., Expert]) -> None:
    factory.check([expert("baking", "bake bread", "knead dough"), expert("cycling", "true a wheel", "fix a chain")])
    factory.check([])


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (("fix a chain", "Bake  bread"), "'Bake  bread' stands under both route 'baking' and route 'cycling'"),
        (("fix a chain",), "'cycling' has 1 different examples, at least 2 are needed"),
        (("fix a chain", ""), "line 2"),
    ],
)
def test_a_mistake_is_named(
    factory: RouterFactory, expert: Callable[..., Expert], texts: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        factory.check([expert("baking", "bake bread", "knead dough"), expert("cycling", *texts)])


def test_of_many_answers_the_same_part_teaches_whatever_the_others_are() -> None:
    answers = [f"answer {number}" for number in range(400)]
    drawn = draw_passages(answers)
    assert len(drawn) == len(set(drawn)) == 150
    assert draw_passages([*reversed(answers), *answers]) == drawn
    kept = draw_passages(answers[1:])
    assert len(set(drawn) - set(kept)) == (answers[0] in drawn)


def test_what_cannot_be_prepared_is_said_by_what_needs_it(
    factory: RouterFactory, expert: Callable[..., Expert], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Source, **_: Any) -> None:
        raise ConfigError("router: the encoder is gone")

    monkeypatch.setattr(factory, "fit_on", fail)
    experts = [expert("baking", "bake bread", "knead dough")]
    factory.prepare(experts)
    with pytest.raises(ConfigError, match="the encoder is gone"):
        factory.build(experts)


def test_the_last_fitted_routers_are_kept_and_no_more(tmp_path: Path) -> None:
    vectors = tmp_path / "vectors.npz"
    vectors.touch()
    for age in range(10):
        for ending in ("npz", "examples.npz"):
            path = tmp_path / f"{age:016}.{ending}"
            path.touch()
            os.utime(path, (1000 - age, 1000 - age))
    keep_newest(tmp_path)
    kept = {f"{age:016}.{ending}" for age in range(8) for ending in ("npz", "examples.npz")}
    assert {path.name for path in tmp_path.iterdir()} == kept | {"vectors.npz"}


def test_who_waits_for_a_fit_of_the_same_finds_it_done(
    factory: RouterFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A reload that is tried again while the fit of the one that failed goes on."""
    embedder, fits = WordEmbedder(), list[int]()

    def fit_once(self: ApartFitter, *texts: Any, **_: Any) -> tuple[FittedRouter, Reference]:
        fits.append(1)
        time.sleep(0.2)
        return fit(texts[0], texts[1], embedder), Reference.build(texts[0], texts[1], embedder)

    monkeypatch.setattr(factory, "encoder_to_fit", lambda encoder: embedder)
    monkeypatch.setattr(ApartFitter, "fit", fit_once)
    source = Source(examples(), negatives())
    with ThreadPoolExecutor(3) as threads:
        found = [router for router, _ in threads.map(factory.fit_on, [source] * 3)]
    assert len(fits) == 1
    assert len({router.threshold for router in found}) == 1
    monkeypatch.setattr("gateway.routing._KEPT_ROUTERS", 1)
    factory.fit_on(Source(examples(), negatives()[1:]))
    assert len(list((tmp_path / "cache" / "router").glob("*.examples.npz"))) == 1


class WideEmbedder(WordEmbedder):
    """The same directions in twice as many dimensions."""

    dim = width = 2 * WordEmbedder.dim

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = super().embed(texts)
        return np.concatenate([np.zeros_like(vectors), vectors], axis=1)


async def test_a_second_encoder_makes_a_second_router_for_what_the_first_leaves_in_doubt(
    expert: Callable[..., Expert], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "outside.jsonl"
    outside.write_text("".join(json.dumps({"text": text}) + "\n" for text in negatives()))
    embedders = {"quick": WordEmbedder("quick"), "thorough": WideEmbedder("thorough"), "same": WordEmbedder("quick")}
    factory = RouterFactory("quick", outside, tmp_path / "cache", second_encoder="thorough")
    fits = list[str]()

    def fit_here(
        self: ApartFitter, texts: Any, others: Any, embedder: WordEmbedder, **given: Any
    ) -> tuple[FittedRouter, Reference]:
        fits.append(embedder.fingerprint)
        kept = {name: given[name] for name in ("passages", "further", "max_false_abstain")}
        return fit(texts, others, embedder, **kept), Reference.build(texts, others, embedder)

    opened = list[str]()

    def open_encoder(name: str) -> WordEmbedder:
        opened.append(name)
        return embedders[name]

    monkeypatch.setattr(factory, "open_encoder", open_encoder)
    monkeypatch.setattr(WordEmbedder, "finetuned", False, raising=False)
    monkeypatch.setattr(ApartFitter, "fit", fit_here)
    monkeypatch.setattr("gateway.routing.read_rows", lambda path: ([], []))
    experts = [expert(name, *texts[:45]) for name, texts in examples().items()]  # so few that a fit warns
    experts = [replace(one, manifest=one.manifest.model_copy(update={"threshold": 0.2})) for one in experts]
    with caplog.at_level("WARNING"):
        factory.prepare(experts)
        first = factory.build(experts, complete=False)
        assert (fits, set(opened)) == (["quick"], {"quick"})  # the other takes minutes, and follows
        assert first is not None
        assert not first.has_second
        second = factory.build_second(experts)
    assert fits == ["quick", "thorough"]
    assert caplog.messages
    assert len(caplog.messages) == len(set(caplog.messages))  # both are fitted on the same texts
    assert second is not None
    first.add_second(second)
    assert (await first.decide(["compost and mulch for a hedge", "when the president plays guitar for tax"])).second
    await first.aclose()
    router = factory.build(experts)
    assert len(fits) == 2
    assert router is not None
    assert router.has_second
    for embedder in embedders.values():
        embedder.batches.clear()
    turns = ["compost and mulch for a hedge", "when the president plays guitar for tax"]
    clear, doubtful = await router.decide(turns[:1]), await router.decide(turns)
    assert (clear.second, doubtful.second) == (False, True)
    assert clear.threshold == 0.2  # the manifest's
    thorough = embedders["thorough"].batches
    assert set(turns) <= {text for batch in thorough for text in batch}
    assert (await router.explain(turns)).nearest  # by vectors of the same length
    second = router._second
    assert second is not None
    assert second._fitted.policy.overrides == {"bread": 0.2, "garden": 0.2}
    await router.aclose()
    twice = RouterFactory("quick", outside, tmp_path / "cache", second_encoder="same")
    monkeypatch.setattr(twice, "open_encoder", embedders.__getitem__)
    with pytest.raises(ConfigError, match=r"router\.second_encoder same is the same as router.encoder"):
        twice.build(experts)


def test_closing_ends_an_export_and_those_that_begin_later(tmp_path: Path) -> None:
    factory, ended = RouterFactory("quick", None, tmp_path), list[str]()
    factory._begin_export(lambda: ended.append("running"))
    assert not ended
    factory.close()
    assert ended == ["running"]
    factory._begin_export(lambda: ended.append("late"))
    assert ended == ["running", "late"]
