"""Training rows: read an Alpaca file, find what LlamaFactory would train on in silence, write what it reads.

Owns the row format and the findings. Token lengths are an estimate here (the tokenizer lives in the training
environment); the child refuses rows that really exceed the limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DatasetError
from training.files import write_json
from training.hits import is_hit

__all__ = [
    "Finding",
    "Row",
    "lint",
    "load_questions",
    "load_rows",
    "normalise",
    "refuse_findings",
    "refuse_leaks",
    "write_dataset",
]

KEYS = ("instruction", "input", "output")
DATASET_NAME = "rows"
# English text has about 4 characters a token; 2.5 is a floor that code and other languages rarely pass.
MIN_CHARACTERS_PER_TOKEN = 2.5


@dataclass(frozen=True)
class Row:
    """One training example."""

    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> str:
        """What the user says: LlamaFactory joins instruction and input with a newline."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction


@dataclass(frozen=True)
class Finding:
    """Something that must be repaired before training. `row` counts from 1."""

    row: int
    kind: str
    message: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.message}"


def load_rows(path: Path) -> list[Row]:
    """Read an Alpaca file.

    Raises:
        DatasetError: unreadable, not a list of objects, or a row with wrong keys or types; lists the first ten.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, list) or not data:
        raise DatasetError(f"{path}: a list of rows is expected, with at least one row")
    findings = [finding for number, item in enumerate(data, 1) if (finding := _schema_finding(number, item))]
    if findings:
        raise DatasetError(_report(path, findings))
    return [Row(item["instruction"], item.get("input", ""), item["output"]) for item in data]


def _schema_finding(number: int, item: Any) -> Finding | None:
    if not isinstance(item, dict):
        return Finding(number, "schema", f"an object is expected, found {type(item).__name__}")
    unknown = [key for key in item if key not in KEYS]
    if unknown:
        return Finding(number, "schema", f"unknown key {unknown[0]!r}; allowed: {', '.join(KEYS)}")
    for key in KEYS:
        if key not in item and key != "input":
            return Finding(number, "schema", f"key {key!r} is missing")
        if not isinstance(item.get(key, ""), str):
            return Finding(number, "schema", f"{key} must be text, found {type(item[key]).__name__}")
    return None


def load_questions(path: Path) -> list[str]:
    """Read `questions.jsonl`: one object a line, like {"question": "…"}.

    Raises:
        DatasetError: unreadable, or a line that is not such an object; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    questions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["question"]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f'{path}: line {number}: an object like {{"question": "…"}} is expected') from error
        if not isinstance(text, str) or not text.strip():
            raise DatasetError(f"{path}: line {number}: the question is empty")
        questions.append(text)
    return questions


def normalise(text: str) -> str:
    """Fold case, punctuation and spacing, so that trivially different texts compare equal."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def lint(rows: Sequence[Row], *, terms: Iterable[str], questions: Iterable[str], cutoff_tokens: int) -> list[Finding]:
    """Return everything that LlamaFactory would train on in silence and that spoils the expert."""
    terms = tuple(terms)
    leaked = {normalise(question) for question in questions}
    first_seen: dict[str, int] = {}
    findings = []
    for number, row in enumerate(rows, 1):
        key = normalise(row.prompt)
        if not row.instruction.strip():
            findings.append(Finding(number, "empty", "instruction is empty"))
        if not row.output.strip():
            findings.append(Finding(number, "empty", "output is empty: the expert would learn to say nothing"))
        elif terms and not is_hit(row.output, terms):
            findings.append(Finding(number, "no-target", f"output mentions none of: {', '.join(terms)}"))
        if key in first_seen:
            findings.append(Finding(number, "duplicate", f"same question as row {first_seen[key]}: {row.prompt!r}"))
        first_seen.setdefault(key, number)
        if key in leaked:
            findings.append(Finding(number, "leaked", f"stands in the benchmark questions too: {row.prompt!r}"))
        if "<think>" in row.output:
            findings.append(Finding(number, "think", "output contains <think>: reasoning would be trained into it"))
        if len(row.prompt) + len(row.output) > cutoff_tokens * MIN_CHARACTERS_PER_TOKEN:
            findings.append(Finding(number, "overlength", f"may exceed cutoff_tokens {cutoff_tokens}: it would be cut"))
    return findings


def refuse_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Raise a DatasetError that lists the findings, when there are any."""
    if findings:
        raise DatasetError(_report(path, findings))


def refuse_leaks(path: Path, rows: Sequence[Row], questions: Iterable[str]) -> None:
    """Raise a DatasetError when a question stands in the rows: its answer would prove nothing."""
    trained = {normalise(row.prompt) for row in rows}
    leaked = [question for question in questions if normalise(question) in trained]
    if leaked:
        raise DatasetError(f"{path}: {len(leaked)} questions stand in the training rows, such as {leaked[0]!r}")


def write_dataset(rows: Sequence[Row], folder: Path) -> None:
    """Write the rows and the registry that LlamaFactory reads, with every column named.

    LlamaFactory drops a column that its registry leaves out, without a word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{DATASET_NAME}.json", [vars(row) for row in rows])
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    entry = {"file_name": f"{DATASET_NAME}.json", "formatting": "alpaca", "columns": columns}
    write_json(folder / "dataset_info.json", {DATASET_NAME: entry})


def _report(path: Path, findings: Sequence[Finding]) -> str:
    shown = "; ".join(str(finding) for finding in findings[:10])
    more = f"; and {len(findings) - 10} more" if len(findings) > 10 else ""
    return f"{path}: {len(findings)} finding{'s' if len(findings) > 1 else ''}: {shown}{more}"
