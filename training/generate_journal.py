"""What paraphrasing has done so far, one line an attempt, so that a killed command goes on where it stopped.

Owns the file beside the output. A torn last line, as `kill -9` leaves it, is dropped. Other settings than the file's
are refused: they would mix two data sets.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from training.errors import DatasetError

__all__ = ["Journal"]


class Journal:
    """Entries of earlier calls in `entries`; `append` adds one."""

    def __init__(self, path: Path, settings: dict[str, Any], *, restart: bool = False) -> None:
        """Read what stands there.

        Raises:
            DatasetError: the file belongs to other settings, and not `restart`.
        """
        self.path = path
        self.entries: list[dict[str, Any]] = []
        self._digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._file: IO[bytes] | None = None
        if restart:
            path.unlink(missing_ok=True)
        if path.is_file():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise DatasetError(f"{self.path}: not a journal: {error}; --restart begins anew") from error
        if lines and lines[0] != {"settings": self._digest}:
            raise DatasetError(
                f"{self.path} belongs to other settings or another topic file: give those again, or --restart"
            )
        self.entries = lines[1:]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab", buffering=0)
        if self._file.tell() == 0:
            self.append({"settings": self._digest})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, entry: dict[str, Any]) -> None:
        """Write one entry; it stands before this returns, unless the machine itself dies."""
        if self._file is None:
            raise ValueError("the journal is not open")
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def remove(self) -> None:
        """Forget it: the output stands."""
        self.path.unlink(missing_ok=True)
