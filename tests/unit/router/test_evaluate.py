from __future__ import annotations

import json

import pytest
from unit.router.word_embedder import WordEmbedder

from router import FittedRouter, RouterError, evaluate

GARDEN = "please help with the compost and mulch of a seedling hedge"
BREAD = "can you tell what yeast and flour the oven crust should have"
OTHER = "can you tell when the president plays guitar for tax"


def test_every_decision_is_counted(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    labelled = [(GARDEN, "garden"), (BREAD, "bread"), (BREAD + " now", "garden"), (OTHER, None), (GARDEN + " x", None)]
    result = evaluate(fitted, embedder, labelled)
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


def test_an_abstention_is_not_a_correct_decision(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    result = evaluate(fitted, embedder, [(OTHER, "garden")])
    assert (result.correct, result.false_abstain) == (0.0, 1.0)
    assert result.confusion["garden"]["base"] == 1


def test_measures_without_texts_of_their_kind_are_none(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    inside, outside = evaluate(fitted, embedder, [(GARDEN, "garden")]), evaluate(fitted, embedder, [(OTHER, None)])
    assert (inside.out_of_scope_recall, inside.auroc) == (None, None)
    assert (outside.accuracy, outside.correct, outside.false_abstain) == (None, None, None)


def test_the_threshold_curve_rises(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    curve = evaluate(fitted, embedder, [(GARDEN, "garden"), (OTHER, None)]).threshold_curve
    recalls = [point["out_of_scope_recall"] for point in curve]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0


def test_an_evaluation_is_plain_json(fitted: FittedRouter, embedder: WordEmbedder) -> None:
    result = evaluate(fitted, embedder, [(GARDEN, "garden"), (OTHER, None)])
    assert json.loads(json.dumps(result.to_dict()))["n_in_scope"] == 1
    assert result.latency_ms["p95"] >= result.latency_ms["p50"] > 0


@pytest.mark.parametrize("labelled", [[], [("x", "cooking")]])
def test_nothing_to_evaluate_or_an_unknown_label_is_refused(
    fitted: FittedRouter, embedder: WordEmbedder, labelled: list[tuple[str, str | None]]
) -> None:
    with pytest.raises(RouterError, match="routes:"):
        evaluate(fitted, embedder, labelled)
