"""What an encoder is tuned on, and what is kept from it. The training itself is tried in test_router_commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import EmbeddingError, RouterError, finetune, split
from router.finetune import MAX_PAIRS, make_pairs

EXAMPLES = {"bread": [f"loaf {number}" for number in range(9)], "garden": [f"rose {number}" for number in range(4)]}
NEGATIVES = [f"tax {number}" for number in range(7)]


@given(seed=st.integers(0, 50))
def test_half_of_every_label_is_kept_from_the_encoder(seed: int) -> None:
    parts = split(EXAMPLES, NEGATIVES, seed=seed)
    assert {name: len(texts) for name, texts in parts.tuned.items()} == {"bread": 4, "garden": 2}
    assert len(parts.tuned_negatives) == 3
    for name, texts in EXAMPLES.items():
        assert sorted(parts.tuned[name] + parts.judged[name]) == sorted(texts)
    assert sorted(parts.tuned_negatives + parts.judged_negatives) == sorted(NEGATIVES)


def test_texts_that_differ_in_case_and_space_only_do_not_stand_on_both_sides() -> None:
    again = [*EXAMPLES["bread"], *(f"  {text.upper()} " for text in EXAMPLES["bread"])]
    parts = split({"bread": again, "garden": EXAMPLES["garden"]}, NEGATIVES)
    assert len(parts.tuned["bread"]) + len(parts.judged["bread"]) == 9


@pytest.mark.parametrize(
    ("examples", "negatives", "named"),
    [
        ({"bread": ["a", "b", "c"], "garden": EXAMPLES["garden"]}, NEGATIVES, "'bread' has 3"),
        ({"bread": EXAMPLES["bread"]}, [], "single route"),
        ({"bread": EXAMPLES["bread"]}, ["tax"], "single route"),
        ({"bread": EXAMPLES["bread"], "garden": ["loaf 1", *EXAMPLES["garden"]]}, [], "'loaf 1' stands under both"),
    ],
)
def test_what_cannot_be_tuned_on_is_refused_before_anything_is_trained(
    examples: dict[str, list[str]], negatives: list[str], named: str
) -> None:
    with pytest.raises(RouterError, match=named):
        split(examples, negatives)


@pytest.mark.parametrize("negatives", [NEGATIVES, []])
def test_pairs_say_what_is_alike_and_texts_of_no_route_are_never_drawn_together(negatives: list[str]) -> None:
    owner = {text: name for name, texts in EXAMPLES.items() for text in texts}
    pairs = make_pairs(EXAMPLES, negatives, seed=1)
    assert sum(label for _, _, label in pairs) == len(pairs) / 2
    for first, second, label in pairs:
        assert first != second
        assert (owner[first] == owner.get(second)) == (label == 1.0)
    assert any(second in negatives for _, second, _ in pairs) == bool(negatives)
    assert {first for first, _, _ in pairs} == set(owner)


def test_there_are_no_more_pairs_than_minutes_allow() -> None:
    many = {name: [f"{name} {number}" for number in range(4000)] for name in EXAMPLES}
    assert len(make_pairs(many, [], seed=0)) == MAX_PAIRS


def test_an_exported_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(EmbeddingError, match="exported encoder"):
        finetune(tmp_path, EXAMPLES, NEGATIVES, tmp_path / "out")
