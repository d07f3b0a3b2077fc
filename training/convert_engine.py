"""The engine as the checks after a conversion need it: prompts, tokens and log-probabilities.

Owns the requests; what they must say is `parity` and `template_check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from training.engine import NO_THINKING, Engine
from training.errors import MeasureError

__all__ = ["Generated", "Message", "Probe", "ProbeEngine"]

Message = dict[str, str]


@dataclass(frozen=True)
class Generated:
    """Greedily generated tokens with the log-probability that the engine gave each."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class Probe(Protocol):
    """What the checks ask of an engine."""

    def prompt_tokens(self, messages: Sequence[Message]) -> list[int]: ...

    def counted_prompt_tokens(self, messages: Sequence[Message]) -> int: ...

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]: ...

    def text(self, tokens: Sequence[int]) -> str: ...

    def generate(self, prompt: Sequence[int], *, scale: float, max_tokens: int) -> Generated: ...


class ProbeEngine(Engine):
    """The real one: llama.cpp's server, asked for more than answers."""

    def __enter__(self) -> ProbeEngine:
        super().__enter__()
        return self

    def prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens that the engine makes of a conversation, as the gateway asks: without thinking."""
        body: dict[str, Any] = {"messages": list(messages), **NO_THINKING}
        return self.tokenize(self._post("/apply-template", body)["prompt"], add_special=True)

    def counted_prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return how many tokens the chat endpoint itself counts for a conversation."""
        body: dict[str, Any] = {"messages": list(messages), "max_tokens": 1, "temperature": 0, **NO_THINKING}
        body["cache_prompt"] = False
        count: int = self._post("/v1/chat/completions", body)["usage"]["prompt_tokens"]
        return count

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return the tokens of a text; special tokens written in it are recognised."""
        body = {"content": text, "add_special": add_special, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        text: str = self._post("/detokenize", {"tokens": list(tokens)})["content"]
        return text

    def generate(self, prompt: Sequence[int], *, scale: float, max_tokens: int) -> Generated:
        """Continue a prompt greedily with the adapter at `scale`.

        Raises:
            MeasureError: the engine does not answer, or leaves out a log-probability.
        """
        body = {
            "prompt": list(prompt),
            "n_predict": max_tokens,
            "temperature": 0,
            "n_probs": 1,
            "cache_prompt": False,
            "lora": [{"id": number, "scale": scale} for number in range(len(self._spec.adapters))],
        }
        rows = self._post("/completion", body).get("completion_probabilities")
        if not rows:
            raise MeasureError("the engine gave no log-probabilities for its answer")
        return Generated(tuple(row["id"] for row in rows), tuple(row["logprob"] for row in rows))
