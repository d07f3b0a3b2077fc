"""Every adapter that llama.cpp would change or break on is refused before it is converted, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.convert_preflight import AdapterFacts, check_adapter_config, check_adapter_tensors, preflight
from training.errors import ConvertError

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "down_proj"],
    "bias": "none",
    "init_lora_weights": True,
}
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPES = {f"{MODULE}.lora_A.weight": [8, 64], f"{MODULE}.lora_B.weight": [32, 8]}
REFUSED_CONFIGS = [
    ({"use_dora": True}, "use_dora is True: llama.cpp has no DoRA adapters"),
    ({"use_rslora": True}, "use_rslora is True: llama.cpp scales by alpha/rank"),
    ({"use_qalora": True}, "use_qalora is True"),
    ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern is {'q_proj': 4}: the converter ignores"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']: the converter has no place"),
    ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters is ['mlp.experts.gate_up_proj']"),
    ({"bias": "all"}, "bias is 'all', only 'none' can be converted"),
    ({"bias": "lora_only"}, "bias is 'lora_only', only 'none' can be converted"),
    ({"lora_bias": True}, "lora_bias is True: the converter drops trained biases"),
    ({"trainable_token_indices": [5]}, "trainable_token_indices is [5]"),
    ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication is [[0, 4], [2, 5]]"),
    ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens is [1, 2]"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa': it changed the base"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16': it changed the base"),
    ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora': it changed the base"),
    ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq': it changed the base"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "target_modules has 'embed_tokens': llama.cpp aborts on it"),
    ({"target_modules": ["model.lm_head"]}, "target_modules has 'model.lm_head': llama.cpp aborts on it"),
    ({"target_modules": "lm_head"}, "target_modules has 'lm_head': llama.cpp aborts on it"),
    ({"peft_type": "IA3"}, "peft_type is 'IA3', only 'LORA' can be converted"),
    ({"lora_alpha": 0}, "lora_alpha is 0, a number above 0 is expected"),
    ({"lora_alpha": None}, "lora_alpha is None, a number above 0 is expected"),
    ({"r": "8"}, "r is '8', a number above 0 is expected"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED_CONFIGS)
def test_a_setting_that_the_engine_cannot_follow_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError) as refusal:
        check_adapter_config(CONFIG | change)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("change", [{}, {"rank_pattern": {"q_proj": 4}}, {"init_lora_weights": "gaussian"}])
def test_a_plain_adapter_passes(change: dict[str, Any]) -> None:
    check_adapter_config(CONFIG | change)


REFUSED_TENSORS: list[tuple[dict[str, list[int]], str]] = [
    ({f"{MODULE}.lora_magnitude_vector": [32]}, "neither lora_A nor lora_B"),
    ({f"{MODULE}.lora_B.bias": [32]}, "neither lora_A nor lora_B"),
    ({"base_model.model.lm_head.lora_A.weight": [8, 64]}, "adapts the embedding or the head"),
    ({"base_model.model.model.embed_tokens.lora_embedding_A": [8, 64]}, "adapts the embedding or the head"),
    ({"base_model.model.lm_head.weight": [99, 64]}, "neither lora_A nor lora_B"),
    ({f"{MODULE}2.lora_A.weight": [8, 64]}, "q_proj2.lora_B.weight is missing"),
    ({f"{MODULE}.lora_A.weight": [16, 64]}, "has rank 16, adapter_config.json says 8"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED_TENSORS)
def test_a_tensor_without_a_place_is_refused(change: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ConvertError) as refusal:
        check_adapter_tensors(SHAPES | change, CONFIG)
    assert message in str(refusal.value)


def test_a_rank_of_its_own_is_allowed_where_the_config_names_it() -> None:
    shapes = {f"{MODULE}.lora_A.weight": [4, 64], f"{MODULE}.lora_B.weight": [32, 4]}
    check_adapter_tensors(shapes, CONFIG | {"rank_pattern": {"q_proj": 4}})


def test_an_adapter_without_tensors_is_refused() -> None:
    with pytest.raises(ConvertError, match="it holds no tensors"):
        check_adapter_tensors({}, CONFIG)


def write_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    entries = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in SHAPES.items()}
    header = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def test_a_good_adapter_tells_what_its_gguf_must_hold(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    assert preflight(tmp_path) == AdapterFacts(alpha=16.0, modules=1)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_one_clear_line(tmp_path: Path, missing: str) -> None:
    write_adapter(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ConvertError, match=f"no readable {missing}"):
        preflight(tmp_path)
