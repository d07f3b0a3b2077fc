"""A tokenizer built from a GGUF's vocabulary: it must segment as llama.cpp does, by the pair with the best score."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFWriter

SCRIPT = Path(__file__).parents[3] / "training" / "child" / "gguf_tokenizer.py"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
# The best sum of scores for "abc" is a + bc; merging the best scored pair first makes ab + c.
VOCABULARY = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("<end_of_turn>", 0.0, CONTROL),
    ("\n\n", 0.0, USER_DEFINED),
    *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
    ("a", -3.0, NORMAL),
    ("b", -9.0, NORMAL),
    ("c", -10.0, NORMAL),
    ("▁", -4.0, NORMAL),
    ("ab", -1.0, NORMAL),
    ("bc", -2.0, NORMAL),
    ("▁a", -5.0, NORMAL),
]


@pytest.fixture(scope="module")
def module() -> Any:
    spec = importlib.util.spec_from_file_location("gguf_tokenizer", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def build(module: Any, folder: Path, *, space_prefix: bool) -> Any:
    path = folder / "vocabulary.gguf"
    writer = GGUFWriter(path, "gemma3")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _, _ in VOCABULARY])
    writer.add_token_scores([score for _, score, _ in VOCABULARY])
    writer.add_token_types([kind for _, _, kind in VOCABULARY])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(space_prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    reader = GGUFReader(path)
    assert module.is_sentencepiece(reader)
    return module.sentencepiece_tokenizer(reader)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("abc", ["ab", "c"]),
        ("a bc", ["a", "▁", "bc"]),
        ("a a", ["a", "▁a"]),
        ("a<end_of_turn>b", ["a", "<end_of_turn>", "b"]),
        ("a\n\nb", ["a", "\n\n", "b"]),
        ("é", ["<0xC3>", "<0xA9>"]),
    ],
)
def test_a_text_becomes_the_engines_tokens(module: Any, tmp_path: Path, text: str, tokens: list[str]) -> None:
    tokenizer = build(module, tmp_path, space_prefix=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.decode(ids) == text


def test_a_space_is_put_first_where_the_vocabulary_wants_it(module: Any, tmp_path: Path) -> None:
    tokenizer = build(module, tmp_path, space_prefix=True)
    ids = tokenizer.encode("abc", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁", "ab", "c"]
    assert tokenizer.decode(ids) == "abc"


def test_a_prompt_begins_as_the_vocabulary_says(module: Any, tmp_path: Path) -> None:
    tokenizer = build(module, tmp_path, space_prefix=False)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a")) == ["<s>", "a"]
