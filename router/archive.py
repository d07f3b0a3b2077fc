"""Write a NumPy archive with JSON inside, no pickle, in one step. Knows nothing of what it holds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_archive(path: Path, meta: Mapping[str, Any], arrays: Mapping[str, Any], *, mode: int = 0o644) -> None:
    """Write `arrays` by name, and `meta` as UTF-8 JSON in an array of that name, replacing what is at `path`.

    Args:
        mode: the file's permissions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            text = json.dumps(meta).encode()
            np.savez(file, allow_pickle=False, meta=np.frombuffer(text, dtype=np.uint8), **arrays)
        Path(name).chmod(mode)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
