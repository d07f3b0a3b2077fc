"""Atomic writes: a reader sees the old file or the new one, never a part of one.

Knows nothing of what the files mean. Hashing is `gateway.experts.file_sha256`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["read_json", "replace_file", "write_json", "write_text"]


def replace_file(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to disk and give it its name."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    replace_file(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; the caller handles its OSError and ValueError."""
    return json.loads(path.read_text(encoding="utf-8"))
