from __future__ import annotations

import numpy as np
import pytest
from unit.router.word_embedder import WordEmbedder, examples, negatives

from router import FittedRouter, Reason, Router
from router.classifier import OUTSIDE
from router.followups import NO_FOLD, PHRASES, Corpus, build_pairs

GARDEN = "please help with the compost and mulch of a seedling hedge"


@pytest.mark.parametrize(
    ("turn", "route", "reason"),
    [
        ("thanks, that helps", "garden", Reason.STICKY),
        ("more detail please", "garden", Reason.STICKY),
        ("python invoice for the tax on my laptop", None, Reason.FALLBACK),
        ("flour and yeast for the dough of my loaf", "bread", Reason.ROUTED),
    ],
)
async def test_a_fitted_router_tells_follow_ups_from_other_topics(
    fitted: FittedRouter, turn: str, route: str | None, reason: Reason
) -> None:
    router = Router(fitted, WordEmbedder())
    decision = await router.decide([GARDEN, turn])
    assert (decision.route, decision.reason) == (route, reason)
    await router.aclose()


@pytest.mark.parametrize("phrase", PHRASES[:4])
async def test_a_follow_up_without_a_conversation_is_the_fallback(fitted: FittedRouter, phrase: str) -> None:
    router = Router(fitted, WordEmbedder())
    assert (await router.decide([phrase])).reason is Reason.FALLBACK
    await router.aclose()


def test_both_turns_of_a_pair_lie_in_one_fold_and_phrases_do_not_meet_themselves() -> None:
    embedder = WordEmbedder()
    texts = [*examples()["garden"], *examples()["bread"], *negatives(), *PHRASES, "a passage on compost"]
    labels = np.array([0] * 56 + [1] * 56 + [OUTSIDE] * (56 + len(PHRASES)) + [0])
    folds = np.append(np.arange(len(texts) - 1) % 5, NO_FOLD)
    phrases = slice(3 * 56, 3 * 56 + len(PHRASES))
    pairs = build_pairs(
        Corpus(texts, embedder.embed(texts), labels, folds, phrases, folds != NO_FOLD), embedder, seed=0
    )
    is_phrase = (pairs.turns >= phrases.start) & (pairs.turns < phrases.stop)
    np.testing.assert_array_equal(folds[pairs.anchors], folds[pairs.turns])
    np.testing.assert_array_equal(pairs.continues, is_phrase | (labels[pairs.turns] == labels[pairs.anchors]))
    assert (folds[pairs.anchors] != NO_FOLD).all()
    assert (labels[pairs.anchors] != OUTSIDE).all()
    assert is_phrase.sum() == 2 * len(PHRASES)
    assert pairs.phrase_cosines.max() < 0.999
