"""The replay rules over hand-made scores: no classifier, no embedder."""

from __future__ import annotations

import numpy as np
import pytest

from router.classifier import N_KINDS
from router.continuation import DEPENDENCE, N_SIGNALS, Continuation, Encoded, join_turns
from router.conversation import Policy
from router.threshold import Gate
from router.types import Reason

ROUTES = ("bread", "garden")
ALONE = {
    "prune roses": (0.05, 0.95),
    "knead dough": (0.90, 0.10),
    "bake or plant": (0.60, 0.55),
    "thanks": (0.02, 0.03),
    "and then?": (0.10, 0.20),
    "write python": (0.01, 0.01),
    "is dough any good for them?": (0.90, 0.10),
    "another question: is dough any good for them?": (0.90, 0.10),
    "off topic, thanks": (0.10, 0.20),
    "does it rise faster?": (0.80, 0.10),
    "why does dough rise?": (0.80, 0.10),
    "hello\ndoes it rise faster?": (0.70, 0.10),
}
FOLLOW_UPS = {
    "thanks",
    "and then?",
    "is dough any good for them?",
    "another question: is dough any good for them?",
    "off topic, thanks",
}


def encode(text: str) -> Encoded:
    """Point follow-ups at the text that is one and everything else at the text that stands alone."""
    vector = np.array([1.0, 0.0] if text in FOLLOW_UPS else [0.0, 1.0], dtype=np.float32)
    return Encoded(vector, np.zeros((2, N_KINDS)), np.array(ALONE.get(text, (0.0, 0.0))))


def make_policy(margin: float = 0.0, **overrides: float) -> Policy:
    gate = Gate(np.zeros(N_KINDS), np.ones(N_KINDS), np.ones(N_KINDS), 0.0, threshold=0.5, margin=margin)
    weights = np.zeros(N_SIGNALS)
    weights[DEPENDENCE] = 4.0
    texts, duals = np.eye(2, dtype=np.float32), np.array([1.0, 0.0], dtype=np.float32)
    continuation = Continuation(
        texts, duals, 0.0, np.zeros(N_SIGNALS), np.ones(N_SIGNALS), weights, bias=-2.0, threshold=0.6
    )
    return Policy(ROUTES, gate, continuation, overrides)


def known_texts(policy: Policy, turns: list[str]) -> dict[str, Encoded]:
    known = {turn: encode(turn) for turn in turns}
    while (joint := policy.missing(turns, known)) is not None:
        known[joint] = encode(joint)
    return known


@pytest.mark.parametrize(
    ("turns", "route", "reason"),
    [
        (["prune roses"], "garden", Reason.ROUTED),
        (["thanks"], None, Reason.FALLBACK),
        (["prune roses", "thanks"], "garden", Reason.STICKY),
        (["prune roses", "and then?", "thanks"], "garden", Reason.STICKY),
        (["prune roses", "write python"], None, Reason.FALLBACK),
        (["prune roses", "write python", "thanks"], None, Reason.FALLBACK),
        (["prune roses", "write python", "prune roses", "thanks"], "garden", Reason.STICKY),
        (["prune roses", "knead dough"], "bread", Reason.ROUTED),
        (["prune roses", "knead dough", "and then?"], "bread", Reason.STICKY),
        (["prune roses", "bake or plant"], "bread", Reason.ROUTED),
    ],
)
def test_the_rules_of_a_conversation(turns: list[str], route: str | None, reason: Reason) -> None:
    policy = make_policy()
    decision = policy.decide(turns, known_texts(policy, turns))
    assert (decision.route, decision.reason, decision.turns) == (route, reason, len(turns))


def test_leaving_a_conversation_costs_more_the_longer_it_has_lasted() -> None:
    policy = make_policy()
    young, old = ["prune roses", "bake or plant"], ["prune roses", "and then?", "thanks", "bake or plant"]
    assert policy.decide(young, known_texts(policy, young)).route == "bread"  # leads by 0.05, the price is 0.02
    kept = policy.decide(old, known_texts(policy, old))
    assert (kept.route, kept.reason) == ("garden", Reason.STICKY)  # the price is 0.06
    clear = ["prune roses", *["and then?", "thanks"] * 3, "knead dough"]
    assert policy.decide(clear, known_texts(policy, clear)).route == "bread"


