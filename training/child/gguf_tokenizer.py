"""Build a tokenizer from a GGUF's own vocabulary, so that training reads a text as the engine does.

Runs in the training environment, beside prepare_base.py; imports nothing of Pointsman's. For GGUF vocabularies of
SentencePiece's kind (`tokenizer.ggml.model` is `llama`) transformers builds, for some architectures, a unigram model:
it segments differently from llama.cpp, which merges pairs by score. It also forgets most control tokens.
"""

from typing import Any

from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

CONTROL, USER_DEFINED, BYTE = 3, 4, 6
"""Token types of a GGUF. Source: llama.cpp, include/llama.h, `enum llama_token_type`."""
SPACE = "▁"


def read_field(reader: GGUFReader, key: str) -> Any:
    """Return one metadata value of a GGUF, or None where it has none."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def added_tokens(reader: GGUFReader) -> list[AddedToken]:
    """Return the tokens that are found in a text before it is segmented."""
    tokens = read_field(reader, "tokenizer.ggml.tokens")
    types = read_field(reader, "tokenizer.ggml.token_type") or []
    return [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=False)
        if kind in (CONTROL, USER_DEFINED)
    ]


def add_missing_tokens(tokenizer: PreTrainedTokenizerBase, reader: GGUFReader) -> None:
    """Make every control and user-defined token of the GGUF one token of the tokenizer, too."""
    known = tokenizer.added_tokens_encoder
    tokenizer.add_tokens([token for token in added_tokens(reader) if token.content not in known])


def is_sentencepiece(reader: GGUFReader) -> bool:
    """Tell whether the vocabulary is one that llama.cpp merges by score."""
    return bool(read_field(reader, "tokenizer.ggml.model") == "llama")


def sentencepiece_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerBase:
    """Build a byte-fallback BPE that merges the pair with the best score first, as llama.cpp does.

    Source: llama.cpp, src/llama-vocab.cpp, `llm_tokenizer_spm`.
    """
    tokens = read_field(reader, "tokenizer.ggml.tokens")
    scores = read_field(reader, "tokenizer.ggml.scores")
    types = read_field(reader, "tokenizer.ggml.token_type")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    normal = {
        token: score
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind not in (CONTROL, USER_DEFINED, BYTE)
    }
    unknown = read_field(reader, "tokenizer.ggml.unknown_token_id")
    model = BPE(
        vocab=vocabulary,
        merges=find_merges(normal),
        unk_token=None if unknown is None else tokens[unknown],
        byte_fallback=BYTE in types,
        fuse_unk=True,
    )
    built = Tokenizer(model)
    replace = normalizers.Replace(" ", SPACE)
    prefixed = read_field(reader, "tokenizer.ggml.add_space_prefix") is not False
    built.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prefixed else replace
    strip = [decoders.Strip(" ", 1, 0)] if prefixed else []
    built.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    start = read_field(reader, "tokenizer.ggml.bos_token_id")
    if read_field(reader, "tokenizer.ggml.add_bos_token") and start is not None:
        named = [(tokens[start], start)]
        built.post_processor = processors.TemplateProcessing(single=f"{tokens[start]} $A", special_tokens=named)
    built.add_tokens(added_tokens(reader))
    return PreTrainedTokenizerFast(tokenizer_object=built)


def find_merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Return every pair of pieces that makes a piece, the best scored piece first."""
    pairs = [
        (-score, len(piece[:at]), piece[:at], piece[at:])
        for piece, score in scores.items()
        for at in range(1, len(piece))
        if piece[:at] in scores and piece[at:] in scores
    ]
    return [(left, right) for _, _, left, right in sorted(pairs)]
