"""Follow a training child to its end: its progress in the terminal, and a person's wish to stop it.

Knows of the child only `progress.jsonl` and signals.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from training.children import end_child

__all__ = ["StopRequests", "follow", "read_progress"]

POLL_S = 0.1
BAR = "{desc}: {n_fmt}/{total_fmt}{postfix} {bar}"


class StopRequests:
    """SIGINT and SIGTERM ask the child to stop after its step; a second one kills it.

    Signals reach a process's main thread alone: elsewhere, as under a web page, this does nothing. Leaving ends the
    child if it still runs.
    """

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self.count = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        end_child(self._child)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _forward(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._child.poll() is None:
            if self.count == 1:
                self._child.send_signal(signal.SIGINT)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGKILL)


def follow(child: subprocess.Popen[bytes], progress: Path, title: str) -> None:
    """Show the child's progress until it ends."""
    position = progress.stat().st_size if progress.is_file() else 0
    every_s = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(desc=title, bar_format=BAR, mininterval=every_s, miniters=1) as bar:
        while True:
            ended = child.poll() is not None
            rows, position = read_progress(progress, position)
            if rows:
                _show(rows[-1], bar)
            if ended:
                return
            time.sleep(POLL_S)


def read_progress(path: Path, position: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the whole lines after `position` in bytes, and where they end."""
    if not path.is_file():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    complete = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:complete].splitlines()], position + complete


def _show(row: dict[str, Any], bar: tqdm[Any]) -> None:
    bar.total = row["total"]
    shown = [
        f"{name} {row[key]:{form}}"
        for key, name, form in (
            ("loss", "loss", ".3f"),
            ("eval_loss", "validation loss", ".3f"),
            ("lr", "learning rate", ".2e"),
            ("grad_norm", "gradient norm", ".2f"),
            ("tokens_per_s", "tokens/s", ".0f"),
        )
        if row.get(key) is not None
    ]
    if row.get("eta_s") is not None:
        shown.append(f"ETA {timedelta(seconds=round(row['eta_s']))}")
    bar.set_postfix_str(", ".join(shown), refresh=False)
    bar.update(row["step"] - bar.n)  # draws it, but in a log no more often than `every_s`
