"""Where the router would send each question, decided by a router that was not fitted on it.

Unrelated questions may stand among the texts that the served router is fitted on, and judging those by it would flatter
it: they are decided in folds, each by a router fitted on all other texts. Knows nothing of answers.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gateway.base import Kind, resolve
from gateway.errors import GatewayError
from router import Embedder, FittedRouter, OnnxEmbedder, Router, RouterError, ensure_encoder, fit
from router.embedding import Vectors
from training.dataset import normalise
from training.errors import BenchmarkError

__all__ = ["FALSE_ABSTAIN", "FOLDS", "RememberingEmbedder", "Routing", "decide_routes", "open_encoder"]

FOLDS = 5
FALSE_ABSTAIN = 0.05
"""The gateway's default (`router.false_abstain`)."""


@dataclass(frozen=True)
class Routing:
    """The route of each question; None is the base."""

    own: Mapping[str, str | None]
    unrelated: Mapping[str, str | None]
    """By routers that were not fitted on the question."""
    unrelated_served: Mapping[str, str | None]
    """By the router as it is served, which may know the question."""
    routes: tuple[str, ...]
    threshold: float
    known: int = 0
    """How many unrelated questions the router is fitted on, as it is served."""


class RememberingEmbedder:
    """An encoder that embeds no text twice: a router for each fold reads nearly the same texts."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._lock = threading.Lock()
        self._known: dict[str, Vectors] = {}
        self.dim = embedder.dim
        self.fingerprint = embedder.fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts as the encoder does, see `Embedder`; a text's vector does not depend on its neighbours."""
        with self._lock:
            if missing := list(dict.fromkeys(text for text in texts if text not in self._known)):
                self._known |= dict(zip(missing, self._embedder.embed(missing), strict=True))
            if not texts:
                return self._embedder.embed(texts)
            return np.stack([self._known[text] for text in texts])

    def normalise(self, text: str) -> str:
        """Return the text as the encoder reads it."""
        return self._embedder.normalise(text)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Count tokens as the encoder does."""
        return self._embedder.count_tokens(texts)


def open_encoder(source: str, cache_dir: Path) -> RememberingEmbedder:
    """Open the router's encoder as the gateway does: a package, a directory or a hub id.

    Raises:
        BenchmarkError: it is not there or cannot be read.
    """
    try:
        local: str | Path = source
        if ":" in source or Path(source).is_dir():
            local = resolve(source, cache_dir=cache_dir, kind=Kind.DIRECTORY).path
        return RememberingEmbedder(OnnxEmbedder(ensure_encoder(local, cache_dir / "encoders")))
    except (GatewayError, RouterError) as error:
        raise BenchmarkError(f"encoder {source}: {error}") from error


def decide_routes(
    examples: Mapping[str, Sequence[str]],
    negatives: Sequence[str],
    embedder: Embedder,
    *,
    passages: Mapping[str, Sequence[str]] | None = None,
    max_false_abstain: float = FALSE_ABSTAIN,
    own: Sequence[str],
    unrelated: Sequence[str],
) -> Routing:
    """Decide every question as the first turn of a conversation, by a router fitted as the gateway fits its own.

    Args:
        examples: routing examples of every expert in service, and the questions that it was trained on.
        negatives: texts that no expert should get; `unrelated` may be among them.
        passages: the answers that each was trained on.
        max_false_abstain: the gateway's setting; default: its default.

    Raises:
        BenchmarkError: the router cannot be fitted, or an own question stands among what it is fitted on.
    """
    known = {normalise(text) for texts in (*examples.values(), negatives) for text in texts}
    leaked = [question for question in own if normalise(question) in known]
    if leaked:
        raise BenchmarkError(f"{len(leaked)} questions stand in the router's examples, such as {leaked[0]!r}")

    def fitted(texts: Sequence[str]) -> FittedRouter:
        return fit(examples, texts, embedder, passages=passages, max_false_abstain=max_false_abstain)

    try:
        everything = fitted(negatives)
        decided = asyncio.run(_decide(everything, embedder, own))
        served = asyncio.run(_decide(everything, embedder, unrelated))
        held_out = dict(served)
        seen = [question for question in unrelated if normalise(question) in known]
        folds = range(FOLDS if seen else 0)
        for fold in tqdm(folds, desc="fitting the router without what it is asked", unit="fold", leave=False):
            if held := seen[fold::FOLDS]:
                hidden = {normalise(text) for text in held}
                rest = [text for text in negatives if normalise(text) not in hidden]
                held_out |= asyncio.run(_decide(fitted(rest), embedder, held))
    except RouterError as error:
        raise BenchmarkError(f"router: {error}") from error
    return Routing(decided, held_out, served, everything.policy.routes, everything.policy.gate.threshold, len(seen))


async def _decide(fitted: FittedRouter, embedder: Embedder, questions: Sequence[str]) -> dict[str, str | None]:
    router = Router(fitted, embedder)
    try:
        return {question: (await router.decide([question])).route for question in questions}
    finally:
        await router.aclose()
