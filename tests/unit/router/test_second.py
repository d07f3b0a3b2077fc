"""A second router, asked where the first is in doubt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from unit.router.word_embedder import WordEmbedder

from router import EmbeddingError, FittedRouter, Reason, Router, RouterError

GARDEN = "please help with the compost and mulch of a seedling hedge"
BREAD = "can you tell what yeast and flour the oven crust should have"
OTHER = "can you tell when the president plays guitar for tax"
DOUBTFUL = "hedge tax"
"""Scores 0.45 for the garden."""


def read_by(embedder: WordEmbedder) -> list[str]:
    return [text for batch in embedder.batches for text in batch]


@pytest.fixture
def second_embedder() -> WordEmbedder:
    return WordEmbedder("words-2")


@pytest.fixture
def lenient(fitted: FittedRouter) -> FittedRouter:
    """Fitted on the second encoder; accepts what the first leaves to the base."""
    other = replace(fitted, provenance=replace(fitted.provenance, embedder="words-2"))
    return other.with_thresholds({"garden": 0.3})


@pytest.fixture
async def router(
    fitted: FittedRouter, lenient: FittedRouter, embedder: WordEmbedder, second_embedder: WordEmbedder
) -> AsyncIterator[Router]:
    router = Router(fitted, embedder, second=Router(lenient, second_embedder))
    yield router
    await router.aclose()


@pytest.mark.parametrize("text", [GARDEN, BREAD, OTHER])
async def test_a_clear_text_is_read_once(router: Router, second_embedder: WordEmbedder, text: str) -> None:
    assert not (await router.decide([text])).second
    assert not (await router.explain([text])).decision.second
    assert read_by(second_embedder) == []


async def test_a_doubtful_text_is_decided_by_the_second_router(
    router: Router, fitted: FittedRouter, lenient: FittedRouter, second_embedder: WordEmbedder
) -> None:
    alone = Router(fitted, WordEmbedder())
    assert (await alone.decide([DOUBTFUL])).route is None
    await alone.aclose()
    decision = await router.decide([DOUBTFUL])
    assert (decision.route, decision.reason, decision.second) == ("garden", Reason.ROUTED, True)
    assert decision.threshold == lenient.policy.overrides["garden"]
    assert (decision.cached, (await router.decide([DOUBTFUL])).cached) == (False, True)
    assert read_by(second_embedder) == [DOUBTFUL]


async def test_it_explains_what_it_decided(router: Router, second_embedder: WordEmbedder) -> None:
    found = await router.explain([DOUBTFUL])
    assert found.decision == replace(await router.decide([DOUBTFUL]), cached=False)
    assert found.decision.second
    assert "reaches the threshold of 0.30" in found.why


@pytest.mark.parametrize(
    ("turns", "asked"),
    [
        ([GARDEN, "how do i prune a rose"], False),
        ([OTHER, "what is python invoice"], False),
        ([GARDEN, OTHER], True),  # it may go on with the garden
        ([OTHER, GARDEN], True),
        ([GARDEN, BREAD], True),
        ([DOUBTFUL, GARDEN], True),  # whom the first turn went to decides with
    ],
)
async def test_a_conversation_is_clear_when_all_of_it_is_about_one_thing(
    router: Router, second_embedder: WordEmbedder, turns: list[str], asked: bool
) -> None:
    decision = await router.decide(turns)
    assert decision.second is asked
    assert set(turns) <= set(read_by(second_embedder)) if asked else not read_by(second_embedder)


async def test_a_later_turn_changes_no_earlier_decision(
    fitted: FittedRouter, lenient: FittedRouter, embedder: WordEmbedder, second_embedder: WordEmbedder
) -> None:
    """What was clear to the first router stays, even where the second would have disagreed."""
    blind = lenient.with_thresholds({"garden": 0.9999999})
    disagreeing = replace(blind, policy=replace(blind.policy, gate=replace(blind.policy.gate, bias=-40.0)))
    assert disagreeing.encode([GARDEN], second_embedder.embed([GARDEN]))[0].scores.max() < 0.1
    router = Router(fitted, embedder, second=Router(disagreeing.with_thresholds({"garden": 0.8}), second_embedder))
    assert (await router.decide([GARDEN])).route == "garden"
    follow_up = await router.decide([GARDEN, "and how often?"])
    assert (follow_up.route, follow_up.reason, follow_up.second) == ("garden", Reason.STICKY, True)
    assert "it continues the conversation about 'garden'" in (await router.explain([GARDEN, "and how often?"])).why
    away = await router.decide([OTHER, "and how often?"])
    assert (away.route, away.second) == (None, False)
    await router.aclose()


async def test_a_doubtful_conversation_is_not_read_together_by_the_first_encoder(
    router: Router, embedder: WordEmbedder
) -> None:
    await router.decide([GARDEN, OTHER])
    assert sorted(read_by(embedder)) == sorted([GARDEN, OTHER])


@pytest.mark.parametrize("threshold", [0.05, 0.9999999])
async def test_a_score_between_its_threshold_and_clear_is_in_doubt(
    fitted: FittedRouter, lenient: FittedRouter, embedder: WordEmbedder, second_embedder: WordEmbedder, threshold: float
) -> None:
    """However an expert's own threshold lies, what it decides nearly is not clear."""
    own = fitted.with_thresholds({"garden": threshold})
    scores = own.encode([DOUBTFUL, GARDEN], WordEmbedder().embed([DOUBTFUL, GARDEN]))
    assert 0.1 < scores[0].scores.max() < 0.95 < scores[1].scores.max()
    router = Router(own, embedder, second=Router(lenient, second_embedder))
    assert (await router.decide([DOUBTFUL])).second
    assert (await router.decide([GARDEN])).second == (scores[1].scores.max() < threshold)
    await router.aclose()


async def test_vectors_are_the_first_encoders(router: Router, second_embedder: WordEmbedder) -> None:
    await router.embed([DOUBTFUL])
    assert read_by(second_embedder) == []


async def test_its_failure_is_a_failure(router: Router, second_embedder: WordEmbedder) -> None:
    second_embedder.poison = "hedge"
    with pytest.raises(EmbeddingError, match="poisoned"):
        await router.decide([DOUBTFUL])


async def test_it_is_closed_with_the_first(
    fitted: FittedRouter, lenient: FittedRouter, embedder: WordEmbedder, second_embedder: WordEmbedder
) -> None:
    second = Router(lenient, second_embedder)
    await Router(fitted, embedder, second=second).aclose()
    with pytest.raises(EmbeddingError, match="closed"):
        await second.decide([GARDEN])


def test_one_for_other_routes_is_refused(
    fitted: FittedRouter, lenient: FittedRouter, embedder: WordEmbedder, second_embedder: WordEmbedder
) -> None:
    other = replace(lenient, policy=replace(lenient.policy, routes=("bread", "stars")))
    with pytest.raises(RouterError, match=r"knows the routes \('bread', 'stars'\), the first \('bread', 'garden'\)"):
        Router(fitted, embedder, second=Router(other, second_embedder))
