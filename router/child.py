"""Do one job in a child process, which ends with whoever started it: it watches its standard input.

The job is one line of JSON on the child's standard input; what the child says on standard output is why it failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["LAST_NICENESS", "NICENESS", "Child", "ChildFailed", "give_way", "read_job"]


NICENESS = 5
"""A quarter of a core beside a thread that never rests, and all of it otherwise (Linux's weights: 335 and 1024)."""

LAST_NICENESS = 10
"""A third of what a child of the other niceness has (110 to 335)."""

AUTOGROUP = Path("/proc/self/autogroup")
"""Linux shares a core between sessions first, and niceness counts only within one (sched(7), "The autogroup feature").
The engine has a session of its own: a nice child in the gateway's would still take half of each of its cores."""


class ChildFailed(Exception):
    """The child could not do its job, or was ended; the text is what it said, possibly nothing."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status
        """Its exit code; negative: the signal that ended it."""


class Child:
    """One child. `run` from one thread, `kill` from any."""

    def __init__(self, module: str) -> None:
        """Start it.

        Args:
            module: whose `main` reads the job with `read_job` and returns an exit code.
        """
        # Not `-m`: the package imports its modules, which Python then warns of. The working directory makes them
        # importable from a checkout that is not installed.
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, job: dict[str, Any], *, timeout_s: float | None = None) -> None:
        """Give it the job and wait for its end.

        Raises:
            ChildFailed: it ended with another exit code than 0.
            TimeoutError: it took longer than `timeout_s`, and was ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_s or 0, end)
        if timeout_s is not None:
            timer.start()
        try:
            try:
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
                reason = process.stdout.read().strip()
            except BrokenPipeError:  # ended before it had read all
                reason = ""
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):  # what it had not read is written once more
                process.stdin.close()
            process.stdout.close()
        if late.is_set():
            raise TimeoutError
        if status != 0:
            raise ChildFailed(reason, status)

    def kill(self) -> None:
        """End it; `run` raises, unless it had just finished."""
        self._process.kill()


def read_job() -> Any:
    """In the child: return the job, and from now on end with the owner."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_owner, daemon=True).start()
    return job


def _end_with_owner() -> None:
    sys.stdin.read()
    os._exit(1)


def give_way(niceness: int = NICENESS) -> None:
    """In the child: raise the niceness of this process, and of its session where the system counts those."""
    if hasattr(os, "nice"):
        os.nice(niceness)
    if AUTOGROUP.exists():
        with contextlib.suppress(OSError):  # it leads a session already, or may not say how nice this one is
            os.setsid()
            AUTOGROUP.write_text(str(niceness))
