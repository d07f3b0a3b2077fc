"""An OpenAI-compatible endpoint that answers by a function of the request's number; an integer is a status."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

Reply = Callable[[int, dict[str, Any]], str | int]


class ScriptedEndpoint:
    """Keeps its requests; `client` asks it. `finish_reason` is that of every answer."""

    def __init__(self, reply: Reply, finish_reason: str = "stop") -> None:
        self.requests: list[httpx.Request] = []
        self._reply = reply
        self._finish_reason = finish_reason
        self.client = httpx.Client(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._reply(len(self.requests), json.loads(request.content))
        if isinstance(reply, int):
            return httpx.Response(reply, text="no such model")
        choice = {"message": {"content": reply}, "finish_reason": self._finish_reason}
        return httpx.Response(200, json={"choices": [choice]})
