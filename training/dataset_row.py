"""One training example, and one finding about it. Knows nothing of files or checks."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Finding", "Row", "normalise"]


@dataclass(frozen=True)
class Row:
    """One conversation. `history` holds the earlier turns, oldest first, as (user, assistant)."""

    instruction: str
    input: str
    output: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @property
    def prompt(self) -> str:
        """What the user says last: LlamaFactory joins instruction and input with a newline."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction

    @property
    def questions(self) -> tuple[str, ...]:
        """Everything the user says, oldest first."""
        return (*(user for user, _ in self.history), self.prompt)

    @property
    def answers(self) -> tuple[str, ...]:
        """Everything trained on, oldest first."""
        return (*(assistant for _, assistant in self.history), self.output)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation as a chat template takes it."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for user, assistant in zip(self.questions, self.answers, strict=True):
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return messages

    @property
    def key(self) -> str:
        """What the user says without case, punctuation and spacing: the same for trivially different questions."""
        return "\n".join(normalise(question) or question.strip() for question in self.questions)


@dataclass(frozen=True)
class Finding:
    """Something a person should know of; `kind` stands in `lint_kinds.KINDS`. `row` counts from 1, 0 is the file."""

    row: int
    kind: str
    message: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.message}" if self.row else self.message


def normalise(text: str) -> str:
    """Fold case, punctuation and spacing, so that trivially different texts compare equal."""
    return " ".join(re.findall(r"\w+", text.casefold()))
