from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from unit.router.word_embedder import SecondLook, WordEmbedder, examples, make_texts, negatives

from router import FittedRouter, RouterError, fit
from router.classifier import KERNEL, OUTSIDE, SCOPE

NEW_GARDEN = "please help with the compost and mulch of a seedling hedge"
NEW_BREAD = "can you tell what yeast and flour the oven crust should have"
NEW_OTHER = "can you tell when the president plays guitar for tax"


def decide(fitted: FittedRouter, text: str) -> str | None:
    (encoded,) = fitted.encode([text], WordEmbedder().embed([text]))
    return fitted.policy.decide([text], {text: encoded}).route


def score(fitted: FittedRouter, text: str, route: str) -> float:
    (encoded,) = fitted.encode([text], WordEmbedder().embed([text]))
    return float(encoded.scores[fitted.routes.index(route)])


@pytest.mark.parametrize(("text", "route"), [(NEW_GARDEN, "garden"), (NEW_BREAD, "bread"), (NEW_OTHER, None)])
def test_unseen_texts_reach_their_route_and_unrelated_ones_the_fallback(
    fitted: FittedRouter, text: str, route: str | None
) -> None:
    assert decide(fitted, text) == route


def test_fitting_tells_how_good_it_is_out_of_fold(fitted: FittedRouter) -> None:
    assert fitted.metrics["accuracy"] > 0.95
    assert fitted.metrics["auroc"] > 0.9
    assert fitted.metrics["false_abstain"] <= 1e-9
    assert 0.0 < fitted.threshold < 1.0
    assert fitted.warnings == ()


