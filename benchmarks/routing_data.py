"""Labelled texts for the router's benchmarks: CLINC150's ten domains as experts, and the experts shipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gateway.base import Kind, default_cache_dir, resolve
from gateway.routing import Source
from gateway.settings import Settings
from router import BulkEmbedder, Embedder, FittedRouter, OnnxEmbedder, RouteDecision, ensure_encoder
from router.conversation import MAX_TURNS
from router.threshold import Scores

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
Labelled = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Task:
    """What to fit on, and what to measure on; None stands for out of scope."""

    examples: Mapping[str, Sequence[str]]
    negatives: Sequence[str]
    held_out: Labelled
    n_split: int
    """So many of `held_out`, from the first, are the validation split as published."""


def open_encoder(source: str | None, threads: int) -> BulkEmbedder:
    """Open the configured encoder, or another one; it embeds each text once in its life."""
    folder = ensure_encoder(locate_encoder(source), default_cache_dir() / "encoders")
    return BulkEmbedder(OnnxEmbedder(folder, threads=threads), workers=threads, progress=True)


def locate_encoder(source: str | None) -> str | Path:
    """Where the configured encoder, or another one, comes from."""
    named = source or Settings().router.encoder
    return resolve(named, cache_dir=default_cache_dir(), kind=Kind.DIRECTORY).path if ":" in named else named


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


class Clinc:
    """CLINC150; its test split is left out of this repository."""

    def __init__(self) -> None:
        train, val, outside, outside_val = (
            read_rows(DATA / "clinc150" / f"{name}.jsonl") for name in ("train", "val", "oos_train", "oos_val")
        )
        self.owner: dict[str, str] = {}
        for row in train:  # a few utterances stand under two domains, or twice: keep the first
            self.owner.setdefault(_normalise(row["text"]), row["domain"])
        self._by_domain: dict[str, dict[str, str]] = {}
        for row in train:
            if self.owner[_normalise(row["text"])] == row["domain"]:
                self._by_domain.setdefault(row["domain"], {}).setdefault(_normalise(row["text"]), row["text"])
        self.negatives = [row["text"] for row in outside if _normalise(row["text"]) not in self.owner]
        self._val: Labelled = [(row["text"], row["domain"]) for row in val]
        self._outside_val: Labelled = [(row["text"], None) for row in outside_val]

    def task(self, count: int | None, draw: int = 0, *, negatives: bool) -> Task:
        """Draw `count` examples a domain, or take all; negatives given at fitting are not measured on."""
        generator = np.random.default_rng(draw)
        examples = {}
        for domain in sorted(self._by_domain):
            texts = list(self._by_domain[domain].values())
            rows = range(len(texts)) if count is None else generator.permutation(len(texts))[:count]
            examples[domain] = [texts[row] for row in rows]
        outside = self._outside_val + ([] if negatives else [(text, None) for text in self.negatives])
        n_split = len(self._val) + len(self._outside_val)
        return Task(examples, self.negatives if negatives else [], self._val + outside, n_split)


def expert_data() -> dict[str, Any]:
    """Return what the gateway fits its router on, as keyword arguments of `fit`."""
    return asdict(expert_source())


def expert_source() -> Source:
    """Read it without asking for the base model that the experts belong to."""
    folders = sorted(path.parent for path in (ROOT / "experts").glob("*/examples.jsonl"))
    files = {folder.name: (folder / "dataset.json", folder / "examples.jsonl") for folder in folders}
    return Source.read(files, ROOT / "experts" / "out_of_scope.jsonl")


def expert_questions() -> dict[str, Labelled]:
    """Return held-out texts for the experts shipped, by where they come from."""
    names = sorted(path.parent.name for path in (ROOT / "experts").glob("*/questions.jsonl"))
    questions: Labelled = [
        (row["question"], name) for name in names for row in read_rows(ROOT / "experts" / name / "questions.jsonl")
    ]
    files = {
        f"acceptance{which}.jsonl": [
            (row["text"], None if row["expert"] == "base" else row["expert"])
            for row in read_rows(DATA / f"acceptance{which}.jsonl")
        ]
        for which in ("", "_second", "_third", "_fourth", "_fifth", "_dev")
    }
    unrelated = {
        path.name: [(row["text"], None) for row in read_rows(path)]
        for path in (ROOT / "experts" / "unrelated.jsonl", DATA / "unrelated_second.jsonl")
    }
    return {"questions of the experts": questions, **files, **unrelated}


def conversations() -> list[tuple[list[str], str, str]]:
    """Return held-out conversations: user turns, who must answer the last (an expert or "base"), file and kind."""
    rows = [(row["turns"], row["expert"], "conversations") for row in read_rows(DATA / "conversations.jsonl")]
    for name in ("multi_turn", "multi_turn_second"):
        for row in read_rows(DATA / f"{name}.jsonl"):
            turns = [message["content"] for message in row["messages"] if message["role"] == "user"]
            rows.append((turns, row["expert"], f"{name}, {row['kind']}"))
    return rows


def decide(
    fitted: FittedRouter,
    embedder: Embedder,
    turns: Sequence[str],
    second: tuple[FittedRouter, Embedder] | None = None,
    settled: Mapping[str, Scores] | None = None,
) -> RouteDecision:
    """Decide about the last of some user turns, as the running gateway does, with a second router or without."""
    turns = turns[-MAX_TURNS:]
    recent = [embedder.normalise(turn) for turn in turns]
    known = dict(zip(recent, fitted.encode(recent, embedder.read(recent)), strict=True))
    for turn, text in zip(turns, recent, strict=True):
        if turn in (settled or {}):
            known[text] = replace(known[text], scores=(settled or {})[turn])
    if second is not None and fitted.policy.in_doubt(recent, known):
        scores = {turn: known[text].scores for turn, text in zip(turns, recent, strict=True)}
        clear = {turn: found for turn, found in scores.items() if fitted.policy.is_clear(found)}
        return replace(decide(*second, turns, settled=clear), second=True)
    while (joint := fitted.policy.missing(recent, known)) is not None:
        (known[joint],) = fitted.encode([joint], embedder.read([joint]))
    return fitted.policy.decide(recent, known)


def _normalise(text: str) -> str:
    return " ".join(text.split()).casefold()
