"""Processes in the training environment: started with our variables, and never outliving the one that started them.

Owns how they are tied (`child/tied.py` watches a pipe) and what of their output a person sees. Knows nothing of what
they compute.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from training.environment import child_environment
from training.errors import TrainingError
from training.files import read_json, write_json

__all__ = ["CHILD_SCRIPTS", "ask_child", "end_child", "last_lines", "run_child", "start_child"]

CHILD_SCRIPTS = Path(__file__).parent / "child"


def start_child(
    python: Path | str, script: Path, *arguments: str, log: IO[bytes], launcher: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start a script in a session of its own; standard output and error go to `log`.

    A Ctrl-C in the terminal reaches the caller alone. The child is killed when the caller closes the child's standard
    input, or ends. `launcher` stands between Python and the script: what starts it once for each device.
    """
    return subprocess.Popen(
        [str(python), *launcher, str(CHILD_SCRIPTS / "tied.py"), str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=child_environment(),
        start_new_session=True,
    )


def end_child(child: subprocess.Popen[bytes]) -> None:
    """Kill a child that still runs, and what it started."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdin is not None:
        child.stdin.close()


def run_child(python: Path | str, script: Path, *arguments: str) -> tuple[int, str]:
    """Run a script to its end; return its exit code and everything it wrote."""
    with tempfile.TemporaryFile(prefix="pointsman-child-") as log:
        child = start_child(python, script, *arguments, log=log)
        try:
            returncode = child.wait()
        finally:
            end_child(child)
        log.seek(0)
        return returncode, log.read().decode(errors="replace")


def ask_child(python: Path | str, script: str, spec: dict[str, Any], *, log: Path | None = None) -> Any:
    """Run one of our scripts on `spec` and return the JSON it wrote to the path `spec["output"]` that is added.

    Args:
        log: a file to which everything that the child wrote is appended.

    Raises:
        TrainingError: it failed; carries its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="pointsman-child-") as folder:
        spec_path, output = Path(folder) / "spec.json", Path(folder) / "output.json"
        write_json(spec_path, spec | {"output": str(output)})
        returncode, written = run_child(python, CHILD_SCRIPTS / script, str(spec_path))
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(written)
        if returncode or not output.is_file():
            raise TrainingError(f"{script} failed (exit code {returncode}): {last_lines(written, 3)}")
        return read_json(output)


def last_lines(text: str, count: int) -> str:
    """Put the last lines of an output in one."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])
