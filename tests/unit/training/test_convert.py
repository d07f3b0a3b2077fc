"""The converter's preflight and the check of its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from training.convert import check_adapter_config, check_gguf
from training.errors import ConvertError

GOOD: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "down_proj"],
    "bias": "none",
    "alpha_pattern": {},
    "modules_to_save": None,
    "init_lora_weights": True,
}
REFUSED = [
    ({"use_dora": True}, "use_dora"),
    ({"use_rslora": True}, "use_rslora"),
    ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"bias": "all"}, "bias is 'all'"),
    ({"lora_bias": True}, "lora_bias"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "target_modules has 'embed_tokens'"),
    ({"target_modules": ["model.lm_head"]}, "target_modules has 'model.lm_head'"),
    ({"trainable_token_indices": [5]}, "trainable_token_indices"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_llama_cpp_would_change_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError) as refusal:
        check_adapter_config(GOOD | change)
    assert message in str(refusal.value)


@pytest.mark.parametrize("change", [{}, {"rank_pattern": {"q_proj": 4}}, {"init_lora_weights": "gaussian"}])
def test_a_plain_adapter_passes(change: dict[str, Any]) -> None:
    check_adapter_config(GOOD | change)


def write_gguf(path: Path, *, kind: str = "adapter", alpha: float = 16.0, tensors: int = 4) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for number in range(tensors):
        writer.add_tensor(f"blk.0.t{number}.weight", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_complete_adapter_passes_the_check(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    check_gguf(tmp_path / "a.gguf", modules=2, alpha=16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "model"}, "general.type is 'model', expected 'adapter'"),
        ({"alpha": 8.0}, "adapter.lora.alpha is 8.0, expected 16"),
        ({"tensors": 3}, "3 tensors for 2 modules, expected 4"),
    ],
)
def test_a_wrong_output_is_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    write_gguf(tmp_path / "a.gguf", **wrong)
    with pytest.raises(ConvertError) as refusal:
        check_gguf(tmp_path / "a.gguf", modules=2, alpha=16)
    assert message in str(refusal.value)
