"""Split a training file in two, so that the second measures what the first did not say.

Owns the families: rows with nearly the same question, with the same answer, or with the same `family` key stay
together, whole. The same seed gives the same split.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.dataset_format import Dataset
from training.dataset_row import Row, normalise
from training.errors import DatasetError
from training.files import replace_file
from training.lint_similar import clusters, nearest_texts

__all__ = ["Split", "split_rows", "write_items", "write_split"]

FAMILY_SIMILARITY = 0.6
"""Trigram similarity from which two questions are one family."""


@dataclass(frozen=True)
class Split:
    """Row positions (from 0) on each side, in the file's order, and the greatest similarity across."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    families: int
    largest_family: int
    nearest: float


def split_rows(dataset: Dataset, *, validation: float, seed: int, similarity: float = FAMILY_SIMILARITY) -> Split:
    """Choose whole families for validation until its share is reached; never more than the share.

    Args:
        validation: share of the rows, 0–1.
        similarity: of two questions of one family, 0–1.

    Raises:
        DatasetError: a share or similarity out of range, rows that cannot be read, or families too large for the share.
    """
    for name, value in (("validation", validation), ("similarity", similarity)):
        if not 0 < value < 1:
            raise DatasetError(f"{name} must be more than 0 and less than 1, found {value}")
    if None in dataset.rows:
        raise DatasetError(f"{dataset.path}: row {dataset.rows.index(None) + 1} cannot be read: see the lint")
    rows = [row for row in dataset.rows if row is not None]
    families = _families(rows, dataset.families, similarity)
    order = sorted(families)
    random.Random(seed).shuffle(order)
    room = round(validation * len(rows))
    chosen: list[int] = []
    for family in order:
        if len(families[family]) <= room - len(chosen):
            chosen += families[family]
    largest = max(map(len, families.values()))
    if not chosen:
        raise DatasetError(
            f"{dataset.path}: no family of questions fits in {room} of {len(rows)} rows (the smallest has "
            f"{min(map(len, families.values()))}, the largest {largest}): raise the share, or the similarity"
        )
    kept = sorted(set(range(len(rows))) - set(chosen))
    asked = ["\n".join(row.questions) for row in rows]
    near = nearest_texts([asked[place] for place in sorted(chosen)], [asked[place] for place in kept], threshold=0.2)
    nearest = max((found for _, found in near.values()), default=0.0)
    return Split(tuple(kept), tuple(sorted(chosen)), len(families), largest, nearest)


def _families(rows: Sequence[Row], named: Sequence[str | None], similarity: float) -> dict[int, list[int]]:
    keys = [
        [f"answer {normalise(row.output)}", *([f"family {name}"] if name else [])]
        for row, name in zip(rows, named, strict=True)
    ]
    members: dict[int, list[int]] = defaultdict(list)
    for place, family in enumerate(clusters(["\n".join(row.questions) for row in rows], similarity, keys)):
        members[family].append(place)
    return members


def write_split(dataset: Dataset, split: Split, folder: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write both sides in the file's own format, and return their paths; both are whole or neither is new.

    Raises:
        DatasetError: a file stands there already, and not `force`.
    """
    suffix = ".jsonl" if dataset.is_jsonl else ".json"
    paths = tuple(folder / f"{dataset.path.stem}.{side}{suffix}" for side in ("train", "validation"))
    for path in paths:
        if path.exists() and not force:
            raise DatasetError(f"{path} stands already: choose another --out-dir, or --force")
    folder.mkdir(parents=True, exist_ok=True)
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        for temporary, places in zip(temporaries, (split.train, split.validation), strict=True):
            write_items(temporary, [dataset.items[place] for place in places], is_jsonl=dataset.is_jsonl)
        for temporary, path in zip(temporaries, paths, strict=True):
            replace_file(temporary, path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
    return paths[0], paths[1]


def write_items(path: Path, items: Sequence[Any], *, is_jsonl: bool) -> None:
    """Write rows as they stood: one a line, or a list. Not atomic: give it a temporary name."""
    if is_jsonl:
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    else:
        text = json.dumps(list(items), indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
