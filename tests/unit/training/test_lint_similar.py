"""Similar texts: the fast search finds exactly what comparing all pairs finds."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from training.lint_similar import clusters, nearest_texts, similar_pairs
from training.novelty import jaccard, trigrams

WORDS = [
    "how",
    "do",
    "I",
    "water",
    "basil",
    "mint",
    "thyme",
    "daily",
    "weekly",
    "in",
    "pots",
    "on",
    "the",
    "sill",
    "when",
    "it",
    "is",
    "hot",
    "cold",
    "dry",
]


def texts(count: int) -> list[str]:
    chance = random.Random(3)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 7))) for _ in range(count)]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95])
def test_no_pair_is_missed_and_none_is_invented(threshold: float) -> None:
    made = list(dict.fromkeys(texts(150)))
    grams = [trigrams(text) for text in made]
    if len(set(grams)) != len(grams):
        made = [text for place, text in enumerate(made) if grams[place] not in grams[:place]]
        grams = [trigrams(text) for text in made]
    expected = {
        (left, right): jaccard(grams[left], grams[right])
        for left, right in combinations(range(len(made)), 2)
        if jaccard(grams[left], grams[right]) >= threshold
    }
    assert {(left, right): found for left, right, found in similar_pairs(made, threshold)} == expected
    assert expected or threshold == 0.95


def test_copies_are_paired_with_the_first() -> None:
    assert list(similar_pairs(["Water basil", "other thing", "water BASIL!", "water basil"], 0.9)) == [
        (0, 2, 1.0),
        (0, 3, 1.0),
    ]


def test_the_nearest_of_the_others_is_found_for_each_text() -> None:
    others = ["How do I water mint?", "How do I water basil?", "Something else"]
    near = nearest_texts(["how do I water basil", "unlike all"], others, 0.5)
    assert near == {0: (1, 1.0)}


def test_families_are_joined_by_wording_and_by_keys() -> None:
    asked = ["How do I water basil?", "How do I water basil now?", "Which pot is best?", "Is peat needed?"]
    assert clusters(asked, 0.7) == [0, 0, 2, 3]
    assert clusters(asked, 0.7, [["a"], ["b"], ["c"], ["b"]]) == [0, 0, 2, 0]
