"""Write a tiny random Qwen3 with Qwen's real vocabulary, as safetensors: a base that the code has never seen.

Runs by path with the training environment's Python. The vocabulary comes as a tiktoken file, which holds ranks alone:
the merges that a `tokenizer.json` wants are found again from them.
"""

# mypy: disable-error-code="import-not-found, no-untyped-call"

import base64
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

FIRST_SPECIAL = 151643
# Source: https://huggingface.co/Qwen/Qwen3-14B/blob/main/tokenizer_config.json, in the order of their ids.
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PLAIN = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What of Qwen3's template matters here: its turns, and the empty thinking block of `enable_thinking: false`.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
SIZE = {
    "vocab_size": 151936,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a tiktoken file: a token in base 64 and its rank on each line."""
    pairs = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def find_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two parts that `token` is made of: what merging its bytes by ranks below its own ends with."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
        best = min(pairs)
        if best >= rank:
            break
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if len(parts) != 2:
        raise ValueError(f"token {token!r} is not made of two parts: {parts}")
    return parts[0], parts[1]


def build_tokenizer(tiktoken_file: Path) -> PreTrainedTokenizerFast:
    """Build Qwen's byte-level BPE."""
    ranks = read_ranks(tiktoken_file)
    letters = bytes_to_unicode()

    def spell(data: bytes) -> str:
        return "".join(letters[byte] for byte in data)

    ordered = sorted(ranks.items(), key=lambda item: item[1])
    merges = [find_merge(token, rank, ranks) for token, rank in ordered if len(token) > 1]
    vocabulary = {spell(token): rank for token, rank in ordered}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[(spell(a), spell(b)) for a, b in merges]))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(text, special=text in SPECIAL, normalized=False) for text in (*SPECIAL, *PLAIN)])
    if tokenizer.token_to_id(SPECIAL[0]) != FIRST_SPECIAL:
        raise ValueError(f"{SPECIAL[0]} has id {tokenizer.token_to_id(SPECIAL[0])}, {FIRST_SPECIAL} is Qwen's")
    named: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE, **named)


def main(spec_path: Path) -> None:
    """Read `{"tiktoken", "output_dir", "seed"}` and write model, tokenizer and config."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    tokenizer = build_tokenizer(Path(spec["tiktoken"]))
    torch.manual_seed(spec["seed"])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    # Larger than usual: in a faint model every answer is alike, and so would be every adapter.
    model = Qwen3ForCausalLM(Qwen3Config(**SIZE, initializer_range=0.2, **ends))
    model.save_pretrained(spec["output_dir"])
    tokenizer.save_pretrained(spec["output_dir"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
