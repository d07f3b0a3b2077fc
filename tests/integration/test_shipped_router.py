"""The router of the shipped experts, fitted as the gateway fits it, on questions that stand in no data file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gateway.experts import Expert, load_expert
from gateway.routing import RouterFactory
from gateway.settings import Settings
from router import FittedRouter, OnnxEmbedder
from router.classifier import KERNEL, LEXICAL, LINEAR, NEAREST, SCOPE

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks" / "data").glob("acceptance*.jsonl"))
Asked = list[tuple[str, str | None]]


@pytest.fixture(scope="module")
def asked() -> Asked:
    rows = [json.loads(line) for path in FILES for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [(row["text"], None if row["expert"] == "base" else row["expert"]) for row in rows]


@pytest.fixture(scope="module")
def experts() -> list[Expert]:
    return [load_expert(path.parent, None) for path in sorted((ROOT / "experts").glob("*/expert.yaml"))]


@pytest.fixture(scope="module")
def shipped(
    experts: list[Expert], encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FittedRouter, OnnxEmbedder]:
    settings = Settings()
    factory = RouterFactory(
        str(encoder_dir),
        ROOT / settings.experts.out_of_scope if settings.experts.out_of_scope else None,
        tmp_path_factory.mktemp("cache"),  # a router fitted before would hide what became of fitting
        threads=2,
        false_abstain=settings.router.false_abstain,
    )
    return factory.fitted(experts)


def test_questions_reach_their_expert_and_all_others_the_base(
    shipped: tuple[FittedRouter, OnnxEmbedder], asked: Asked
) -> None:
    fitted, embedder = shipped
    texts = [text for text, _ in asked]
    scores = np.stack([encoded.scores for encoded in fitted.encode(texts, embedder.embed(texts))])
    routes = [fitted.routes[row.argmax()] if fitted.policy.qualifies(row) else None for row in scores]
    inside = [route == label for route, (_, label) in zip(routes, asked, strict=True) if label is not None]
    outside = [route is None for route, (_, label) in zip(routes, asked, strict=True) if label is None]
    assert np.mean(inside) >= 0.97
    assert np.mean(outside) >= 0.95


def test_every_kind_of_evidence_speaks(shipped: tuple[FittedRouter, OnnxEmbedder], asked: Asked) -> None:
    fitted, embedder = shipped
    texts = [text for text, _ in asked]
    evidence = fitted.witnesses.evidence(texts, embedder.embed(texts)).max(axis=1)
    inside = np.array([label is not None for _, label in asked])
    for kind in (LINEAR, NEAREST, KERNEL, SCOPE, LEXICAL):
        low, high = evidence[~inside, kind].mean(), evidence[inside, kind].mean()
        assert high - low > evidence[:, kind].std(), kind


def test_what_is_asked_stands_in_no_data_file(experts: list[Expert], asked: Asked) -> None:
    known = {
        line["text"] for name in ("out_of_scope", "unrelated") for line in _lines(ROOT / "experts" / f"{name}.jsonl")
    }
    for expert in experts:
        known |= {line["text"] for line in _lines(expert.examples_path)}
        known |= {row["instruction"] for row in json.loads(expert.dataset_path.read_text(encoding="utf-8"))}
    assert not {_plain(text) for text in known} & {_plain(text) for text, _ in asked}


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
