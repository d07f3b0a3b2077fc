"""The router of a running gateway: turns in, decision out, on one event loop.

Joins the encoder, the fitted classifier and the conversation rules; owns no rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from router.artifact import FittedRouter
from router.batching import Batcher
from router.continuation import Encoded
from router.conversation import MAX_TURNS
from router.embedding import Embedder, Vectors, take_meaning
from router.errors import RouterError
from router.explain import Explanation, explain_decision
from router.reference import Neighbour, Reference
from router.threshold import Scores
from router.types import RouteDecision


class Router:
    """Decide routes. All CPU work runs on worker threads; a conversation seen before needs none."""

    def __init__(
        self,
        fitted: FittedRouter,
        embedder: Embedder,
        *,
        cache_size: int = 4096,
        max_batch: int = 8,
        workers: int = 1,
        reference: Callable[[], Reference] | None = None,
        second: Router | None = None,
    ) -> None:
        """Join a fitted router with the encoder it was fitted on.

        Args:
            fitted: from `fit` or `load_artifact`.
            embedder: the same encoder.
            cache_size: texts remembered, about 4 kB each.
            max_batch: most texts a worker thread takes at once.
            workers: threads that read texts, some at once each.
            reference: gives the labelled texts for explanations, read at the first one; without it, an explanation
                names no examples.
            second: another router for the same routes, on a better and slower encoder. Where this one is in doubt
                (`Policy.in_doubt`), that one decides, about the whole conversation, in which a turn that alone is clear
                to this one keeps its scores: a later turn changes no earlier decision. It is closed with this one.

        Raises:
            RouterError: the encoder is another one, or the second router knows other routes.
        """
        if embedder.fingerprint != fitted.provenance.embedder:
            raise RouterError(
                f"the router was fitted on encoder {fitted.provenance.embedder[:12]}, this one is "
                f"{embedder.fingerprint[:12]}: fit it again"
            )
        self._second: Router | None = None
        self._read_reference = reference
        self._reference: Reference | None = None
        self._fitted = fitted
        self._embedder = embedder
        self._max_batch = max_batch
        # Not a method: a router that refers to itself would stay in memory until Python's collector comes.
        encode = partial(_encode, fitted, embedder)
        self._batcher: Batcher[Encoded] = Batcher(encode, max_batch=max_batch, cache_size=cache_size, workers=workers)
        if second is not None:
            self.add_second(second)

    def add_second(self, second: Router) -> None:
        """Have another router decide what this one is in doubt about, from now on; see `second` above.

        Raises:
            RouterError: it knows other routes.
        """
        if second.routes != self.routes:
            raise RouterError(f"the second router knows the routes {second.routes}, the first {self.routes}")
        self._second = second

    @property
    def has_second(self) -> bool:
        """Whether there is a second router."""
        return self._second is not None

    @property
    def routes(self) -> tuple[str, ...]:
        """Every label a decision can name."""
        return self._fitted.routes

    @property
    def threshold(self) -> float:
        """The score a text must reach, 0–1."""
        return self._fitted.threshold

    async def decide(self, turns: Sequence[str]) -> RouteDecision:
        """Decide where the last user turn of a conversation belongs.

        Args:
            turns: the user turns, oldest first; only the last `MAX_TURNS` count, and empty ones do not.
                Without any, the decision is the fallback.

        Raises:
            EmbeddingError: the encoder failed on one of the texts, or the router is closed.
        """
        return await self._decide([turn for turn in turns if turn.strip()][-MAX_TURNS:] or [""], {})

    async def explain(self, turns: Sequence[str], *, nearest: int = 5) -> Explanation:
        """Decide as `decide` does, and say what the decision rests on.

        Args:
            nearest: how many labelled texts to name.

        Raises:
            EmbeddingError: as `decide`.
            ArtifactError: the labelled texts cannot be read.
        """
        decision = await self.decide(turns)
        router = self._second if decision.second and self._second is not None else self
        return await router._explain(decision, turns, nearest)

    async def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Embed texts for a client: float32 [n_texts, dim], unit length, and the tokens read.

        Long lists are worked on in pieces, so that decisions need not wait for all of them. Nothing is remembered.

        Raises:
            EmbeddingError: the encoder failed, or the router is closed.
        """
        pieces, tokens = [np.empty((0, self._embedder.dim), dtype=np.float32)], 0
        for start in range(0, len(texts), self._max_batch):
            vectors, count = await self._batcher.run(self._embed_piece, texts[start : start + self._max_batch])
            pieces.append(vectors)
            tokens += count
        return np.concatenate(pieces), tokens

    async def aclose(self) -> None:
        """Refuse new work, fail what is queued, finish what runs, end the thread."""
        await self._batcher.aclose()
        if self._second is not None:
            await self._second.aclose()

    async def _decide(self, turns: Sequence[str], settled: Mapping[str, Scores]) -> RouteDecision:
        """Decide as `decide` does; some turns have scores already."""
        # What is read alike is decided and remembered alike, however it was typed.
        recent = [self._embedder.normalise(turn) for turn in turns]
        encoded, cached = await self._batcher.get(recent)
        known = dict(zip(recent, encoded, strict=True))
        for turn, text in zip(turns, recent, strict=True):
            if turn in settled:
                known[text] = replace(known[text], scores=settled[turn])
        policy = self._fitted.policy
        if self._second is not None and policy.in_doubt(recent, known):
            clear = {turn: known[text].scores for turn, text in zip(turns, recent, strict=True)}
            clear = {turn: scores for turn, scores in clear.items() if policy.is_clear(scores)}
            decision = await self._second._decide(turns, clear)
            return replace(decision, second=True, cached=cached and decision.cached)
        while (joint := policy.missing(recent, known)) is not None:
            (known[joint],), joint_cached = await self._batcher.get([joint])
            cached = cached and joint_cached
        return policy.decide(recent, known, cached=cached)

    async def _explain(self, decision: RouteDecision, turns: Sequence[str], nearest: int) -> Explanation:
        """Say what a decision of this router rests on."""
        last = next((turn for turn in reversed(turns) if turn.strip()), "")
        (turn,), _ = await self._batcher.get([self._embedder.normalise(last)])
        found = await self._batcher.run(lambda _: self._nearest(turn, nearest), [])
        return explain_decision(decision, turn, self._fitted.policy.gate, self.routes, found)

    def _nearest(self, turn: Encoded, count: int) -> list[Neighbour]:
        if self._reference is None and self._read_reference is not None:
            self._reference = self._read_reference()
        if self._reference is None:
            return []
        return self._reference.nearest(take_meaning(turn.vector[None, :], self._embedder.dim)[0], count)

    def _embed_piece(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        return self._embedder.embed(texts), self._embedder.count_tokens(texts)


def _encode(fitted: FittedRouter, embedder: Embedder, texts: Sequence[str]) -> list[Encoded]:
    return fitted.encode(texts, embedder.read(texts))
