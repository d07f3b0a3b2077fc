"""A chat template for a base that has none: what the copy keeps, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from gateway.base import gguf_info
from training.base import find_served_base
from training.chat_template import add_chat_template, main
from training.errors import SetupError

TEMPLATE = "{% for message in messages %}{{ message['content'] }}é{% endfor %}"
GEMMA = Path(__file__).parents[3] / "configs" / "templates" / "gemma.jinja"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A GGUF with two tensors, a vocabulary and no template."""
    path = tmp_path / "bare.gguf"
    writer = GGUFWriter(path, "gemma3")
    writer.add_token_list(["<pad>", "a", "naïve"])
    writer.add_tensor("one", np.arange(7, dtype=np.float32))
    writer.add_tensor("two", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("padding", range(0, 33, 4))
def test_the_copy_differs_by_its_template_alone(bare: Path, tmp_path: Path, padding: int) -> None:
    template = TEMPLATE + " " * padding
    add_chat_template(bare, template, tmp_path / "copy.gguf")
    before, after = GGUFReader(bare), GGUFReader(tmp_path / "copy.gguf")
    assert gguf_info(tmp_path / "copy.gguf", tmp_path).chat_template == template
    assert after.data_offset % after.alignment == 0
    kept = {key: field.contents() for key, field in before.fields.items() if not key.startswith("GGUF.")}
    added = {key: field.contents() for key, field in after.fields.items() if not key.startswith("GGUF.")}
    assert added == kept | {"tokenizer.chat_template": template}
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (old.name, old.tensor_type) == (new.name, new.tensor_type)
        assert np.array_equal(old.data, new.data)


def test_a_base_that_has_a_template_keeps_it(bare: Path, tmp_path: Path) -> None:
    add_chat_template(bare, TEMPLATE, tmp_path / "copy.gguf")
    with pytest.raises(SetupError, match="has a chat template already"):
        add_chat_template(tmp_path / "copy.gguf", TEMPLATE, tmp_path / "again.gguf")


@pytest.mark.parametrize(
    ("template", "message"), [(" \n", "is empty"), ("{% for %}", "is no Jinja: line 1"), ("{{ a", "is no Jinja")]
)
def test_what_is_no_template_is_refused(bare: Path, tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        add_chat_template(bare, template, tmp_path / "copy.gguf")
    assert not (tmp_path / "copy.gguf").exists()


def test_a_base_without_a_template_is_refused_for_training(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"carries no chat template.*python -m training\.chat_template"):
        find_served_base(str(bare), tmp_path)


def test_the_command_writes_the_copy_or_says_what_is_wrong(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, cache = tmp_path / "copy.gguf", ["--cache-dir", str(tmp_path / "cache")]
    assert main([str(bare), str(GEMMA), str(copy), *cache]) == 0
    assert find_served_base(str(copy), tmp_path / "cache").path == copy
    assert main([str(copy), str(GEMMA), str(tmp_path / "again.gguf"), *cache]) == 2
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    assert main([str(tmp_path / "no.gguf"), str(GEMMA), str(copy), *cache]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "has a chat template already" in errors[0]
    assert "not a GGUF file" in errors[1]
