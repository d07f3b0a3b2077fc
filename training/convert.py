"""Convert a run's PEFT adapter to GGUF with llama.cpp's own converter, in place in its sources.

Owns the preflight (adapters that the converter drops or changes, some in silence) and the check of what came out.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from gateway.base import default_cache_dir
from training.archive import CONVERTER_BUILD, ensure_llama_cpp
from training.environment import child_environment
from training.errors import ConvertError
from training.files import read_json, replace_file
from training.recipe import load_recipe
from training.run import Run, State

__all__ = ["CONVERTER_BUILD", "check_adapter_config", "check_gguf", "convert"]

EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "embed_out")


def convert(run_dir: Path, *, outtype: str | None = None, cache_dir: Path | None = None) -> Path:
    """Convert a trained run and return its GGUF.

    Args:
        outtype: another type than the recipe's: f16, f32 or q8_0.

    Raises:
        ConvertError: an adapter that llama.cpp cannot run as trained, or a conversion that failed.
    """
    run = Run.open(run_dir)
    run.require(State.TRAINED, State.CONVERTED, State.MEASURED, State.PUBLISHED)
    sources = ensure_llama_cpp(cache_dir or default_cache_dir())
    facts = run.facts()
    config = _read_adapter_config(run.adapter_dir)
    check_adapter_config(config)
    temporary = run.gguf_path.with_suffix(".gguf.tmp")
    wanted = outtype or load_recipe(run.recipe_path).convert.outtype
    command = [facts["python"], str(sources / "convert_lora_to_gguf.py"), str(run.adapter_dir)]
    command += [*_base_arguments(facts["training_weights"]), "--outtype", wanted, "--outfile", str(temporary)]
    child = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    (run.folder / "convert.log").write_text(child.stdout + child.stderr, encoding="utf-8")
    if child.returncode:
        tail = " | ".join((child.stdout + child.stderr).splitlines()[-5:])
        raise ConvertError(f"{run.folder.name}: the converter failed: {tail}")
    check_gguf(temporary, modules=_adapted_modules(run.adapter_dir), alpha=float(config["lora_alpha"]))
    replace_file(temporary, run.gguf_path)
    run.set_state(State.CONVERTED)
    return run.gguf_path


def check_adapter_config(config: dict[str, Any]) -> None:
    """Refuse what llama.cpp cannot run as it was trained.

    Raises:
        ConvertError: names the setting and why.
    """
    reasons = {
        "use_dora": "llama.cpp has no DoRA adapters",
        "use_rslora": "llama.cpp scales by alpha/rank, this adapter was trained with alpha/sqrt(rank)",
        "alpha_pattern": "the converter ignores a different alpha for some layers",
        "modules_to_save": "the converter has no place for whole trained modules",
        "lora_bias": "the converter drops trained biases",
        "trainable_token_indices": "the converter drops trained tokens",
        "layer_replication": "llama.cpp does not replicate layers",
    }
    for key, reason in reasons.items():
        if config.get(key):
            raise ConvertError(f"adapter_config.json: {key} is {config[key]!r}: {reason}")
    if config.get("bias", "none") != "none":
        raise ConvertError(f"adapter_config.json: bias is {config['bias']!r}, only 'none' can be converted")
    initial = config.get("init_lora_weights", True)
    if isinstance(initial, str) and initial.lower().startswith(("pissa", "olora", "corda")):
        raise ConvertError(
            f"adapter_config.json: init_lora_weights is {initial!r}: it changed the base; convert its converted copy"
        )
    targets = config.get("target_modules") or []
    for name in [targets] if isinstance(targets, str) else targets:
        if name.split(".")[-1] in EMBEDDINGS:
            raise ConvertError(f"adapter_config.json: target_modules has {name!r}: llama.cpp aborts on it")


def check_gguf(path: Path, *, modules: int, alpha: float) -> None:
    """Check that a GGUF is a LoRA adapter with two tensors for each adapted module and the trained alpha.

    Raises:
        ConvertError: it is not; names both values.
    """
    reader = GGUFReader(path)
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora"), ("adapter.lora.alpha", alpha)):
        field = reader.get_field(key)
        found = None if field is None else field.contents()
        if found != expected:
            raise ConvertError(f"{path.name}: {key} is {found!r}, expected {expected!r}")
    if len(reader.tensors) != 2 * modules:
        raise ConvertError(f"{path.name}: {len(reader.tensors)} tensors for {modules} modules, expected {2 * modules}")


def _read_adapter_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = read_json(folder / "adapter_config.json")
    except (OSError, ValueError) as error:
        raise ConvertError(f"{folder}: no readable adapter_config.json: {error}") from error
    return config


def _adapted_modules(folder: Path) -> int:
    """Count the modules in `adapter_model.safetensors`, from its header alone."""
    with (folder / "adapter_model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    names = [name for name in header if name != "__metadata__"]
    stray = [name for name in names if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if stray:
        raise ConvertError(f"{folder.name}: tensor {stray[0]} is neither lora_A nor lora_B")
    return len(names) // 2


def _base_arguments(weights: str) -> list[str]:
    """Always name the base: the adapter's own note of it may be a path that is gone."""
    if Path(weights).is_dir():
        return ["--base", weights]
    return ["--base-model-id", weights]
