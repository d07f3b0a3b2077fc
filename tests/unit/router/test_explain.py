from __future__ import annotations

import json
import math

import pytest
from unit.router.word_embedder import WordEmbedder, examples, negatives

from router import ArtifactError, FittedRouter, Reason, Reference, RouteDecision, Router
from router.explain import say_why

GARDEN = "please help with the compost and mulch of a seedling hedge"
OTHER = "can you tell when the president plays guitar for tax"


def reference() -> Reference:
    return Reference.build(examples(), negatives(), WordEmbedder())


async def test_the_contributions_add_up_to_the_score(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    router = Router(fitted, embedder, reference=reference)
    found = await router.explain([GARDEN])
    assert list(found.evidence) == ["garden", "bread"]  # best first
    for route, weighed in found.evidence.items():
        logit = found.bias + sum(kind.contribution for kind in weighed)
        assert 1 / (1 + math.exp(-logit)) == pytest.approx(found.decision.scores[route], abs=2e-3)
    assert found.decision.route == (await router.decide([GARDEN])).route
    assert {row.route for row in found.nearest} == {"garden"}
    assert len((await router.explain([OTHER], nearest=2)).nearest) == 2
    assert json.loads(json.dumps(found.to_dict()))["decision"]["reason"] == "routed"
    await router.aclose()


async def test_the_last_turn_is_explained(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    router = Router(fitted, embedder, reference=reference)
    found = await router.explain([GARDEN, OTHER, " "])
    assert found.nearest[0].route is None
    assert found.decision.scores == (await router.decide([OTHER])).scores
    await router.aclose()


async def test_without_examples_none_are_named_and_lost_ones_are_an_error(
    fitted: FittedRouter, embedder: WordEmbedder
) -> None:
    def lost() -> Reference:
        raise ArtifactError("examples.npz is gone")

    bare, broken = Router(fitted, embedder), Router(fitted, embedder, reference=lost)
    assert (await bare.explain([GARDEN])).nearest == []
    with pytest.raises(ArtifactError, match="gone"):
        await broken.explain([GARDEN])
    assert (await broken.decide([GARDEN])).route == "garden"
    await bare.aclose()
    await broken.aclose()


@pytest.mark.parametrize(
    ("reason", "route", "score", "threshold", "words"),
    [
        (Reason.ROUTED, "baking", 0.8, 0.5, "'baking' scores 0.80, which reaches the threshold of 0.50; the runner-up"),
        (Reason.FALLBACK, None, 0.8, 0.9, "'baking', scores 0.80, below the threshold of 0.90: none qualifies"),
        (Reason.FALLBACK, None, 0.8, 0.5, "which would suffice, but its lead of 0.05 over 'cycling' does not"),
        (Reason.FALLBACK, None, 0.3, 0.6, "does not continue the conversation before it either: 0.30, below the 0.60"),
        (
            Reason.STICKY,
            "cycling",
            0.7,
            0.6,
            "continues the conversation about 'cycling': 0.70, which reaches the 0.60",
        ),
        (Reason.STICKY, "cycling", 0.8, 0.5, "not enough more than 'cycling'"),
    ],
)
def test_one_sentence_says_why(reason: Reason, route: str | None, score: float, threshold: float, words: str) -> None:
    scores = {"baking": 0.8, "cycling": 0.75}
    decision = RouteDecision(route, reason, score, scores, threshold, "cycling", 0.05, 2, False)
    assert words in say_why(decision)
