"""How many tokens a row is when it is trained: counted with the base's own tokenizer and chat template, or estimated.

Owns where the tokenizer is looked for: the training base that an earlier run left in the cache. Downloads nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gateway.base import Kind, resolve
from gateway.errors import GatewayError
from training.dataset_row import Row
from training.errors import DatasetError

__all__ = ["Estimate", "TokenCounter", "TokenizerCounter", "counter_for_base"]

TOKENIZER_FILE = "tokenizer.json"
TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
# Role marks around each message, where no template tells.
MARKS_PER_MESSAGE = 5
# English has about 4 characters a token; code and other languages that use its letters rarely less than 2.5.
CHARACTERS_PER_TOKEN = 4.0
MIN_CHARACTERS_PER_TOKEN = 2.5


class TokenCounter(Protocol):
    """Counts rows. `count` returns, for each, the likeliest number of tokens and the greatest that is plausible."""

    @property
    def name(self) -> str:
        """What counts, for a report."""

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The texts that this tokenizer reads as control tokens."""

    def count(self, rows: Sequence[Row]) -> list[tuple[int, int]]:
        """Count all rows, chat template included."""


@dataclass(frozen=True)
class Estimate:
    """Tokens from characters; says so in its name."""

    name: str = "an estimate from characters: the base's tokenizer is not in the cache"
    control_tokens: tuple[str, ...] = ()

    def count(self, rows: Sequence[Row]) -> list[tuple[int, int]]:
        """One token for 4 plain characters (at worst 2.5), and for every other character (at worst two)."""
        counts = []
        for row in rows:
            texts = [message["content"] for message in row.messages]
            plain = sum(sum(sign.isascii() for sign in text) for text in texts)
            other = sum(len(text) for text in texts) - plain
            likely = round(plain / CHARACTERS_PER_TOKEN) + other + MARKS_PER_MESSAGE * len(texts)
            counts.append((likely, max(likely, round(plain / MIN_CHARACTERS_PER_TOKEN) + 2 * other)))
        return counts


class TokenizerCounter:
    """A `tokenizer.json`, with the `chat_template.jinja` beside it if there is one."""

    def __init__(self, path: Path, system: str | None = None) -> None:
        """Load the tokenizer.

        Args:
            system: the system prompt of rows that have none of their own.

        Raises:
            DatasetError: not a tokenizer, or its template is not one.
        """
        from tokenizers import Tokenizer

        self._system = [{"role": "system", "content": system}] if system else []
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise DatasetError(f"{path}: not a tokenizer: {error}") from error
        self._template = _load_template(path.with_name(TEMPLATE_FILE))
        added = self._tokenizer.get_added_tokens_decoder().values()
        self.control_tokens = tuple(token.content for token in added if token.special)
        self.name = "the tokenizer and chat template of the base" if self._template else "the tokenizer of the base"

    def count(self, rows: Sequence[Row]) -> list[tuple[int, int]]:
        """Count exactly: both numbers are the same."""
        texts, marks = zip(*(self._render(row) for row in rows), strict=True) if rows else ((), ())
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(len(found.ids) + extra,) * 2 for found, extra in zip(encodings, marks, strict=True)]

    def _render(self, row: Row) -> tuple[str, int]:
        messages = row.messages if row.system else [*self._system, *row.messages]
        if self._template is None:
            return "\n".join(message["content"] for message in messages), MARKS_PER_MESSAGE * len(messages)
        return self._template(messages), 0


def _load_template(path: Path) -> Callable[[list[dict[str, str]]], str] | None:
    """Return what renders messages as transformers does, or None where there is no template."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    if not path.is_file():
        return None
    extensions = ["jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: time.strftime(form)}
    try:
        template = environment.from_string(path.read_text(encoding="utf-8"))
    except TemplateError as error:
        raise DatasetError(f"{path}: not a chat template: {error}") from error
    marks = _special_texts(path.with_name(CONFIG_FILE))

    def render(messages: list[dict[str, str]]) -> str:
        try:
            return template.render(messages=messages, add_generation_prompt=False, enable_thinking=False, **marks)
        except TemplateError as error:
            start = messages[-2]["content"][:60]
            raise DatasetError(f"the base's chat template refuses the row {start!r}: {error}") from error

    return render


def _special_texts(path: Path) -> dict[str, str]:
    """The texts that templates call `bos_token` and `eos_token`."""
    if not path.is_file():
        return {}
    config = json.loads(path.read_text(encoding="utf-8"))
    found = {name: config.get(name) for name in ("bos_token", "eos_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def counter_for_base(served: str, train_from: str, cache_dir: Path, system: str | None = None) -> TokenCounter:
    """Return the base's own tokenizer where it lies on this machine, else an estimate. Never uses the network."""
    folder = Path(train_from)
    if train_from == "gguf":
        try:
            resolved = resolve(served, cache_dir=cache_dir, kind=Kind.GGUF, offline=True, progress=False)
        except GatewayError:
            return Estimate()
        folder = cache_dir / "training-bases" / resolved.sha256
    path = folder / TOKENIZER_FILE
    return TokenizerCounter(path, system) if path.is_file() else Estimate()
