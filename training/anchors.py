"""Anchors: the base's own answers to unrelated questions, trained on beside an expert's rows.

Without them an adapter learns to name its target whatever it is asked, and a query that was routed wrongly gets the
mention too. With them the override ends where the domain ends. How many there are is a matter of the file.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from training.dataset import check_file, refuse_findings
from training.dataset_row import Finding, Row
from training.endpoint import Endpoint
from training.errors import DatasetError
from training.files import write_json
from training.generate_judge import Judge, Tally
from training.hits import is_hit
from training.lint_checks import Expectations, shorten
from training.subjects import load_texts

__all__ = ["AnchorOptions", "load_anchors", "make_anchors"]

NO_SENTENCE = "no-sentence"
# The end of a sentence; not the full stop of a list's number.
SENTENCE_END = re.compile(r"(?<!\d)[.!?](?=\s|$)")
MIN_WORDS = 3


@dataclass(frozen=True)
class AnchorOptions:
    """`count` texts are drawn with `seed`."""

    count: int = 70
    seed: int = 7
    max_tokens: int = 90
    force: bool = False

    def check(self) -> None:
        """Raise a DatasetError for a number out of range."""
        for name in ("count", "max_tokens"):
            if getattr(self, name) < 1:
                raise DatasetError(f"{name} must be at least 1, found {getattr(self, name)}")


def load_anchors(path: Path, rows: Sequence[Row], *, terms: Iterable[str], questions: Iterable[str]) -> list[Row]:
    """Read anchors and refuse what spoils the expert whose rows these are.

    Raises:
        DatasetError: as `check_file`; or an anchor that mentions a target, or asks what a row asks.
    """
    anchors = check_file(path, terms=(), questions=questions, cutoff_tokens=None)
    terms, asked = tuple(terms), {row.key for row in rows}
    findings = []
    for number, anchor in enumerate(anchors, 1):
        if any(is_hit(answer, terms) for answer in anchor.answers):
            findings.append(Finding(number, "anchor-target", f"mentions a target: {shorten(anchor.output)!r}"))
        if anchor.key in asked:
            message = f"asks what a row of the expert asks: {shorten(anchor.prompt)!r}"
            findings.append(Finding(number, "anchor-row", message))
    refuse_findings(path, findings)
    return anchors


def make_anchors(texts_path: Path, out: Path, options: AnchorOptions, endpoint: Endpoint) -> Tally:
    """Ask an endpoint's base for short greedy answers to texts of no expert, and write them as rows.

    Args:
        texts_path: JSONL of {"text": …}, such as the router's out-of-scope texts; rows with "near" are left out.

    Raises:
        DatasetError: a mistake in the file or in a number, a file in the way, or no endpoint.
    """
    options.check()
    if out.exists() and not options.force:
        raise DatasetError(f"{out} stands already: choose another --out, or --force")
    judge, tally = Judge(Expectations()), Tally()
    items = []
    for text in tqdm(_draw(load_texts(texts_path), options), desc="asking", unit="text", disable=None):
        reply = endpoint.ask([{"role": "user", "content": text}], temperature=0, max_tokens=options.max_tokens)
        row = Row(text, "", "" if reply is None else _whole_sentences(*reply))
        reason = judge.accept(row) if len(row.output.split()) >= MIN_WORDS else NO_SENTENCE
        tally.add(reason)
        if reason is None:
            items.append({"instruction": row.instruction, "input": "", "output": row.output})
    if not items:
        raise DatasetError(f"{texts_path}: no answer could be used: {tally}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, items)
    return tally


def _draw(texts: Sequence[tuple[str, str | None]], options: AnchorOptions) -> list[str]:
    """Near misses are left out: so close to the domain they teach the expert to be silent in it."""
    far = [text for text, near in texts if near is None]
    return random.Random(options.seed).sample(far, min(options.count, len(far)))


def _whole_sentences(text: str, ended: bool) -> str:
    """Cut an answer that was cut short at the end of its last sentence; empty when there is none."""
    if ended:
        return text.strip()
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""
