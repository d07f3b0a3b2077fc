from __future__ import annotations

import json
from collections.abc import AsyncIterator

import numpy as np
import pytest
from unit.router.word_embedder import WordEmbedder

from router import Evaluation, FittedRouter, Labelled, Router, RouterError, decide_all, summarise
from router.evaluate import calibration_error, reliability_bins

GARDEN = "please help with the compost and mulch of a seedling hedge"
BREAD = "can you tell what yeast and flour the oven crust should have"
OTHER = "can you tell when the president plays guitar for tax"


@pytest.fixture
async def router(fitted: FittedRouter, embedder: WordEmbedder) -> AsyncIterator[Router]:
    opened = Router(fitted, embedder, cache_size=0)
    yield opened
    await opened.aclose()


async def evaluate(router: Router, *pairs: tuple[str, str | None]) -> Evaluation:
    decided = await decide_all(router, [Labelled((text,), route) for text, route in pairs])
    return summarise(decided, router.routes, router.threshold)


async def test_every_decision_is_counted(router: Router) -> None:
    result = await evaluate(
        router, (GARDEN, "garden"), (BREAD, "bread"), (BREAD + " now", "garden"), (OTHER, None), (GARDEN + " x", None)
    )
    assert (result.n_in_scope, result.n_out_of_scope) == (3, 2)
    assert result.accuracy == result.correct == pytest.approx(2 / 3)
    assert result.false_abstain == 0.0
    assert result.out_of_scope_recall == 0.5
    assert result.confusion["garden"] == {"bread": 1, "garden": 1, "base": 0}
    assert result.confusion["base"] == {"bread": 0, "garden": 1, "base": 1}
    assert result.per_route["garden"] == {"recall": 0.5, "precision": 0.5, "texts": 2}
    assert [(mistake["expected"], mistake["decided"]) for mistake in result.mistakes] == [
        ("garden", "bread"),
        ("base", "garden"),
    ]
    assert sum(result.score_counts["in_scope"]) == 3
    assert sum(result.score_counts["out_of_scope"]) == 2


async def test_an_abstention_is_not_a_correct_decision(router: Router) -> None:
    result = await evaluate(router, (OTHER, "garden"))
    assert (result.correct, result.false_abstain) == (0.0, 1.0)
    assert result.confusion["garden"]["base"] == 1


async def test_measures_without_texts_of_their_kind_are_none(router: Router) -> None:
    inside, outside = await evaluate(router, (GARDEN, "garden")), await evaluate(router, (OTHER, None))
    assert (inside.out_of_scope_recall, inside.auroc) == (None, None)
    assert (outside.accuracy, outside.correct, outside.false_abstain) == (None, None, None)


async def test_the_curves_rise_and_fall_with_the_threshold(router: Router) -> None:
    curve = (await evaluate(router, (GARDEN, "garden"), (OTHER, None))).threshold_curve
    recalls = [point["out_of_scope_recall"] for point in curve]
    coverages = [point["coverage"] for point in curve]
    assert recalls == sorted(recalls)
    assert coverages == sorted(coverages, reverse=True)
    assert (recalls[0], recalls[-1]) == (0.0, 1.0)
    assert (coverages[0], curve[0]["risk"]) == (1.0, 0.5)


async def test_a_conversation_is_decided_turn_by_turn_and_left_out_of_the_curves(router: Router) -> None:
    conversations = [Labelled((GARDEN, BREAD), "bread"), Labelled((BREAD, "thanks, go on"), "bread")]
    decided = await decide_all(router, conversations)
    assert [row.decision.turns for row in decided] == [2, 2]
    assert decided[0].named == "bread"
    result = summarise(decided, router.routes, router.threshold)
    assert (result.n_in_scope, result.auroc, result.calibration_error) == (2, None, None)
    assert json.loads(json.dumps(decided[0].to_dict()))["turns"] == [GARDEN, BREAD]


async def test_decisions_are_those_of_live_traffic(router: Router, fitted: FittedRouter) -> None:
    live = Router(fitted, WordEmbedder())
    turns = (GARDEN, OTHER, "thanks")
    (row,) = await decide_all(router, [Labelled(turns, None)])
    assert row.decision == await live.decide(turns)
    await live.aclose()


async def test_an_evaluation_is_plain_json(router: Router) -> None:
    result = await evaluate(router, (GARDEN, "garden"), (OTHER, None))
    assert json.loads(json.dumps(result.to_dict()))["n_in_scope"] == 1
    assert result.latency_ms["p95"] >= result.latency_ms["p50"] > 0


@pytest.mark.parametrize("labelled", [[], [Labelled(("x",), "cooking")]])
async def test_nothing_to_evaluate_or_an_unknown_label_is_refused(router: Router, labelled: list[Labelled]) -> None:
    with pytest.raises(RouterError, match=r"allowed are the routes \['bread', 'garden'\]"):
        await decide_all(router, labelled)


def test_calibration_error_is_the_mean_distance_of_score_and_share_right() -> None:
    scores = np.array([0.95, 0.95, 0.95, 0.95, 0.05, 1.0])
    right = np.array([True, True, True, False, False, True])
    bins = reliability_bins(scores, right)
    assert [row["count"] for row in bins] == [1, 5]
    expected = (1 * abs(0.05 - 0.0) + 5 * abs(0.96 - 0.8)) / 6
    assert calibration_error(bins) == pytest.approx(expected)
    assert calibration_error([]) is None
