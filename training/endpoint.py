"""One model behind one OpenAI-compatible endpoint, asked for chat completions.

Owns the request and its errors; what a reply is good for is the caller's.
"""

from __future__ import annotations

from typing import Any

import httpx

from training.errors import DatasetError

__all__ = ["Endpoint"]

TIMEOUT_S = 120.0


class Endpoint:
    """`url` ends in /v1. Close it through the client that it was given."""

    def __init__(self, client: httpx.Client, url: str, model: str, api_key: str | None = None) -> None:
        self.name = f"{url} {model}"
        self._client = client
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def ask(self, messages: list[dict[str, str]], **fields: Any) -> tuple[str, bool] | None:
        """Return the answer and whether it came to its end; None for a reply that is no chat completion.

        Raises:
            DatasetError: the endpoint cannot be reached, or refuses.
        """
        body = {"model": self._model, "messages": messages, **fields}
        try:
            response = self._client.post(self._url, json=body, headers=self._headers, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise DatasetError(f"{self._url}: {str(error) or type(error).__name__}: is the gateway running?") from error
        if response.status_code != httpx.codes.OK:
            raise DatasetError(f"{self._url}: status {response.status_code}: {' '.join(response.text.split())[:300]}")
        try:
            choice = response.json()["choices"][0]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None
        return (text, reason != "length") if isinstance(text, str) else None
