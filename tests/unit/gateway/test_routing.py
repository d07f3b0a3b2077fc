"""Mistakes in experts' files are found without opening an encoder or fitting a router."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.fakes import write_expert_files

from gateway.errors import ConfigError
from gateway.experts import Expert, load_expert
from gateway.routing import RouterFactory, Source
from gateway.routing import _keep_newest as keep_newest


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


def test_what_cannot_be_prepared_is_said_by_what_needs_it(
    factory: RouterFactory, expert: Callable[..., Expert], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Source) -> None:
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