def test_fitting_is_deterministic(fitted: FittedRouter) -> None:
    again = fit(examples(), negatives(), WordEmbedder(), max_false_abstain=0.0)
    texts = [NEW_GARDEN, NEW_OTHER]
    vectors = WordEmbedder().embed(texts)
    for one, other in zip(fitted.encode(texts, vectors), again.encode(texts, vectors), strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    assert again.threshold == fitted.threshold


def test_folds_fitted_at_the_same_time_give_the_same_router(fitted: FittedRouter) -> None:
    again = fit(examples(), negatives(), WordEmbedder(), max_false_abstain=0.0, workers=3)
    texts = [NEW_GARDEN, NEW_OTHER]
    vectors = WordEmbedder().embed(texts)
    for one, other in zip(fitted.encode(texts, vectors), again.encode(texts, vectors), strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
    assert (again.threshold, again.metrics) == (fitted.threshold, fitted.metrics)


def test_the_order_of_the_routes_does_not_matter(fitted: FittedRouter) -> None:
    turned = dict(reversed(examples().items()))
    again = fit(turned, negatives(), WordEmbedder(), max_false_abstain=0.0)
    assert again.routes == fitted.routes == ("bread", "garden")
    assert again.provenance == fitted.provenance


def test_a_route_more_needs_few_texts_that_were_not_embedded_before() -> None:
    """Beside its own and its anchors', a publish pays for nothing that is known: the other routes keep their pairs."""
    routes = examples() | {"trees": make_texts(("oak", "beech", "birch", "maple", "larch", "pine", "yew", "elm"))}
    before, after = WordEmbedder(), WordEmbedder()
    fit({route: routes[route] for route in ("bread", "trees")}, negatives(), before)
    fit(routes, negatives(), after)
    known, wanted = ({text for batch in embedder.batches for text in batch} for embedder in (before, after))
    garden = set(routes["garden"])
    new = {text for text in wanted - known if not any(example in text for example in garden)}
    assert len(new) < 0.05 * len(known)
    assert len(wanted - known) < 0.45 * len(known)


def test_one_route_can_be_told_from_everything_else() -> None:
    fitted = fit({"garden": examples()["garden"]}, negatives(), WordEmbedder())
    assert decide(fitted, NEW_GARDEN) == "garden"
    assert decide(fitted, NEW_OTHER) is None


@pytest.mark.parametrize("routes", [["garden"], ["garden", "bread"]])
def test_without_negatives_it_still_fits_and_warns(routes: list[str]) -> None:
    fitted = fit({route: examples()[route] for route in routes}, [], WordEmbedder())
    assert any("no negatives" in warning for warning in fitted.warnings)
    assert decide(fitted, NEW_GARDEN) == "garden"
    assert decide(fitted, "passport invoice football") is None


def test_sub_topics_are_told_by_the_meaning_only() -> None:
    texts, labels = [*examples()["garden"], *examples()["bread"]], np.repeat([0, 1], 56)
    plain, wider = (
        import_module("router.fit").fit_classifier(embedder.read(texts), labels, 0, embedder.dim)
        for embedder in (WordEmbedder(), SecondLook())
    )
    np.testing.assert_array_equal(wider.cluster_routes, plain.cluster_routes)
    np.testing.assert_allclose(wider.weights, plain.weights, atol=1e-3)


def test_two_examples_a_route_are_enough_to_fit() -> None:
    texts = {route: given[:2] for route, given in examples().items()}
    fitted = fit(texts, negatives()[:3], WordEmbedder())
    assert len(fitted.warnings) == 2
    assert "has 2 examples" in fitted.warnings[0]


@pytest.mark.parametrize(
    ("texts", "outside", "message"),
    [
        pytest.param({}, [], "no routes", id="no routes"),
        pytest.param({"a": []}, [], "route 'a' has 0 different examples", id="no examples"),
        pytest.param({"a": ["x"]}, [], "route 'a' has 1 different", id="one example"),
        pytest.param({"a": ["x", "X  "]}, [], "route 'a' has 1 different", id="one example, twice"),
        pytest.param({"a": ["x", " "]}, [], "route 'a' has an empty text", id="empty example"),
        pytest.param({"a": ["x", "y"]}, [""], "the negatives has an empty text", id="empty negative"),
        pytest.param({"a": ["x", "y"], "b": ["z", "Y "]}, [], "'Y ' stands under both route 'a' and", id="two routes"),
        pytest.param({"a": ["x", "y"]}, ["x"], "both route 'a' and the negatives", id="example among the negatives"),
    ],
)
def test_bad_examples_are_refused_by_name(texts: dict[str, list[str]], outside: list[str], message: str) -> None:
    with pytest.raises(RouterError, match=message):
        fit(texts, outside, WordEmbedder())


def test_passages_teach_a_route_words_that_no_example_has() -> None:
    question = "what about vermiculite and perlite"
    passages = {"garden": ["vermiculite holds water", "perlite drains well", "mix perlite with vermiculite"] * 1}
    without, taught = (fit(examples(), negatives(), WordEmbedder(), passages=given) for given in (None, passages))
    assert score(without, question, "garden") < 0.1
    assert score(taught, question, "garden") > 0.8
    assert taught.provenance != without.provenance


def test_what_two_experts_both_answer_teaches_nothing_of_either() -> None:
    own = {"garden": ["mix perlite with vermiculite"], "bread": ["feed the starter"]}
    shared = {"garden": [*own["garden"], "Yes."], "bread": ["yes.", *own["bread"]]}
    plain, fitted = (fit(examples(), negatives(), WordEmbedder(), passages=given) for given in (own, shared))
    assert "1 passages stand under several routes, tell nothing of any, and were left out" in fitted.warnings
    assert fitted.threshold == plain.threshold


def test_further_examples_teach_and_move_no_threshold_of_what_people_ask() -> None:
    """Hard ones, of which no other text has a word: calibrated on, they would be what the threshold must let pass."""
    hard = {name: [f"{name}word{number} {name}term{number}" for number in range(20)] for name in examples()}
    both = {name: [*texts, *hard[name]] for name, texts in examples().items()}
    plain = fit(examples(), negatives(), WordEmbedder())
    further = fit(examples(), negatives(), WordEmbedder(), further=hard)
    calibrated = fit(both, negatives(), WordEmbedder())
    assert score(plain, "breadword3 breadterm3", "bread") < 0.1
    assert score(further, "breadword3 breadterm3", "bread") > further.threshold
    doubt = [1 - fitted.threshold for fitted in (plain, further, calibrated)]
    assert doubt[1] < 2 * doubt[0]
    assert doubt[2] > 5 * doubt[0]
    assert further.provenance != plain.provenance


def test_passages_and_further_examples_need_a_route_and_may_not_contradict_examples() -> None:
    with pytest.raises(RouterError, match=r"passages of \['cars'\]"):
        fit(examples(), [], WordEmbedder(), passages={"cars": ["x"]})
    with pytest.raises(RouterError, match=r"further examples of \['cars'\]"):
        fit(examples(), [], WordEmbedder(), further={"cars": ["x"]})
    with pytest.raises(RouterError, match="stands under both"):
        fit(examples(), [], WordEmbedder(), further={"garden": [examples()["bread"][0]]})
    with pytest.raises(RouterError, match="stands under both"):
        fit(examples(), [], WordEmbedder(), passages={"garden": [examples()["bread"][0]]})


@pytest.mark.parametrize("allowed", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_of_abstentions_is_refused(allowed: float) -> None:
    with pytest.raises(RouterError, match="max_false_abstain"):
        fit(examples(), [], WordEmbedder(), max_false_abstain=allowed)


def test_repeated_and_few_examples_are_warned_about() -> None:
    texts = examples()
    texts["bread"] = [*texts["bread"], texts["bread"][0].upper()]
    texts["garden"] = texts["garden"][:49]
    warnings = fit(texts, negatives(), WordEmbedder()).warnings
    assert warnings == (
        "route 'bread': 1 repeated texts were left out",
        "route 'garden' has 49 examples; below 50, expect wrong and missed routes",
    )


@pytest.mark.parametrize("asked", [0.05, 0.2])
def test_as_many_examples_abstain_out_of_fold_as_were_asked_for(asked: float) -> None:
    fitted = fit(examples(), negatives(), WordEmbedder(), max_false_abstain=asked)
    assert asked - 0.01 < fitted.metrics["false_abstain"] <= asked + 1e-9


def test_without_negatives_a_score_is_still_a_probability() -> None:
    fitted = fit(examples(), [], WordEmbedder())
    assert fitted.metrics["calibration_error"] < 0.1
    texts = [NEW_GARDEN, NEW_OTHER]
    garden, other = (encoded.scores.max() for encoded in fitted.encode(texts, WordEmbedder().embed(texts)))
    assert garden > 0.8
    assert other < 0.5


def test_kernel_and_scope_still_tell_texts_apart_beyond_the_number_they_are_fitted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_module("router.fit"), "MAX_KERNEL_TEXTS", 40)
    fitted = fit(examples(), negatives(), WordEmbedder())
    assert len(fitted.witnesses.classifier.duals) > 40
    fitted_on = fitted.witnesses.classifier.duals.any(axis=1)
    assert np.count_nonzero(fitted_on) == 40
    texts = [NEW_GARDEN, NEW_OTHER]
    garden, other = fitted.witnesses.evidence(texts, WordEmbedder().embed(texts))
    bread_route, garden_route = range(2)
    assert garden[garden_route, KERNEL] > garden[bread_route, KERNEL] + 0.2
    assert garden[garden_route, SCOPE] > other[garden_route, SCOPE] + 0.2


def test_few_texts_of_a_route_are_among_those_that_its_kernel_is_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("router.fit"), "MAX_KERNEL_TEXTS", 40)
    monkeypatch.setattr(import_module("router.fit"), "MIN_KERNEL_TEXTS", 8)
    texts = examples() | {"bread": examples()["bread"][:8]}
    classifier = fit(texts, negatives(), WordEmbedder()).witnesses.classifier
    assert classifier.duals[classifier.text_routes == 0].any(axis=1).sum() == 8


def test_what_decides_is_kept_in_the_order_of_the_routes(fitted: FittedRouter) -> None:
    classifier = fitted.witnesses.classifier
    for routes in (classifier.text_routes, classifier.cluster_routes):
        assert routes[0] == OUTSIDE
        assert (np.diff(routes) >= 0).all()
