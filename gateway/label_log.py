"""Collects texts whose score was near the threshold, for a person to label: off unless a file is named.

Each line is what ``pointsman router fit --examples`` and ``evaluate --examples`` read, with ``"expert": "?"`` where the
label goes; both refuse a line until it is there. The file is readable by its owner only, is bounded in size, and
nothing sends it anywhere. Writing happens on a thread of its own, so that a slow disk delays no answer.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .experts import BASE
from .labelled import UNLABELLED
from .selection import Selection

__all__ = ["LabelLog"]

log = logging.getLogger("pointsman.label_log")

MAX_CHARACTERS = 4000
"""Of a longer turn, head and tail are kept, half each: more than most encoders read."""

MAX_TURNS = 8
MAX_PENDING = 64
"""Lines that wait for the disk; more are dropped."""


class LabelLog:
    """Appends lines to `path`; when it would grow over `max_bytes` it becomes `path`.1, replacing the one before."""

    def __init__(self, path: Path, *, band: float, max_bytes: int) -> None:
        """Open.

        Args:
            band: 0–1, how far from the threshold a score may be.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._path, self._band, self._max_bytes = path, band, max_bytes
        self._free = threading.Semaphore(MAX_PENDING)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(self._open())
        except OSError as error:
            raise ConfigError(f"router.label_log {path}: cannot be written: {error.strerror or error}") from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="label-log")

    def consider(self, selection: Selection, turns: Sequence[str]) -> None:
        """Keep the turns if the router decided about them and the score was near the threshold. Does not block."""
        if selection.score is None or selection.threshold is None:
            return
        if abs(selection.score - selection.threshold) <= self._band and self._free.acquire(blocking=False):
            self._thread.submit(self._write, _line(selection, turns))

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._thread.shutdown(wait=True)

    def _write(self, line: bytes) -> None:
        try:
            if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            handle = self._open()
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            log.warning("a text to label was lost", extra={"file": str(self._path), "error": str(error)})
        finally:
            self._free.release()

    def _open(self) -> int:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(handle, 0o600)  # also a file that was there before
        return handle


def _line(selection: Selection, turns: Sequence[str]) -> bytes:
    texts = [_shorten(turn) for turn in turns if turn.strip()][-MAX_TURNS:]
    asked: dict[str, Any] = {"text": texts[0]}
    if len(texts) > 1:
        asked = {"messages": [{"role": "user", "content": text} for text in texts]}
    best = max(selection.scores, key=lambda name: selection.scores[name], default=BASE)
    facts = {
        "expert": UNLABELLED,
        "served": selection.expert,
        "best": best,
        "score": selection.score,
        "threshold": selection.threshold,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return json.dumps({**asked, **facts}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _shorten(text: str) -> str:
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} … {text[-half:]}"
