"""The converter's preflight: adapters that llama.cpp's converter drops, changes or breaks on, some of them in silence.

Owns the reasons. Reads the adapter's configuration and the header of its tensors, never the tensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import ConvertError
from training.files import read_json

__all__ = ["AdapterFacts", "check_adapter_config", "check_adapter_tensors", "preflight"]

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "embed_out")
UNCONVERTIBLE = {
    "use_dora": "llama.cpp has no DoRA adapters",
    "use_rslora": "llama.cpp scales by alpha/rank, this adapter was trained with alpha/sqrt(rank)",
    "use_qalora": "llama.cpp has no QALoRA adapters",
    "alpha_pattern": "the converter ignores a different alpha for some layers",
    "modules_to_save": "the converter has no place for whole trained modules",
    "target_parameters": "the converter has no place for adapters on fused parameters",
    "lora_bias": "the converter drops trained biases",
    "trainable_token_indices": "the converter drops trained tokens",
    "layer_replication": "llama.cpp does not replicate layers",
    "alora_invocation_tokens": "the engine switches an activated LoRA off until its tokens are met",
}
# Initialisations that change the base: the adapter fits a base that nobody serves.
BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
LORA_TENSORS = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class AdapterFacts:
    """What the GGUF must hold."""

    alpha: float
    modules: int


def preflight(folder: Path) -> AdapterFacts:
    """Refuse an adapter that would not run in the engine as it was trained.

    Raises:
        ConvertError: one line: what the adapter has and why that cannot be converted.
    """
    try:
        config = read_json(folder / CONFIG_FILE)
    except (OSError, ValueError) as error:
        raise ConvertError(f"{folder}: no readable {CONFIG_FILE}: {error}") from error
    check_adapter_config(config)
    shapes = _read_shapes(folder / TENSORS_FILE)
    check_adapter_tensors(shapes, config)
    return AdapterFacts(alpha=float(config["lora_alpha"]), modules=len(shapes) // 2)


def check_adapter_config(config: dict[str, Any]) -> None:
    """Refuse what llama.cpp cannot run as it was trained.

    Raises:
        ConvertError: names the setting and why.
    """
    if config.get("peft_type", "LORA") != "LORA":
        raise ConvertError(f"{CONFIG_FILE}: peft_type is {config['peft_type']!r}, only 'LORA' can be converted")
    for key, reason in UNCONVERTIBLE.items():
        if config.get(key):
            raise ConvertError(f"{CONFIG_FILE}: {key} is {config[key]!r}: {reason}")
    if config.get("bias", "none") != "none":
        raise ConvertError(f"{CONFIG_FILE}: bias is {config['bias']!r}, only 'none' can be converted")
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ConvertError(f"{CONFIG_FILE}: {key} is {value!r}, a number above 0 is expected")
    initial = config.get("init_lora_weights", True)
    if isinstance(initial, str) and initial.lower().startswith(BASE_CHANGING):
        raise ConvertError(
            f"{CONFIG_FILE}: init_lora_weights is {initial!r}: it changed the base; convert its converted copy"
        )
    targets = config.get("target_modules") or []
    for name in [targets] if isinstance(targets, str) else targets:
        if any(name.split(".")[-1] == embedding for embedding in EMBEDDINGS):
            raise ConvertError(f"{CONFIG_FILE}: target_modules has {name!r}: llama.cpp aborts on it")


def check_adapter_tensors(shapes: dict[str, list[int]], config: dict[str, Any]) -> None:
    """Refuse tensors that the converter has no place for, and modules that are not whole.

    Raises:
        ConvertError: names the tensor.
    """
    if not shapes:
        raise ConvertError(f"{TENSORS_FILE}: it holds no tensors")
    ranks = {config["r"], *(config.get("rank_pattern") or {}).values()}
    for name, shape in shapes.items():
        suffix = next((each for each in LORA_TENSORS if name.endswith(each)), None)
        module = name.removesuffix(suffix or "")
        if module.split(".")[-1] in EMBEDDINGS or ".lora_embedding_" in name:
            raise ConvertError(
                f"{TENSORS_FILE}: tensor {name} adapts the embedding or the head: llama.cpp aborts on it"
            )
        if suffix is None:
            raise ConvertError(f"{TENSORS_FILE}: tensor {name} is neither lora_A nor lora_B")
        missing = [module + each for each in LORA_TENSORS if module + each not in shapes]
        if missing:
            raise ConvertError(f"{TENSORS_FILE}: tensor {missing[0]} is missing")
        rank = shape[0] if suffix == LORA_TENSORS[0] else shape[-1]
        if rank not in ranks:
            allowed = ", ".join(str(each) for each in sorted(ranks))
            raise ConvertError(f"{TENSORS_FILE}: tensor {name} has rank {rank}, {CONFIG_FILE} says {allowed}")


def _read_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shape of every tensor, from the file's header alone."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ValueError, MemoryError, OverflowError) as error:
        raise ConvertError(f"{path}: no readable {TENSORS_FILE}: {error}") from error
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
