"""Local paths, the identity of a base, and what the cache remembers; nothing here reaches the network."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from gguf import GGUFWriter

from gateway.base import Kind, Resolved, content_sha256, default_cache_dir, gguf_identity, gguf_info, resolve
from gateway.errors import ConfigError

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


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


def test_a_local_gguf_resolves_to_itself_with_its_identity(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    resolved = resolve(str(path), cache_dir=tmp_path / "cache", kind=Kind.GGUF, offline=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert resolved == Resolved(path.resolve(), "tiny", "local", digest)
    identity = gguf_identity(resolved, tmp_path / "cache")
    assert identity.sha256 == digest
    assert identity.chat_template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()


def test_a_model_without_a_template_has_the_empty_hash(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", template=None)
    resolved = resolve(str(path), cache_dir=tmp_path / "cache", kind=Kind.GGUF)
    assert gguf_identity(resolved, tmp_path / "cache").chat_template_sha256 == EMPTY_SHA256


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "lora.gguf", adapter=True)
    resolved = resolve(str(path), cache_dir=tmp_path / "cache", kind=Kind.GGUF)
    with pytest.raises(ConfigError, match="adapter"):
        gguf_identity(resolved, tmp_path / "cache")


def test_mismatches_are_config_errors(tmp_path: Path) -> None:
    path, cache = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "cache"
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigError, match=f"{'0' * 64} is expected"):
        resolve(str(path), cache_dir=cache, kind=Kind.GGUF, sha256="0" * 64)
    with pytest.raises(ConfigError, match="is a directory, a GGUF file is expected"):
        resolve(str(tmp_path), cache_dir=cache, kind=Kind.GGUF)
    with pytest.raises(ConfigError, match="is a file, a directory is expected"):
        resolve(str(path), cache_dir=cache, kind=Kind.DIRECTORY)
    with pytest.raises(ConfigError, match="not a GGUF file"):
        resolve(str(tmp_path / "text.gguf"), cache_dir=cache, kind=Kind.GGUF)
    with pytest.raises(ConfigError, match="pointsman pull pypi:absent"):
        resolve("pypi:absent", cache_dir=cache, kind=Kind.GGUF, offline=True)


def test_a_hash_is_remembered_until_size_or_time_change(tmp_path: Path) -> None:
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_bytes(b"one")
    before = path.stat()
    assert content_sha256(path, cache) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content_sha256(path, cache) == hashlib.sha256(b"one").hexdigest()  # not read again
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert content_sha256(path, cache) == hashlib.sha256(b"two").hexdigest()


def test_a_directory_hash_covers_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/b").write_bytes(b"1")
    first = content_sha256(folder, tmp_path / "cache")
    (folder / "sub/b").rename(folder / "sub/c")
    second = content_sha256(folder, tmp_path / "cache")
    (folder / "sub/c").write_bytes(b"22")
    assert len({first, second, content_sha256(folder, tmp_path / "cache")}) == 3


def test_damaged_notes_and_a_read_only_cache_only_cost_time(tmp_path: Path) -> None:
    path, cache = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "cache"
    info = gguf_info(path, cache)
    (note,) = (cache / "facts").iterdir()
    for text in ("{", "[]", json.dumps({**json.loads(note.read_text()), "gguf": {"other": 1}})):
        note.write_text(text)
        assert gguf_info(path, cache) == info
    (tmp_path / "blocked").write_text("")
    assert gguf_info(path, tmp_path / "blocked/cache") == info


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_CACHE_DIR", "/gateway")
    monkeypatch.setenv("POINTSMAN_CACHE", "/a")
    assert default_cache_dir() == Path("/gateway")
    monkeypatch.delenv("GATEWAY_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_cache_dir() == Path("/a")
    monkeypatch.delenv("POINTSMAN_CACHE")
    assert default_cache_dir() == Path("/b/pointsman")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache/pointsman"
