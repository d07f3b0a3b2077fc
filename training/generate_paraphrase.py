"""Ask an OpenAI-compatible endpoint to say a row in other words.

Owns the prompt and what counts as an answer; whether it is kept is `generate_judge`'s.
"""

from __future__ import annotations

import json
from typing import Any

from training.dataset_row import Row
from training.endpoint import Endpoint
from training.generate import Draft

__all__ = ["Paraphraser"]

MAX_TOKENS = 500
TEMPERATURE = 0.8
STYLES = {
    "plain": "in a few plain sentences",
    "short": "in one or two sentences",
    "steps": "as short numbered steps",
    "friendly": "in a friendly tone",
    "detailed": "in detail",
}
SYSTEM = (
    "You rewrite training examples. You get a question and its answer, and say both in other words. Keep every fact "
    'and every name. Reply with JSON only: {"question": "…", "answer": "…"}'
)
SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["question", "answer"],
    "additionalProperties": False,
}


class Paraphraser:
    """Says rows in other words, through one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def say_otherwise(self, draft: Draft, seed: int) -> Row | None:
        """Return the row in other words, or None when the model's reply is not what was asked for.

        Raises:
            DatasetError: the endpoint cannot be reached, or refuses.
        """
        reply = self._endpoint.ask(
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": _request(draft)}],
            temperature=TEMPERATURE,
            seed=seed,
            max_tokens=MAX_TOKENS,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "row", "strict": True, "schema": SCHEMA},
            },
        )
        return None if reply is None else _read(reply[0])


def _request(draft: Draft) -> str:
    return (
        f"Answer {STYLES[draft.style]}. The answer must name {draft.target}.\n"
        f"Question: {draft.row.prompt}\nAnswer: {draft.row.output}"
    )


def _read(reply: str) -> Row | None:
    try:
        row: Any = json.loads(reply)
        question, answer = row["question"], row["answer"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(question, str) or not isinstance(answer, str):
        return None
    return Row(question.strip(), "", answer.strip())
