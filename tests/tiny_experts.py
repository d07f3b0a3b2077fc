"""Experts small enough to make at test time: random adapters of rank 2 for SmolLM2-135M, with real manifests.

They say nothing sensible, but each changes the base model's answers in its own way, and the same way every time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import gguf
import numpy as np

from gateway.base import BaseIdentity
from gateway.experts import ADAPTER_FILE, MANIFEST_FILE, Expert, FileHash, Manifest, Target, file_sha256, load_expert
from training.versions import write_manifest

__all__ = ["EXPERTS_DIR", "NAMES", "write_adapter", "write_expert"]

EXPERTS_DIR = Path(__file__).parents[1] / "experts"
NAMES = ("baking", "cycling", "gardening", "stargazing")

_RANK = 2
_BLOCKS, _HIDDEN, _FFN = 30, 576, 1536  # SmolLM2-135M


def write_adapter(path: Path, seed: int, strength: float = 0.6) -> Path:
    """Write a LoRA over every block's ``ffn_down``: a quarter of a megabyte, the same bytes for the same seed."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(_RANK))
    for block in range(_BLOCKS):
        down = random.normal(0, 1 / np.sqrt(_FFN), (_RANK, _FFN))
        up = random.normal(0, strength, (_HIDDEN, _RANK))
        writer.add_tensor(f"blk.{block}.ffn_down.weight.lora_a", down.astype(np.float32))
        writer.add_tensor(f"blk.{block}.ffn_down.weight.lora_b", up.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_expert(root: Path, name: str, base: BaseIdentity, *, seed: int, examples: Sequence[str] = ()) -> Expert:
    """Write ``root/name`` as ``publish`` would, manifest last; without ``examples`` they and the rows are the
    repository's own of that name."""
    directory = root / name
    directory.mkdir(parents=True)
    write_adapter(directory / ADAPTER_FILE, seed)
    if examples:
        lines = [json.dumps({"text": text}) for text in examples]
        (directory / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (directory / "dataset.json").write_text("[]", encoding="utf-8")
    else:
        for file in ("examples.jsonl", "dataset.json"):
            shutil.copy(EXPERTS_DIR / name / file, directory / file)
    (directory / "questions.jsonl").write_text("", encoding="utf-8")
    write_manifest(manifest_of(directory, base), directory / MANIFEST_FILE)
    return load_expert(directory, base)


def manifest_of(directory: Path, base: BaseIdentity) -> Manifest:
    """The manifest that fits the files now in ``directory``."""

    def hashed(file: str) -> FileHash:
        return FileHash(file=file, sha256=file_sha256(directory / file))

    return Manifest(
        name=directory.name,
        title=directory.name.capitalize(),
        description=f"A random adapter called {directory.name}.",
        version="1.0.0",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        adapter=hashed(ADAPTER_FILE),
        dataset=hashed("dataset.json"),
        examples=hashed("examples.jsonl"),
        questions=hashed("questions.jsonl"),
        base=base,
        generation={"temperature": 0},
        targets=(Target(term="Verdania"),),
        recipe_sha256="0" * 64,
        converter="tests",
    )
