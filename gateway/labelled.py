"""Reads labelled texts: JSON lines of ``{"text": …, "expert": name or null}``, or ``messages`` in place of ``text``.

``null`` (or ``"base"``) says that no expert should get it. ``messages`` are OpenAI's; their user turns count. Other
keys are ignored, so that a line may carry remarks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from router import Labelled

from .errors import ConfigError, InvalidRequest
from .experts import BASE
from .schemas import route_turns

__all__ = ["UNLABELLED", "as_examples", "read_labelled"]

UNLABELLED = "?"
"""Stands as the expert where a person has yet to say which."""


def read_labelled(paths: Sequence[Path]) -> list[Labelled]:
    """The rows of all files, in order.

    Raises:
        ConfigError: a file that cannot be read, or a line that is not as described; names file and line.
    """
    rows: list[Labelled] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold U+2028
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        found = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
        if not found:
            raise ConfigError(f"{path}: there are no labelled texts in it")
        rows += found
    return rows


def as_examples(rows: Sequence[Labelled]) -> tuple[dict[str, list[str]], list[str]]:
    """Examples by expert and out-of-scope texts, to fit on. A conversation's turns are read as one text."""
    examples: dict[str, list[str]] = {}
    negatives: list[str] = []
    for row in rows:
        (negatives if row.route is None else examples.setdefault(row.route, [])).append("\n".join(row.turns))
    return examples, negatives


def _parse(line: str, place: str) -> Labelled:
    expected = '{"text": "…", "expert": "name" or null} is expected, or "messages" in place of "text"'
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place}: not JSON ({error}); {expected}") from error
    if not isinstance(row, dict) or "expert" not in row or ("text" in row) == ("messages" in row):
        raise ConfigError(f"{place}: {expected}; found {line[:80]!r}")
    expert = row["expert"]
    if expert == UNLABELLED:
        raise ConfigError(f'{place}: not labelled yet: "expert" is {UNLABELLED!r}; a name or null is expected')
    if expert is not None and not (isinstance(expert, str) and expert):
        raise ConfigError(f'{place}: "expert" is {expert!r}; a name or null is expected')
    turns = _turns(row, place)
    try:
        "".join(turns).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{place}: it holds half of a surrogate pair, which is not text") from error
    return Labelled(turns, None if expert == BASE else expert)


def _turns(row: dict[str, Any], place: str) -> tuple[str, ...]:
    if "text" in row:
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise ConfigError(f'{place}: "text" is {row["text"]!r}; a text that is not empty is expected')
        return (row["text"],)
    try:
        turns = tuple(turn for turn in route_turns({"messages": row["messages"]}) if turn.strip())
    except InvalidRequest as error:
        raise ConfigError(f"{place}: {error.message}") from error
    if not turns:
        raise ConfigError(f"{place}: no user turn of its messages holds a text")
    return turns
