"""What a result was made with: machine, software, commit. Names no path and no host."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["describe_command", "describe_machine", "describe_software"]

PACKAGES = ("pointsman", "xllamacpp", "onnxruntime", "numpy")


def describe_machine(threads: int | None) -> dict[str, Any]:
    """Say on what it ran; `threads` are the engine's, None for one on each core."""
    cores = os.cpu_count() or 1
    return {
        "processor": _processor(),
        "cores": cores,
        "engine_threads": threads or cores,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 1),
    }


def describe_software() -> dict[str, Any]:
    """Name the versions, and the commit when it runs from a checkout."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"python": platform.python_version(), **versions, "commit": _commit()}


def describe_command(words: Sequence[str]) -> str:
    """Put a command line as it may be shown: of absolute paths the last part alone."""
    return shlex.join(f"…/{Path(word).name}" if word.startswith("/") else word for word in words)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _commit() -> str | None:
    """Return the short commit, marked when files differ from it."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
        state = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + (" with uncommitted changes" if state.stdout.strip() else "")