def test_the_price_counts_the_turns_since_the_last_change_of_topic() -> None:
    policy = make_policy()
    turns = ["knead dough", "thanks", "and then?", "prune roses", "bake or plant"]
    assert policy.decide(turns, known_texts(policy, turns)).route == "bread"


def test_a_text_between_two_routes_falls_back_when_it_misses_the_margin() -> None:
    policy = make_policy(margin=0.1)
    assert policy.decide(["bake or plant"], known_texts(policy, ["bake or plant"])).reason is Reason.FALLBACK
    assert policy.decide(["prune roses"], known_texts(policy, ["prune roses"])).route == "garden"


def test_a_route_with_a_threshold_of_its_own_must_reach_that_one() -> None:
    strict, lenient = make_policy(bread=0.7), make_policy(garden=0.1)
    refused = strict.decide(["bake or plant"], known_texts(strict, ["bake or plant"]))
    assert (refused.route, refused.threshold) == (None, 0.7)
    assert strict.decide(["knead dough"], known_texts(strict, ["knead dough"])).route == "bread"
    accepted = lenient.decide(["and then?"], known_texts(lenient, ["and then?"]))
    assert (accepted.route, accepted.threshold) == ("garden", 0.1)


def test_a_decision_tells_scores_runner_up_and_margin_of_the_last_turn() -> None:
    policy = make_policy()
    decision = policy.decide(["bake or plant"], known_texts(policy, ["bake or plant"]), cached=True)
    assert decision.scores == {"bread": 0.6, "garden": 0.55}
    assert (decision.score, decision.threshold, decision.cached) == (0.6, 0.5, True)
    assert (decision.runner_up, decision.margin) == ("garden", 0.05)


def test_a_sticky_decision_tells_the_score_of_the_continuation_and_its_threshold() -> None:
    policy = make_policy()
    turns = ["prune roses", "thanks"]
    decision = policy.decide(turns, known_texts(policy, turns))
    assert decision.score == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-4)
    assert decision.threshold == 0.6


def test_only_turns_that_may_continue_another_need_a_joined_text() -> None:
    policy = make_policy()
    turns = ["thanks", "prune roses", "thanks", "knead dough", "and then?"]
    joined = known_texts(policy, turns).keys() - set(turns)
    assert joined == {
        join_turns("prune roses", "thanks"),
        join_turns("prune roses", "knead dough"),
        join_turns("knead dough", "and then?"),
    }


def test_a_turn_that_names_another_topic_but_continues_this_one_stays() -> None:
    policy = make_policy()
    turns = ["prune roses", "is dough any good for them?"]
    assert policy.decide(turns, known_texts(policy, turns)).reason is Reason.STICKY
    assert policy.decide(turns[1:], known_texts(policy, turns[1:])).route == "bread"


def test_an_announced_change_of_subject_continues_nothing() -> None:
    policy = make_policy()
    for turn, route in (("another question: is dough any good for them?", "bread"), ("off topic, thanks", None)):
        turns = ["prune roses", turn]
        assert policy.decide(turns, known_texts(policy, turns)).route == route


def test_a_reply_about_nothing_that_has_an_expert_goes_to_none() -> None:
    policy = make_policy()
    for turn, route in (("does it rise faster?", None), ("why does dough rise?", "bread")):
        turns = ["write python", turn]
        assert policy.decide(turns, known_texts(policy, turns)).route == route
    # together the two are about bread
    turns = ["hello", "does it rise faster?"]
    assert policy.decide(turns, known_texts(policy, turns)).route == "bread"


def test_a_threshold_reached_exactly_is_reached() -> None:
    policy = make_policy()
    known = {"x": Encoded(np.zeros(2, dtype=np.float32), np.zeros((2, N_KINDS)), np.array([0.5, 0.0]))}
    assert policy.decide(["x"], known).route == "bread"
