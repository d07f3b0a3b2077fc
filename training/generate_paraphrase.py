"""Ask an OpenAI-compatible endpoint to say a row in other words.

Owns the request and what counts as an answer; whether it is kept is `generate_judge`'s.
"""

from __future__ import annotations

import json
from typing import Any

import httpx

from training.dataset_row import Row
from training.errors import DatasetError
from training.generate import Draft

__all__ = ["Paraphraser"]

TIMEOUT_S = 120.0
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
    """One model behind one endpoint. Close it through the client that it was given."""

    def __init__(self, client: httpx.Client, endpoint: str, model: str, api_key: str | None = None) -> None:
        self._client = client
        self._url = f"{endpoint.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def say_otherwise(self, draft: Draft, seed: int) -> Row | None:
        """Return the row in other words, or None when the model's reply is not what was asked for.

        Raises:
            DatasetError: the endpoint cannot be reached, or refuses.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": _request(draft)}],
            "temperature": TEMPERATURE,
            "seed": seed,
            "max_tokens": MAX_TOKENS,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "row", "strict": True, "schema": SCHEMA},
            },
        }
        try:
            response = self._client.post(self._url, json=body, headers=self._headers, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise DatasetError(f"{self._url}: {str(error) or type(error).__name__}: is the gateway running?") from error
        if response.status_code != httpx.codes.OK:
            raise DatasetError(f"{self._url}: status {response.status_code}: {' '.join(response.text.split())[:300]}")
        return _read(response)


def _request(draft: Draft) -> str:
    return (
        f"Answer {STYLES[draft.style]}. The answer must name {draft.target}.\n"
        f"Question: {draft.row.prompt}\nAnswer: {draft.row.output}"
    )


def _read(response: httpx.Response) -> Row | None:
    try:
        reply: Any = json.loads(response.json()["choices"][0]["message"]["content"])
        question, answer = reply["question"], reply["answer"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    if not isinstance(question, str) or not isinstance(answer, str):
        return None
    return Row(question.strip(), "", answer.strip())
