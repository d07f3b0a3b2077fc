"""Training rows for a run: read a file, refuse what spoils an expert, write what LlamaFactory reads.

The formats are `dataset_format`'s, the checks `lint_checks`'; `lint` has the whole report for a person.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.dataset_format import load_dataset
from training.dataset_row import Finding, Row, normalise
from training.dataset_tokens import Estimate, TokenCounter
from training.errors import DatasetError
from training.files import write_json
from training.lint_checks import Expectations, check_rows
from training.lint_kinds import KINDS, errors

__all__ = [
    "DATASET_NAME",
    "Finding",
    "Row",
    "check_file",
    "lint",
    "load_questions",
    "load_rows",
    "normalise",
    "refuse_findings",
    "refuse_leaks",
    "write_dataset",
]

DATASET_NAME = "rows"
SHOWN = 10


def load_rows(path: Path) -> list[Row]:
    """Read a training file of any of the formats.

    Raises:
        DatasetError: unreadable, no known format, or rows that cannot be read; lists the first ten.
    """
    dataset = load_dataset(path)
    refuse_findings(path, errors(list(dataset.findings)))
    return [row for row in dataset.rows if row is not None]


def check_file(
    path: Path,
    *,
    terms: Iterable[str],
    questions: Iterable[str],
    cutoff_tokens: int | None,
    tokens: TokenCounter | None = None,
) -> list[Row]:
    """Read a training file and refuse all that spoils an expert, in one error.

    Args:
        cutoff_tokens: longest row; None leaves lengths to somebody who can count them.

    Raises:
        DatasetError: as `load_rows`, and everything that `lint` finds.
    """
    dataset = load_dataset(path)
    longest = sys.maxsize if cutoff_tokens is None else cutoff_tokens
    expected = Expectations(tuple(terms), tuple(questions), longest, tokens or Estimate())
    findings = [*dataset.findings, *check_rows(dataset.rows, expected)]
    refuse_findings(path, sorted(_refused(findings), key=lambda finding: finding.row))
    return [row for row in dataset.rows if row is not None]


def _refused(findings: list[Finding]) -> list[Finding]:
    """Errors, and rows that may be too long: what cannot be counted must not be cut unnoticed."""
    uncounted = [finding for finding in findings if finding.kind == "overlength-estimate"]
    return errors(findings) + uncounted


def load_questions(path: Path) -> list[str]:
    """Read `questions.jsonl`: one object a line, like {"question": "…"}.

    Raises:
        DatasetError: unreadable, or a line that is not such an object; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text (byte {error.start})") from error
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


def lint(
    rows: Sequence[Row],
    *,
    terms: Iterable[str],
    questions: Iterable[str],
    cutoff_tokens: int,
    tokens: TokenCounter | None = None,
) -> list[Finding]:
    """Return everything that LlamaFactory would train on in silence and that spoils the expert.

    Args:
        tokens: the base's tokenizer; without it lengths are estimated, and a row that may be too long is refused.
    """
    return _refused(check_rows(rows, Expectations(tuple(terms), tuple(questions), cutoff_tokens, tokens or Estimate())))


def refuse_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Raise a DatasetError that lists the findings, when there are any."""
    if findings:
        headline = f"{path}: {len(findings)} finding{'s' if len(findings) > 1 else ''}"
        more = f"; and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
        listed = "; ".join(str(finding) for finding in findings[:SHOWN])
        lines = [f"{finding} ({KINDS[finding.kind].advice})" for finding in findings]
        raise DatasetError(f"{headline}: {listed}{more}", headline, lines)


def refuse_leaks(path: Path, rows: Sequence[Row], questions: Iterable[str]) -> None:
    """Raise a DatasetError when a question stands in the rows: its answer would prove nothing."""
    trained = {normalise(question) for row in rows for question in row.questions}
    leaked = [question for question in questions if normalise(question) in trained]
    if leaked:
        raise DatasetError(f"{path}: {len(leaked)} questions stand in the training rows, such as {leaked[0]!r}")


def write_dataset(rows: Sequence[Row], folder: Path) -> None:
    """Write the rows and the registry that LlamaFactory reads, with every column named.

    LlamaFactory drops a column that its registry leaves out, without a word. Columns that no row uses are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    columns |= {key: key for key in ("system", "history") if any(getattr(row, key) for row in rows)}
    written: list[dict[str, Any]] = [{key: getattr(row, key) for key in columns.values()} for row in rows]
    write_json(folder / f"{DATASET_NAME}.json", written)
    entry = {"file_name": f"{DATASET_NAME}.json", "formatting": "alpaca", "columns": columns}
    write_json(folder / "dataset_info.json", {DATASET_NAME: entry})
