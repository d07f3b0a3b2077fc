"""Atomic writes: a reader sees the old file or the new one, never a part of one.

Knows nothing of what the files mean. Hashing is `gateway.experts.file_sha256`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

__all__ = ["read_json", "replace_file", "write_json", "write_part", "write_text"]


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


def write_part(path: Path, part: str) -> None:
    """Put a part of a Markdown page in the place of the one with the same first line, or at the page's end.

    Args:
        part: begins with a `# heading`; a part ends where the next `# heading` begins, so it may hold no other.
    """
    heading = part.split("\n", 1)[0]
    page = path.read_text(encoding="utf-8").rstrip("\n") if path.is_file() else ""
    parts = [old for old in re.split(r"^(?=# )", page, flags=re.MULTILINE) if old.strip()]
    places = [place for place, old in enumerate(parts) if old.split("\n", 1)[0] == heading]
    if places:
        parts[places[0]] = part
    else:
        parts.append(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n\n".join(old.strip("\n") for old in parts) + "\n")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; the caller handles its OSError and ValueError."""
    return json.loads(path.read_text(encoding="utf-8"))
