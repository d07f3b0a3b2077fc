"""Answers that an interrupted measurement got already, one line each, so that none is asked for twice.

Owns the file. Answers of another adapter, base or prompt count for nothing; a torn last line, as a kill leaves it, is
dropped.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.engine import Answer

__all__ = ["Asked"]


class Asked:
    """The answers by scale and question. `settings` is all else that an answer depends on."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._answers: dict[tuple[float, str], Answer] = {}
        lines = path.read_bytes() if path.is_file() else b""
        whole = lines[: lines.rfind(b"\n") + 1]
        first, *rest = [json.loads(line) for line in whole.splitlines()] or [None]
        if first != settings:
            path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
            return
        for line in rest:
            self._answers[line["scale"], line["question"]] = Answer(**line["answer"])
        if len(whole) < len(lines):
            os.truncate(path, len(whole))

    def get(self, scale: float, question: str) -> Answer | None:
        """Return the answer, None if it was not asked for yet."""
        return self._answers.get((scale, question))

    def add(self, scale: float, question: str, answer: Answer) -> None:
        """Remember an answer from now on."""
        self._answers[scale, question] = answer
        line = {"scale": scale, "question": question, "answer": asdict(answer)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget(self) -> None:
        """Remove the file: the measurement holds the answers now."""
        self._path.unlink(missing_ok=True)
