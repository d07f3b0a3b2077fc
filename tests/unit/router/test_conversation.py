"""The replay rules over hand-made scores: no classifier, no embedder."""

from __future__ import annotations

import numpy as np
import pytest

from router.classifier import N_KINDS
from router.continuation import DEPENDENCE, ECHO_CHANCE, N_SIGNALS, Continuation, Encoded, join_turns
from router.conversation import Policy
from router.threshold import Gate
from router.types import Reason, RouteDecision, Turn

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
        texts, duals, 0.0, np.zeros(N_SIGNALS), np.ones(N_SIGNALS), weights, bias=-2.0, threshold=0.6, echo=0.5
    )
    return Policy(ROUTES, gate, continuation, overrides)


def likeness(text: str, reply: str) -> float:
    """The share of the text's words that stand in the reply."""
    words = text.split()
    return sum(word in reply.split() for word in words) / len(words)


def known_texts(policy: Policy, turns: list[Turn]) -> dict[str, Encoded]:
    known = {turn.text: encode(turn.text) for turn in turns}
    while (joint := policy.missing(turns, known, likeness)) is not None:
        known[joint] = encode(joint)
    return known


def decide(policy: Policy, said: list[str], reply: str = "", *, cached: bool = False) -> RouteDecision:
    """About the last of what was said, before which stood the reply."""
    turns = [*(Turn(text) for text in said[:-1]), Turn(said[-1], reply)]
    return policy.decide(turns, known_texts(policy, turns), likeness, cached=cached)


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
    decision = decide(policy, turns)
    assert (decision.route, decision.reason, decision.turns) == (route, reason, len(turns))


def test_leaving_a_conversation_costs_more_the_longer_it_has_lasted() -> None:
    policy = make_policy()
    young, old = ["prune roses", "bake or plant"], ["prune roses", "and then?", "thanks", "bake or plant"]
    assert decide(policy, young).route == "bread"  # leads by 0.05, the price is 0.02
    kept = decide(policy, old)
    assert (kept.route, kept.reason) == ("garden", Reason.STICKY)  # the price is 0.06
    clear = ["prune roses", *["and then?", "thanks"] * 3, "knead dough"]
    assert decide(policy, clear).route == "bread"


def test_the_price_counts_the_turns_since_the_last_change_of_topic() -> None:
    policy = make_policy()
    turns = ["knead dough", "thanks", "and then?", "prune roses", "bake or plant"]
    assert decide(policy, turns).route == "bread"


def test_a_text_between_two_routes_falls_back_when_it_misses_the_margin() -> None:
    policy = make_policy(margin=0.1)
    assert decide(policy, ["bake or plant"]).reason is Reason.FALLBACK
    assert decide(policy, ["prune roses"]).route == "garden"


def test_a_route_with_a_threshold_of_its_own_must_reach_that_one() -> None:
    strict, lenient = make_policy(bread=0.7), make_policy(garden=0.1)
    refused = decide(strict, ["bake or plant"])
    assert (refused.route, refused.threshold) == (None, 0.7)
    assert decide(strict, ["knead dough"]).route == "bread"
    accepted = decide(lenient, ["and then?"])
    assert (accepted.route, accepted.threshold) == ("garden", 0.1)


def test_a_decision_tells_scores_runner_up_and_margin_of_the_last_turn() -> None:
    policy = make_policy()
    decision = decide(policy, ["bake or plant"], cached=True)
    assert decision.scores == {"bread": 0.6, "garden": 0.55}
    assert (decision.score, decision.threshold, decision.cached) == (0.6, 0.5, True)
    assert (decision.runner_up, decision.margin) == ("garden", 0.05)


def test_a_sticky_decision_tells_the_score_of_the_continuation_and_its_threshold() -> None:
    policy = make_policy()
    turns = ["prune roses", "thanks"]
    decision = decide(policy, turns)
    assert decision.score == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-4)
    assert decision.threshold == 0.6


def test_only_turns_that_may_continue_another_need_a_joined_text() -> None:
    policy = make_policy()
    turns = ["thanks", "prune roses", "thanks", "knead dough", "and then?"]
    joined = known_texts(policy, [Turn(text) for text in turns]).keys() - set(turns)
    assert joined == {
        join_turns("prune roses", "thanks"),
        join_turns("prune roses", "knead dough"),
        join_turns("knead dough", "and then?"),
    }


def test_a_turn_that_names_another_topic_but_continues_this_one_stays() -> None:
    policy = make_policy()
    turns = ["prune roses", "is dough any good for them?"]
    assert decide(policy, turns).reason is Reason.STICKY
    assert decide(policy, turns[1:]).route == "bread"


def test_an_announced_change_of_subject_continues_nothing() -> None:
    policy = make_policy()
    for turn, route in (("another question: is dough any good for them?", "bread"), ("off topic, thanks", None)):
        turns = ["prune roses", turn]
        assert decide(policy, turns).route == route


def test_a_reply_about_nothing_that_has_an_expert_goes_to_none() -> None:
    policy = make_policy()
    for turn, route in (("does it rise faster?", None), ("why does dough rise?", "bread")):
        turns = ["write python", turn]
        assert decide(policy, turns).route == route
    # together the two are about bread
    turns = ["hello", "does it rise faster?"]
    assert decide(policy, turns).route == "bread"


def test_a_threshold_reached_exactly_is_reached() -> None:
    policy = make_policy()
    known = {"x": Encoded(np.zeros(2, dtype=np.float32), np.zeros((2, N_KINDS)), np.array([0.5, 0.0]))}
    assert policy.decide([Turn("x")], known, likeness).route == "bread"


@pytest.mark.parametrize(
    ("said", "reply", "route", "reason"),
    [
        ("write python", "write it in the soil", "garden", Reason.STICKY),
        ("write python", "feed it in spring", None, Reason.FALLBACK),
        ("knead dough", "dough is what roses like", "garden", Reason.STICKY),
        ("off topic, thanks", "thanks for the topic", None, Reason.FALLBACK),
        ("prune roses", "prune roses in march", "garden", Reason.ROUTED),
    ],
)
def test_a_turn_that_takes_up_words_of_the_reply_stays(said: str, reply: str, route: str, reason: Reason) -> None:
    found = decide(make_policy(), ["prune roses", said], reply)
    assert (found.route, found.reason) == (route, reason)


def test_what_was_answered_by_no_route_binds_no_turn() -> None:
    assert decide(make_policy(), ["write python", "write python"], "write python").route is None


def test_a_turn_that_takes_up_the_reply_needs_no_joined_text_and_tells_how_sure_that_is() -> None:
    policy, turns = make_policy(), [Turn("prune roses"), Turn("write python", "write it")]
    known = {turn.text: encode(turn.text) for turn in turns}
    assert policy.missing(turns, known, likeness) is None
    assert policy.decide(turns, known, likeness).score == 1 - ECHO_CHANCE
