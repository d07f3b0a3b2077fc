"""Dequantise a GGUF base into the directory that LlamaFactory trains on.

Runs by path with the training environment's Python; imports nothing of Pointsman's.
Owns the tokenizer repair: transformers guesses the special tokens of a GGUF, the GGUF itself states them. A vocabulary
that it would segment otherwise than llama.cpp is built by `gguf_tokenizer`.
"""

# mypy: disable-error-code="import-not-found"

import json
import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from gguf_tokenizer import add_missing_tokens, is_sentencepiece, read_field, sentencepiece_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


def repair_tokenizer(tokenizer: PreTrainedTokenizerBase, reader: GGUFReader) -> None:
    """Give the tokenizer the special tokens and the chat template that the GGUF states."""
    for attribute, key in SPECIAL_TOKENS.items():
        token_id = read_field(reader, f"tokenizer.ggml.{key}_token_id")
        if isinstance(token_id, int):
            setattr(tokenizer, attribute, tokenizer.convert_ids_to_tokens(token_id))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    template = read_field(reader, "tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer.chat_template = template


def main(spec_path: Path) -> None:
    """Read `{"gguf": …, "output_dir": …}` and write model, tokenizer and config to the output directory."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    gguf, output_dir = Path(spec["gguf"]), Path(spec["output_dir"])
    reader = GGUFReader(gguf)
    if is_sentencepiece(reader):
        tokenizer = sentencepiece_tokenizer(reader)
    else:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        add_missing_tokens(tokenizer, reader)
    repair_tokenizer(tokenizer, reader)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
