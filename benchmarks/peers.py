"""Environments for the peers that a benchmark measures beside Pointsman, each apart from ours.

A peer is a set of packages, installed by name into a virtual environment in the user's cache, under a hash of its
requirements, so that the next run reuses it. Knows nothing of what a peer does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.base import default_cache_dir
from gateway.download import exclusive

__all__ = ["child_environment", "peer_python"]

_MARKER = "pointsman-complete"


def peer_python(name: str, requirements: Sequence[str], *, pip_options: Sequence[str] = ()) -> Path:
    """Return the Python of a peer's environment, made the first time (minutes).

    Args:
        name: of the peer, for the folder and for messages.
        requirements: as pip takes them, versions pinned.
        pip_options: further words for ``pip install``.

    Raises:
        RuntimeError: pip failed; its output stands above.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256("\n".join([version, *pip_options, *requirements]).encode()).hexdigest()[:12]
    folder = default_cache_dir() / "peers" / f"{name}-{key}"
    python = folder / "bin" / "python"
    with exclusive(folder.parent / f".{name}.lock"):
        if not (folder / _MARKER).is_file():
            print(f"making the environment of the peer {name}: {' '.join(requirements)}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, *pip_options, *requirements]):
                if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
                    raise RuntimeError(f"the environment of the peer {name} cannot be made: {' '.join(command)}")
            (folder / _MARKER).touch()
    return python


def child_environment() -> dict[str, str]:
    """Return the variables a peer runs with: ours without what leads to our packages, and nothing that phones home."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
