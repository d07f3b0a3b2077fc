"""Template check: the tokens trained on must be those that the engine makes of the same conversation.

One token more or less between training and serving is the commonest cause of an expert that trains well and answers
badly. Owns the comparison; LlamaFactory's tokens come from `child/encode.py`, the engine's from the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from training.errors import ConvertError

__all__ = ["EncodedRow", "check_ending", "check_prompt", "first_difference"]

SHOWN_TOKENS = 6
Detokenize = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class EncodedRow:
    """One row as LlamaFactory encoded it: the whole conversation, prompt and answer."""

    row: int
    system: str | None
    messages: list[dict[str, str]]
    answer: str
    tokens: list[int]

    def conversation(self, system_prompt: str | None) -> list[dict[str, Any]]:
        """Return the messages as the gateway would send them; its system prompt stands in for a missing one."""
        system = self.system or system_prompt
        return [*([{"role": "system", "content": system}] if system else []), *self.messages]


def first_difference(trained: Sequence[int], served: Sequence[int]) -> int | None:
    """Return the index of the first token of `served` that `trained` does not begin with."""
    pairs = zip(trained, served, strict=False)
    shorter = min(len(trained), len(served))
    at = next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), shorter)
    return None if at == len(served) else at


def check_prompt(row: EncodedRow, served: Sequence[int], text: Detokenize) -> None:
    """Check that the row was trained on exactly the served prompt, and then on its answer.

    Raises:
        ConvertError: names the first token that differs, with its index and the text on both sides.
    """
    at = first_difference(row.tokens, served)
    if at is None:
        return
    window = slice(at, at + SHOWN_TOKENS)
    sides = [_show(tokens, at, text) + f", in {text(tokens[window])!r}" for tokens in (row.tokens, served)]
    raise ConvertError(
        f"template: row {row.row}: token {at} of the prompt differs: "
        f"trained on {sides[0]}; the engine's template makes {sides[1]}"
    )


def check_ending(row: EncodedRow, prompt_tokens: int, end_tokens: frozenset[int], text: Detokenize) -> None:
    """Check that what follows the prompt is the row's answer and a token that ends the engine's turn.

    Raises:
        ConvertError: says what was trained on instead.
    """
    target = row.tokens[prompt_tokens:]
    end = next((index for index, token in enumerate(target) if token in end_tokens), None)
    if end is None:
        last = _show(row.tokens, len(row.tokens) - 1, text)
        raise ConvertError(
            f"template: row {row.row}: the answer does not end with a token that ends the engine's turn: "
            f"its last token, {len(row.tokens) - 1}, is {last}"
        )
    answer = text(target[:end])
    if answer.strip() != row.answer.strip():
        at = next(
            (i for i in range(end) if not row.answer.strip().startswith(text(target[: i + 1]).strip())), max(end - 1, 0)
        )
        raise ConvertError(
            f"template: row {row.row}: the trained answer differs from the row's at token {prompt_tokens + at}, "
            f"{_show(target, at, text)}: trained on {answer[:60]!r}, the row says {row.answer[:60]!r}"
        )


def _show(tokens: Sequence[int], at: int, text: Detokenize) -> str:
    return f"{text(tokens[at : at + 1])!r} ({tokens[at]})" if at < len(tokens) else "nothing (it ends there)"
