"""The header reader, on files the gguf package wrote and on damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from gguf import GGUFWriter

from gateway.errors import ConfigError
from gateway.gguf_header import read_gguf_info


def write_gguf(path: Path, *, template: str | None = "{{ messages }}", adapter: bool = False) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter" if adapter else "model")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "ü"] * 50)
    writer.add_array("tokenizer.ggml.scores", [0.5] * 150)
    writer.add_context_length(2048)
    if template is not None:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_header_gives_architecture_template_and_context(tmp_path: Path) -> None:
    info = read_gguf_info(write_gguf(tmp_path / "m.gguf", template="{{ 'ü' }}"))
    assert (info.architecture, info.chat_template, info.context_length) == ("llama", "{{ 'ü' }}", 2048)


def test_header_gives_the_size_of_a_tokens_kv(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(30)
    writer.add_embedding_length(576)
    writer.add_head_count(9)
    writer.add_head_count_kv(3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_gguf_info(tmp_path / "m.gguf").kv_token_bytes == 30 * 3 * (64 + 64) * 2


def test_a_header_without_its_heads_leaves_the_size_open(tmp_path: Path) -> None:
    assert read_gguf_info(write_gguf(tmp_path / "m.gguf")).kv_token_bytes is None


def test_every_truncation_is_a_clear_error(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "m.gguf").read_bytes()
    for size in range(0, len(whole) - 32, 7):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=r"cut\.gguf: not a (valid )?GGUF file"):
            read_gguf_info(tmp_path / "cut.gguf")


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
KEY = struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04 a zip", "starts with"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 62), "items announced"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "general.architecture"),
        (HEAD + struct.pack("<Q", 1 << 63) + b"k" * 20, "items announced"),
        (HEAD + struct.pack("<Q", 70_000) + b"k" * 80_000, "at most 65535"),
        (HEAD + KEY + struct.pack("<I", 99) + b"\0" * 20, "value type 99"),
        (HEAD + KEY + struct.pack("<IIQ", 9, 4, 1 << 61) + b"\0" * 20, "items announced"),
        (HEAD + KEY + struct.pack("<IIQ", 9, 8, 1 << 61) + b"\0" * 20, "items announced"),
        (HEAD + KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 40, "nested deeper"),
        (HEAD + struct.pack("<Q", 1) + b"\xff" + b"\0" * 20, "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + (KEY + struct.pack("<IB", 0, 1)) * 2, "twice"),
    ],
)
def test_malformed_headers_are_clear_errors(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        read_gguf_info(tmp_path / "m.gguf")
