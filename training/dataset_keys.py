"""The keys that rows may have, and what a wrong one was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from training.dataset_row import Finding

__all__ = ["ALPACA_KEYS", "KEYS", "MESSAGE_KEYS", "key_findings", "nearest", "type_name"]

ALPACA_KEYS = ("instruction", "input", "output", "system", "history")
MESSAGE_KEYS = ("system",)
KEYS = (*ALPACA_KEYS, "conversations", "messages")
# Ours: rows of one family stay together in a split.
OWN_KEYS = ("family",)
# What LlamaFactory reads for other kinds of training; here it would be dropped.
UNSUPPORTED_KEYS = ("images", "videos", "audios", "tools", "chosen", "rejected", "kto_tag", "label")
# What other formats call it; a mistake only where the right key is missing.
SYNONYMS = {
    "answer": "output",
    "completion": "output",
    "response": "output",
    "prompt": "instruction",
    "question": "instruction",
    "context": "input",
    "query": "input",
    "system_prompt": "system",
    "dialogue": "messages",
}
TYPE_NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


def type_name(value: Any) -> str:
    """Name a JSON value's type as a person would."""
    return "null" if value is None else TYPE_NAMES.get(type(value), type(value).__name__)


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that this one is probably a misspelling of."""
    near = difflib.get_close_matches(word.strip().casefold(), list(allowed), n=1, cutoff=0.75)
    return near[0] if near else None


def key_findings(number: int, item: dict[str, Any], allowed: tuple[str, ...]) -> tuple[list[Finding], list[str]]:
    """Return the mistakes among a row's keys, and the keys that nothing reads."""
    findings, ignored = [], []
    for key in item:
        if key in allowed or key in OWN_KEYS:
            continue
        meant = nearest(key, allowed)
        if meant is None and SYNONYMS.get(key) in allowed and SYNONYMS[key] not in item:
            meant = SYNONYMS[key]
        if meant:
            message = f"unknown key {key!r}: did you mean {meant!r}? allowed: {', '.join(allowed)}"
            findings.append(Finding(number, "schema", message))
        elif key in UNSUPPORTED_KEYS:
            if item[key]:
                findings.append(Finding(number, "unsupported", f"key {key!r} is not trained on"))
        else:
            ignored.append(key)
    return findings, ignored
