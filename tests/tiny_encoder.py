"""Writes a sentence-transformers model: a two-layer BERT with random weights that knows the words it is given.

A script of its own, so that the tests' process never loads torch: ``python tiny_encoder.py FOLDER WORD…``.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROMPT = "question about "
"""Stands before every text, as some encoders want it."""


def write_encoder(folder: Path, known: list[str]) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

    set_seed(7)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *known]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, "[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(lowercase=True), Whitespace()
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    parts = folder.with_name(f"{folder.name}-parts")
    BertModel(config).save_pretrained(parts)
    fast.save_pretrained(parts)
    modules = [Transformer(str(parts), max_seq_length=32), Pooling(32, pooling_mode="mean")]
    prompts = {"query": PROMPT}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="query")
    model.save(str(folder))


if __name__ == "__main__":
    write_encoder(Path(sys.argv[1]), sys.argv[2:])
