"""One progress display over all steps of all experts, on standard error.

Owns the words and the outer bar; a step's own bar stands below it while it runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tqdm import tqdm

__all__ = ["Display"]

BAR = "{desc}: step {n_fmt} of {total_fmt} {bar} {elapsed}"


class Display:
    """A context manager; `begin` an expert, then each `step` once, or `done` for one that was skipped."""

    def __init__(self, experts: Sequence[str], steps: Sequence[str]) -> None:
        every_s = 0.1 if sys.stderr.isatty() else 60.0
        self._bar: tqdm[Any] = tqdm(
            total=len(experts) * len(steps), bar_format=BAR, mininterval=every_s, position=0, desc="pipeline"
        )
        self._expert = ""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def begin(self, expert: str) -> None:
        """Name the expert that the following steps are for."""
        self._expert = expert

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a step while it runs, and say how long it took."""
        self._bar.set_description_str(f"{self._expert}: {name}")
        started = time.monotonic()
        yield
        self.done(name, f"{time.monotonic() - started:.1f} s")

    def done(self, name: str, how: str) -> None:
        """Count a step."""
        self._bar.update()
        self.say(f"{self._expert}: {name}: {how}")

    def say(self, text: str) -> None:
        """Print lines without disturbing the bars."""
        self._bar.write(text, file=sys.stderr)
