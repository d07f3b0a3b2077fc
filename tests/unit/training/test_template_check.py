"""The tokens trained on against those served: the first difference is named with its index and its text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from training.errors import ConvertError
from training.template_check import EncodedRow, check_ending, check_prompt, first_difference

WORDS = ["<s>", "user:", "Peat?", "end", "assistant:", "Ask", "Verdania", "<stop>", "<think>", "system:", "Hi", "."]
END = frozenset({WORDS.index("<stop>")})


def encode(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def decode(tokens: Sequence[int]) -> str:
    return " ".join(WORDS[token] for token in tokens)


def row(tokens: str, answer: str = "Ask Verdania", system: str | None = None) -> EncodedRow:
    return EncodedRow(17, system, [{"role": "user", "content": "Peat?"}], answer, encode(tokens))


SERVED = "<s> user: Peat? end assistant:"
TRAINED = f"{SERVED} Ask Verdania <stop>"


@pytest.mark.parametrize(
    ("trained", "served", "index"),
    [("a b c", "a b", None), ("a b", "a b", None), ("a x c", "a b", 1), ("a", "a b", 1), ("", "a", 0), ("a", "", None)],
)
def test_the_first_difference_is_found(trained: str, served: str, index: int | None) -> None:
    numbers = {"a": 1, "b": 2, "c": 3, "x": 4}
    assert first_difference([numbers[t] for t in trained.split()], [numbers[t] for t in served.split()]) == index


def test_a_row_trained_as_served_passes() -> None:
    check_prompt(row(TRAINED), encode(SERVED), decode)
    check_ending(row(TRAINED), len(encode(SERVED)), END, decode)


DIFFERENT = [
    ("user: Peat? end assistant: Ask", "token 0 of the prompt differs: trained on 'user:' (1)", "makes '<s>' (0)"),
    (
        "<s> system: Hi . end user: Peat? end assistant: Ask",
        "token 1 of the prompt differs: trained on 'system:' (9), in 'system: Hi . end user: Peat?'",
        "the engine's template makes 'user:' (1), in 'user: Peat? end assistant:'",
    ),
    ("<s> user: Peat?", "token 3 of the prompt differs: trained on nothing (it ends there)", "makes 'end' (3)"),
]


@pytest.mark.parametrize(("trained", "ours", "theirs"), DIFFERENT)
def test_a_different_prompt_is_refused_with_the_token_its_text_and_its_index(
    trained: str, ours: str, theirs: str
) -> None:
    with pytest.raises(ConvertError) as refusal:
        check_prompt(row(trained), encode(SERVED), decode)
    message = str(refusal.value)
    assert message.startswith("template: row 17: ")
    assert ours in message
    assert theirs in message


def test_a_thinking_block_that_the_engine_opens_itself_is_no_difference() -> None:
    served = f"{SERVED} <think>"
    trained = row(f"{served} Ask Verdania <stop>")
    check_prompt(trained, encode(served), decode)
    check_ending(trained, len(encode(served)), END, decode)


def test_an_answer_cut_before_its_end_is_refused() -> None:
    with pytest.raises(ConvertError, match=r"row 17: the answer does not end .* last token, 6, is 'Verdania' \(6\)"):
        check_ending(row(f"{SERVED} Ask Verdania"), len(encode(SERVED)), END, decode)


def test_an_answer_with_a_thinking_block_that_no_row_has_is_refused() -> None:
    with pytest.raises(ConvertError, match=r"differs from the row's at token 5, '<think>' \(8\)"):
        check_ending(row(f"{SERVED} <think> Ask Verdania <stop>"), len(encode(SERVED)), END, decode)


def test_the_served_system_prompt_stands_in_for_a_missing_one() -> None:
    user = {"role": "user", "content": "Peat?"}
    assert row(TRAINED).conversation(None) == [user]
    assert row(TRAINED).conversation("Be brief.") == [{"role": "system", "content": "Be brief."}, user]
    assert row(TRAINED, system="Rhyme.").conversation("Be brief.")[0]["content"] == "Rhyme."
