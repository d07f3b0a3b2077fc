"""Read training files: Alpaca, ShareGPT or OpenAI messages, as JSON or JSONL.

Owns the formats and what LlamaFactory would drop, skip or guess in silence when it reads them. A row that cannot be
read becomes a finding, so that one report names them all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from training.dataset_keys import ALPACA_KEYS, KEYS, MESSAGE_KEYS, key_findings, nearest, type_name
from training.dataset_messages import RowError, read_messages
from training.dataset_row import Finding, Row
from training.errors import DatasetError

__all__ = ["Dataset", "Format", "load_dataset", "read_items"]


class Format(StrEnum):
    """How rows are laid out."""

    ALPACA = "Alpaca"
    SHAREGPT = "ShareGPT"
    OPENAI = "OpenAI messages"


CONTAINERS = {Format.SHAREGPT: "conversations", Format.OPENAI: "messages"}
EXPECTED = "Alpaca (instruction, input, output), ShareGPT (conversations) or OpenAI messages (messages)"


@dataclass(frozen=True)
class Dataset:
    """One file. `rows` has None where a row cannot be read; `items` are the objects as they stand in the file."""

    path: Path
    format: Format
    is_jsonl: bool
    items: tuple[Any, ...]
    rows: tuple[Row | None, ...]
    findings: tuple[Finding, ...]

    @property
    def families(self) -> list[str | None]:
        """The optional `family` of each row: rows of one family are never split."""
        named = [item.get("family") if isinstance(item, dict) else None for item in self.items]
        return [name if isinstance(name, str) else None for name in named]


def load_dataset(path: Path) -> Dataset:
    """Read a file and recognise its format; rows that cannot be read become findings.

    Raises:
        DatasetError: unreadable, no JSON, no rows, or none of the formats.
    """
    items, is_jsonl = read_items(path)
    layout = _detect(path, items)
    rows: list[Row | None] = []
    findings: list[Finding] = []
    ignored: Counter[str] = Counter()
    for number, item in enumerate(items, 1):
        row, found, extra = _read_row(number, item, layout)
        rows.append(row)
        findings += found
        ignored.update(extra)
    for key, count in ignored.items():
        findings.append(Finding(0, "ignored-key", f"key {key!r} stands in {count} rows and is not read"))
    return Dataset(path, layout, is_jsonl, tuple(items), tuple(rows), tuple(findings))


def read_items(path: Path) -> tuple[list[Any], bool]:
    """Return what a JSON list or a JSONL file holds, and whether it is JSONL.

    Raises:
        DatasetError: unreadable, neither JSON nor JSONL, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text (byte {error.start})") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DatasetError(f"{path}: empty: a list of rows is expected, with at least one row")
    is_jsonl = lines[0][1].lstrip().startswith("{")
    if not is_jsonl or (len(lines) > 1 and not _is_json(lines[0][1])):
        return _whole(path, text), False
    return [_parse(f"{path}: line {number}", line) for number, line in lines], True


def _whole(path: Path, text: str) -> list[Any]:
    data = _parse(str(path), text)
    if not isinstance(data, list) or not data:
        found = "an empty one" if isinstance(data, list) else type_name(data)
        raise DatasetError(f"{path}: a list of rows is expected, with at least one row; found {found}")
    return data


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _parse(where: str, text: str) -> Any:
    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            raise DatasetError(f"{where}: the key {twice[0]!r} stands twice in one object")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=refuse_twice)
    except ValueError as error:
        raise DatasetError(f"{where}: not valid JSON: {error}") from error


def _detect(path: Path, items: Sequence[Any]) -> Format:
    """The format most rows have; keys with typos count only where no row has a right one."""
    objects = [item for item in items if isinstance(item, dict)]
    if not objects:
        return Format.ALPACA
    for guess in (False, True):
        votes = Counter(layout for item in objects if (layout := _layout_of(item, guess)))
        if votes:
            return votes.most_common(1)[0][0]
    keys = ", ".join(repr(key) for key in objects[0]) or "no key at all"
    raise DatasetError(f"{path}: neither {EXPECTED}: its first row has {keys}")


def _layout_of(item: dict[str, Any], guess: bool) -> Format | None:
    keys = {nearest(key, KEYS) or key for key in item} if guess else set(item)
    for layout, container in CONTAINERS.items():
        if container in keys:
            return layout
    return Format.ALPACA if keys & {"instruction", "input", "output"} else None


def _read_row(number: int, item: Any, layout: Format) -> tuple[Row | None, list[Finding], list[str]]:
    """Return the row, what is wrong with it, and the keys that nothing reads."""
    if not isinstance(item, dict):
        return None, [Finding(number, "schema", f"an object is expected, found {type_name(item)}")], []
    own = _layout_of(item, guess=False)
    if own not in (None, layout):
        message = f"this row is {own}, the file is {layout}: one file has one format"
        return None, [Finding(number, "schema", message)], []
    allowed = ALPACA_KEYS if layout is Format.ALPACA else (CONTAINERS[layout], *MESSAGE_KEYS)
    findings, extra = key_findings(number, item, allowed)
    if findings:
        return None, findings, extra
    try:
        row = _alpaca(item) if layout is Format.ALPACA else read_messages(item, CONTAINERS[layout])
    except RowError as error:
        return None, [Finding(number, error.kind, str(error))], extra
    return row, [], extra


def _alpaca(item: dict[str, Any]) -> Row:
    for key in ("instruction", "output"):
        if key not in item:
            raise RowError("schema", f"key {key!r} is missing")
        if not isinstance(item[key], str):
            raise RowError("schema", f"{key} must be text, found {type_name(item[key])}")
    for key in ("input", "system"):
        if not isinstance(item.get(key), str | None):
            raise RowError("schema", f"{key} must be text, found {type_name(item[key])}")
    history = item.get("history") or []
    if not isinstance(history, list) or not all(_is_pair(pair) for pair in history):
        raise RowError("schema", "history must be a list of [question, answer] pairs of text")
    pairs = tuple((user, assistant) for user, assistant in history)
    return Row(item["instruction"], item.get("input") or "", item["output"], item.get("system") or "", pairs)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)
