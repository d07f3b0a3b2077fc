"""The answers of one benchmark: one line each in `answers.jsonl`, written as it is given, read back to resume.

Owns the file's form and the two logs for people. Knows nothing of engines or verdicts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from training.engine import Answer
from training.errors import BenchmarkError
from training.files import write_text

__all__ = ["ANSWERS_FILE", "AnswerLog", "Asked", "Record", "Side", "write_log"]

ANSWERS_FILE = "answers.jsonl"


class Side(StrEnum):
    """Who answered."""

    VANILLA = "vanilla"
    """The base in a process without adapters."""
    PROMPTED = "prompted"
    """The same with a system prompt that asks to recommend the targets."""
    EXPERT = "expert"
    """The base with the expert's adapter."""


class Asked(StrEnum):
    """What was asked."""

    OWN = "own"
    """A question of the expert's domain."""
    UNRELATED = "unrelated"
    """A question of no expert's domain; the vanilla side answers it once for all experts."""
    SPEED = "speed"
    """A prompt of fixed length, answered at fixed length, for the speed alone."""


@dataclass(frozen=True)
class Record:
    """One answer, and all that says which one it is."""

    side: Side
    asked: Asked
    expert: str
    """Empty where the answer does not depend on the expert."""
    repeat: int
    question: str
    answer: Answer

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What makes an answer the same answer when a benchmark is resumed."""
        return (self.side, self.asked, self.expert, self.repeat, self.question)


class AnswerLog:
    """All answers so far, by key. Several threads may add."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. A last line that was cut by a crash is dropped.

        Raises:
            BenchmarkError: another line is damaged; names it.
        """
        self._lock = threading.Lock()
        self._path = path
        self.records: dict[tuple[str, str, str, int, str], Record] = {}
        if path.is_file():
            self._load()

    def _load(self) -> None:
        data = self._path.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]
        if complete != data:
            write_text(self._path, complete.decode("utf-8"))
        for number, line in enumerate(complete.decode("utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                row |= {"side": Side(row["side"]), "asked": Asked(row["asked"]), "answer": Answer(**row["answer"])}
                record = Record(**row)
            except (ValueError, KeyError, TypeError) as error:
                raise BenchmarkError(f"{self._path}: line {number} is damaged ({error}): start afresh") from error
            self.records[record.key] = record

    def add(self, record: Record) -> None:
        """Write one answer to the disk and keep it."""
        line = json.dumps(asdict(record), ensure_ascii=False) + "\n"
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line)
            self.records[record.key] = record

    def get(self, side: Side, asked: Asked, expert: str, question: str, repeat: int = 0) -> Answer:
        """Return an answer that has been given."""
        return self.records[(side, asked, expert, repeat, question)].answer


def write_log(path: Path, records: Iterable[Record]) -> None:
    """Write questions and answers for a person to read."""
    parts = []
    for number, record in enumerate(records, 1):
        answer = record.answer
        facts = f"{answer.completion_tokens} tokens, {answer.finish_reason}"
        whose = f"{record.expert or 'all experts'}, {record.asked} question, {record.side}"
        parts.append(f"=== {number} | {whose} | {facts}\nQ: {record.question}\nA: {answer.text.strip()}\n")
    write_text(path, "\n".join(parts))
