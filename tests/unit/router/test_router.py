from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from functools import partial

import numpy as np
import pytest
from unit.router.word_embedder import SecondLook, WordEmbedder, examples, negatives

from router import EmbeddingError, FittedRouter, Reason, Reference, Router, RouterError, fit
from router.conversation import MAX_TURNS

GARDEN = "please help with the compost and mulch of a seedling hedge"
BREAD = "can you tell what yeast and flour the oven crust should have"
OTHER = "can you tell when the president plays guitar for tax"


async def test_decisions_name_route_reason_and_cache(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    router = Router(fitted, embedder)
    first, second = await router.decide([GARDEN]), await router.decide([GARDEN])
    assert (first.route, first.reason, first.cached) == ("garden", Reason.ROUTED, False)
    assert (second.route, second.cached) == ("garden", True)
    assert set(first.scores) == {"bread", "garden"}
    assert router.routes == ("bread", "garden")
    assert first.score >= router.threshold > (await router.decide([OTHER])).score
    assert threading.get_ident() not in embedder.threads
    await router.aclose()


@pytest.mark.parametrize("turns", [[], [""], ["   ", "\n"]])
async def test_without_text_the_decision_is_the_fallback(
    fitted: FittedRouter, embedder: WordEmbedder, turns: list[str]
) -> None:
    router = Router(fitted, embedder)
    assert (await router.decide(turns)).route is None
    await router.aclose()


async def test_the_decision_depends_on_the_turns_alone(fitted: FittedRouter) -> None:
    turns = [GARDEN, "thanks, that helps", BREAD, "go on", OTHER, "thanks"]
    used, fresh = Router(fitted, WordEmbedder()), Router(fitted, WordEmbedder())
    for count in range(1, len(turns) + 1):
        await used.decide(turns[:count])
    one, other = await used.decide(turns), await fresh.decide(turns)
    assert (one.route, one.reason, one.scores, one.score) == (other.route, other.reason, other.scores, other.score)
    await used.aclose()
    await fresh.aclose()


async def test_only_the_last_turns_count(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    router = Router(fitted, embedder)
    decision = await router.decide([f"{GARDEN} {number}" for number in range(MAX_TURNS + 5)])
    assert decision.turns == MAX_TURNS
    assert not any(" 4" in text for batch in embedder.batches for text in batch)
    await router.aclose()


async def test_a_new_turn_of_a_known_conversation_embeds_that_turn_only(
    fitted: FittedRouter, embedder: WordEmbedder
) -> None:
    router = Router(fitted, embedder)
    await router.decide([GARDEN, BREAD])
    embedder.batches.clear()
    await router.decide([GARDEN, BREAD, f"{BREAD} again"])
    assert embedder.batches == [[f"{BREAD} again"]]
    await router.aclose()


async def test_concurrent_decisions_share_batches(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    router = Router(fitted, embedder, max_batch=8)
    embedder.gate.clear()
    calls = [asyncio.create_task(router.decide([f"{GARDEN} {number}"])) for number in range(9)]
    assert await asyncio.to_thread(embedder.started.wait, 10)
    await asyncio.sleep(0)
    embedder.gate.set()
    assert {decision.route for decision in await asyncio.gather(*calls)} == {"garden"}
    assert sum(len(batch) for batch in embedder.batches) == 9
    assert len(embedder.batches) <= 3
    assert len(embedder.threads) == 1
    await router.aclose()


async def test_an_encoder_failure_is_an_embedding_error_and_the_next_call_works(
    fitted: FittedRouter, embedder: WordEmbedder
) -> None:
    router = Router(fitted, embedder)
    embedder.poison = "poison"
    with pytest.raises(EmbeddingError, match="poison"):
        await router.decide([GARDEN, "poison ivy"])
    with pytest.raises(EmbeddingError, match="poison"):
        await router.embed(["poison"])
    assert (await router.decide([GARDEN])).route == "garden"
    await router.aclose()


async def test_embed_returns_vectors_and_tokens_in_pieces(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    router = Router(fitted, embedder, max_batch=4)
    texts = [f"text number {number}" for number in range(10)]
    vectors, tokens = await router.embed(texts)
    assert [len(batch) for batch in embedder.batches] == [4, 4, 2]
    np.testing.assert_array_equal(vectors, WordEmbedder().embed(texts))
    assert vectors.dtype == np.float32
    assert tokens == 30
    empty, none = await router.embed([])
    assert empty.shape == (0, embedder.dim)
    assert none == 0
    await router.aclose()


async def test_a_router_reads_more_than_the_meaning_that_it_shows() -> None:
    embedder = SecondLook("second look")
    fitted = fit(examples(), negatives(), embedder)
    classifier = fitted.witnesses.classifier
    assert classifier.texts.values.shape[1] == embedder.dim + 2
    assert classifier.weights.shape[1] == embedder.dim
    router = Router(fitted, embedder, reference=partial(Reference.build, examples(), negatives(), WordEmbedder()))
    vectors, _ = await router.embed([GARDEN])
    np.testing.assert_array_equal(vectors, WordEmbedder().embed([GARDEN]))
    shown = (await router.explain([GARDEN])).nearest
    assert shown == Reference.build(examples(), negatives(), WordEmbedder()).nearest(vectors[0])
    assert (await router.decide([GARDEN])).route == "garden"
    await router.aclose()


def test_another_encoder_is_refused(fitted: FittedRouter) -> None:
    with pytest.raises(RouterError, match="fit it again"):
        Router(fitted, WordEmbedder("words-2"))


async def test_a_closed_router_is_freed_at_once(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    """Not only when Python's collector comes, which the gateway lets come seldom: one is megabytes large."""
    router = Router(fitted, embedder)
    await router.decide(["how do I prune a rose"])
    await router.explain(["how do I prune a rose"])
    await router.aclose()
    gone = weakref.ref(router)
    gc.disable()
    try:
        del router
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


async def test_a_closed_router_refuses(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    router = Router(fitted, embedder)
    await router.decide([GARDEN])
    await router.aclose()
    await router.aclose()
    with pytest.raises(EmbeddingError, match="closed"):
        await router.decide([OTHER])
    with pytest.raises(EmbeddingError, match="closed"):
        await router.embed(["a"])


async def test_texts_that_are_read_alike_are_decided_once(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    router = Router(fitted, embedder)
    first = await router.decide([GARDEN])
    again = await router.decide([f"  {GARDEN.upper().replace(' ', chr(10), 1)} "])
    assert (again.cached, again.score) == (True, first.score)
    assert len(embedder.batches) == 1
    await router.aclose()


async def test_several_workers_decide_as_one_does(fitted: FittedRouter) -> None:
    texts = [f"{subject} {number}" for number in range(20) for subject in (GARDEN, BREAD, OTHER)]
    found = []
    for workers in (1, 3):
        router = Router(fitted, WordEmbedder(), workers=workers, max_batch=4)
        found.append(await asyncio.gather(*(router.decide([text]) for text in texts)))
        await router.aclose()
    assert found[0] == found[1]
