"""The training environment: LlamaFactory with its pinned requirements, apart from the gateway's environment.

Owns where it lies (the user's cache, under a hash of its requirements, so that a second clone reuses it) and how it is
made. `python -m training.environment` makes it and prints its Python; where it exists, that takes milliseconds. The
variant made last by name (`--variant rocm`) is the one used from then on.
`POINTSMAN_TRAIN_PYTHON` names the Python of an environment of your own instead.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from gateway.base import default_cache_dir
from gateway.download import exclusive
from training.errors import SetupError, TrainingError
from training.files import write_text

__all__ = ["VARIANTS", "child_environment", "ensure_environment", "find_environment"]

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
MARKER = "pointsman-complete"
CHOICE = "variant"
DEFAULT = "default"
# Where pip finds torch for each kind of machine. `default` is the package index's own build: CUDA on Linux, and it
# computes on the CPU where there is no GPU. It is the one that the shipped experts were trained with.
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "cpu": ("--extra-index-url", "https://download.pytorch.org/whl/cpu"),
    "cuda": ("--extra-index-url", "https://download.pytorch.org/whl/cu128"),
    "rocm": ("--extra-index-url", "https://download.pytorch.org/whl/rocm6.4"),
}


def environment_dir(cache_dir: Path, variant: str) -> Path:
    """Return the folder for these requirements, this variant and this Python version."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + f"{variant} {version}".encode()).hexdigest()[:16]
    return cache_dir / "train-env" / key


def chosen_variant(cache_dir: Path) -> str:
    """Return the variant that was last made by name in this cache, or the default."""
    try:
        chosen = (cache_dir / "train-env" / CHOICE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return DEFAULT
    return chosen if chosen in VARIANTS else DEFAULT


def find_environment(cache_dir: Path, variant: str | None = None) -> Path:
    """Return the training environment's Python; of the variant chosen last when none is named.

    Raises:
        SetupError: there is none yet; names the command that makes it.
    """
    named = os.environ.get("POINTSMAN_TRAIN_PYTHON")
    folder = environment_dir(cache_dir, variant or chosen_variant(cache_dir))
    python = Path(named) if named else folder / "bin" / "python"
    if named and not python.is_file():
        raise SetupError(f"POINTSMAN_TRAIN_PYTHON is {named!r}: no such file")
    if not named and not (folder / MARKER).is_file():
        raise SetupError(f"there is no training environment ({folder}): make it with `make train-env`")
    return python


def ensure_environment(cache_dir: Path, variant: str | None = None) -> Path:
    """Return the training environment's Python, making the environment the first time (minutes, several GB).

    A variant that is named is the chosen one from then on.

    Raises:
        SetupError: an unknown variant, or pip failed.
    """
    named, variant = variant, variant or chosen_variant(cache_dir)
    if variant not in VARIANTS:
        raise SetupError(f"variant {variant!r} is unknown; allowed: {', '.join(VARIANTS)}")
    folder = environment_dir(cache_dir, variant)
    if not os.environ.get("POINTSMAN_TRAIN_PYTHON") and not (folder / MARKER).is_file():
        with exclusive(folder.parent / ".lock"):
            if not (folder / MARKER).is_file():
                _make(folder, variant)
    if named is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_text(folder.parent / CHOICE, f"{named}\n")
    return find_environment(cache_dir, variant)


def child_environment() -> dict[str, str]:
    """Return the variables a training child runs with: ours, and nothing that phones home or spins."""
    return os.environ | {
        "DISABLE_VERSION_CHECK": "1",  # the pins are ours; LlamaFactory's own check refuses newer patch releases
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Worker threads that wait by spinning make a step twenty times slower when another process wants the core.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }


def _make(folder: Path, variant: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    _run([python, "-m", "pip", "install", "--disable-pip-version-check", *VARIANTS[variant], "-r", str(REQUIREMENTS)])
    write_text(folder / MARKER, f"{variant}\n")


def _run(command: list[str]) -> None:
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
        raise SetupError(f"the training environment cannot be made, this failed: {' '.join(command)}")


def main() -> int:
    """Make the environment and print its Python."""
    parser = argparse.ArgumentParser(description="Make the training environment.")
    parser.add_argument("--variant", choices=VARIANTS, help="default: the one made last by name")
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    arguments = parser.parse_args()
    try:
        print(ensure_environment(arguments.cache_dir, arguments.variant))
    except TrainingError as error:
        print(f"train-env: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
