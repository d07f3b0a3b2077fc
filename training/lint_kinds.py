"""Every kind of finding: how bad it is, and what a person does about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.dataset_row import Finding

__all__ = ["KINDS", "Kind", "Level", "errors"]


class Level(StrEnum):
    """An error must be repaired before training; a warning should be looked at."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Kind:
    """What all findings of one kind share."""

    level: Level
    title: str
    advice: str


def _error(title: str, advice: str) -> Kind:
    return Kind(Level.ERROR, title, advice)


def _warning(title: str, advice: str) -> Kind:
    return Kind(Level.WARNING, title, advice)


KINDS = {
    "schema": _error("rows that cannot be read", "correct the key or the value"),
    "roles": _error("turns out of order", "let user and assistant alternate, the assistant last: else the row is lost"),
    "unsupported": _error("more than text", "remove it, or the row: experts are trained on text conversations"),
    "empty": _error("empty texts", "write the text, or delete the row"),
    "no-target": _error("answers without a target", "mention a target in the answer, or delete the row"),
    "duplicate": _error("questions asked twice", "delete one row, or ask it in other words"),
    "leaked": _error("benchmark questions in the data", "delete the row: its answer would prove nothing"),
    "anchor-target": _error("anchors that mention a target", "delete the row: anchors keep the target out"),
    "anchor-row": _error("anchors that ask what a row asks", "delete one of them: they teach opposites"),
    "think": _error("reasoning in answers", "remove the block: it would be trained into every answer"),
    "control-token": _error("control tokens in texts", "remove them: they end or open turns where they stand"),
    "secret": _error("secrets", "remove it, revoke it: the expert would recite it"),
    "bank": _error("card and account numbers", "replace it by an invented number that fails its checksum"),
    "overlength": _error(
        "rows over the limit", "shorten the answer, or raise cutoff_tokens: it is cut, with its end of turn"
    ),
    "overlength-estimate": _warning(
        "rows that may be over the limit", "train once, or give --tokenizer, to count its real tokens"
    ),
    "personal": _warning("personal data", "replace it, unless it is public and meant to be said"),
    "ignored-key": _warning("keys that nothing reads", "delete the key, or put its text where it is read"),
    "near-duplicate": _warning("questions worded nearly alike", "keep one, unless the answers differ on purpose"),
    "near-leak": _warning("close to a benchmark question", "word the question otherwise, or delete the row"),
    "same-answer": _warning("answers given twice", "write another answer: repeated ones are learnt by heart"),
    "turn-without-target": _warning("turns without a target", "mention a target in every answer of the conversation"),
    "cross-file": _warning("questions that stand in another file too", "keep it in one of the files"),
    "openings": _warning("one opening for many texts", "vary how the texts begin: the expert learns the opening"),
}


def errors(findings: list[Finding]) -> list[Finding]:
    """Return those that forbid training."""
    return [finding for finding in findings if KINDS[finding.kind].level is Level.ERROR]
