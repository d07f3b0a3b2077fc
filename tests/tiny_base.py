"""A base model small enough to train in seconds: random weights of the Llama architecture, SmolLM2's real vocabulary.

It says nothing sensible; every part of the training path treats it as any other base.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

__all__ = ["write_tiny_base"]

_BLOCKS, _HIDDEN, _FFN, _HEADS, _KV_HEADS = 2, 64, 128, 4, 2
_HEAD = _HIDDEN // _HEADS


def write_tiny_base(path: Path, vocabulary_from: Path, seed: int = 5) -> Path:
    """Write a GGUF of two blocks with the tokenizer and chat template of another, the same bytes for the same seed."""
    reader = gguf.GGUFReader(vocabulary_from)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(_BLOCKS)
    writer.add_context_length(2048)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_FFN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer.") or name == "llama.vocab_size":
            kinds = field.types
            writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    _add_tensors(writer, len(reader.fields["tokenizer.ggml.tokens"].data), seed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: gguf.GGUFWriter, vocabulary: int, seed: int) -> None:
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        data = random.normal(0, shape[-1] ** -0.5, shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", data.astype(np.float32))

    add("token_embd", vocabulary, _HIDDEN)
    add("output_norm", _HIDDEN)
    for block in range(_BLOCKS):
        for norm in ("attn_norm", "ffn_norm"):
            add(f"blk.{block}.{norm}", _HIDDEN)
        add(f"blk.{block}.attn_q", _HEADS * _HEAD, _HIDDEN)
        add(f"blk.{block}.attn_k", _KV_HEADS * _HEAD, _HIDDEN)
        add(f"blk.{block}.attn_v", _KV_HEADS * _HEAD, _HIDDEN)
        add(f"blk.{block}.attn_output", _HIDDEN, _HEADS * _HEAD)
        add(f"blk.{block}.ffn_gate", _FFN, _HIDDEN)
        add(f"blk.{block}.ffn_up", _FFN, _HIDDEN)
        add(f"blk.{block}.ffn_down", _HIDDEN, _FFN)
