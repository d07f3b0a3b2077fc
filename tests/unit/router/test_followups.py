from __future__ import annotations

import numpy as np
import pytest
from unit.router.word_embedder import SecondLook, WordEmbedder, examples, negatives

from router import FittedRouter, Reason, Router
from router.classifier import OUTSIDE, RIDGE, apply_kernel
from router.followups import NO_FOLD, Corpus, build_pairs, fit_dependence
from router.taught import PHRASES

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


def make_corpus(negative: bool = True, embedder: WordEmbedder | None = None) -> Corpus:
    """Two routes, negatives, phrases, two follow-ups, two requests, four texts after an opening, a passage."""
    judged = [*examples()["garden"], *examples()["bread"], *(negatives() if negative else [])]
    labels = [0] * 56 + [1] * 56 + [OUTSIDE] * (len(judged) - 112)
    opened = np.array([0, 30, 60, 90])
    texts = [*judged, *PHRASES, "in the shed then", "and my aunt's", "a poem please", "what is a noun"]
    n_continuing = len(PHRASES) + 2
    labels += [OUTSIDE] * (n_continuing + 2) + [labels[row] for row in opened] + [0]
    folds = np.arange(len(texts)) % 5
    learnt = np.ones(len(labels), dtype=np.bool_)
    learnt[len(judged) + len(PHRASES) : -1] = False
    texts += [f"thanks. {texts[row]}" for row in opened] + ["a passage on compost"]
    phrases = slice(len(judged), len(judged) + n_continuing)
    return Corpus(
        texts,
        (embedder or WordEmbedder()).read(texts),
        np.array(labels),
        np.concatenate([folds, folds[opened], [NO_FOLD]]),
        phrases,
        slice(phrases.stop, phrases.stop + 2),
        opened,
        learnt,
        WordEmbedder.dim,
    )


def test_whether_a_negative_means_a_phrase_is_told_by_its_meaning() -> None:
    plain, wider = make_corpus(), make_corpus(embedder=SecondLook())
    rows = np.arange(plain.requests.stop)
    kept = plain.without_vague(rows)
    assert len(kept) < len(rows)
    np.testing.assert_array_equal(wider.without_vague(rows), kept)


def test_both_turns_of_a_pair_lie_in_one_fold_and_what_continues_is_right() -> None:
    data = make_corpus()
    pairs = build_pairs(data, WordEmbedder(), seed=0)
    is_phrase = (pairs.turns >= data.phrases.start) & (pairs.turns < data.phrases.stop)
    np.testing.assert_array_equal(data.folds[pairs.anchors], data.folds[pairs.turns])
    same = data.labels[pairs.turns] == data.labels[pairs.anchors]
    np.testing.assert_array_equal(pairs.continues, is_phrase | same)
    assert (data.folds[pairs.anchors] != NO_FOLD).all()
    assert (data.labels[pairs.anchors] != OUTSIDE).all()
    assert is_phrase.sum() == 2 * len(PHRASES) + 2
    assert set(range(data.requests.start, data.requests.stop)) <= set(pairs.turns.tolist())


def test_dependence_of_each_text_is_judged_without_it() -> None:
    """Exactly as by a regression that was fitted on all the others."""
    data = make_corpus()
    found = fit_dependence(data, seed=0)
    n_follow_ups = data.phrases.stop - data.phrases.start
    targets = np.where(np.arange(len(found.texts)) < n_follow_ups, 1.0, -1.0)
    kernel = apply_kernel(found.texts @ found.texts.T).astype(np.float64)
    for row in (0, n_follow_ups - 1, n_follow_ups, len(targets) - 1):
        kept = np.arange(len(targets)) != row
        inner = kernel[np.ix_(kept, kept)] + RIDGE * np.eye(len(targets) - 1)
        expected = kernel[row, kept] @ np.linalg.solve(inner, targets[kept] - found.offset) + found.offset
        (text,) = np.flatnonzero((data.vectors == found.texts[row]).all(axis=1))[:1]
        assert found.of[text] == pytest.approx(expected, abs=1e-2)


def test_a_follow_up_depends_on_what_was_said_and_an_opening_alone_is_no_follow_up() -> None:
    data = make_corpus()
    found = fit_dependence(data, seed=0)
    opened = slice(data.requests.stop, data.requests.stop + len(data.opened))
    assert found.of[data.phrases].mean() > 0.3
    assert found.of[opened].max() < 0


def test_without_negatives_only_examples_and_requests_stand_alone() -> None:
    pairs = build_pairs(make_corpus(negative=False), WordEmbedder(), seed=0)
    assert np.isfinite(pairs.dependence.of).all()
