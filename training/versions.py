"""The versions of one expert on disk: the published one, and the one before in `.previous/`.

Owns the changes to an expert's folder, each so that a reader never takes half a version for a whole one: the manifest
goes first and comes last. Which version follows which is `publish`'s, `teach`'s and `rollback`'s.

    .previous/    the version before, whole
    .incoming/    a version, whole, that is to become the published one: by a rollback, or by `teach`
    .published/   the data as published: a person may edit the rows in the folder for the next version
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from gateway.errors import ManifestError
from gateway.experts import MANIFEST_FILE, FileHash, Manifest, file_sha256
from training.description import EXAMPLES_FILE, QUESTIONS_FILE, ROWS_FILE
from training.errors import PublishError
from training.files import replace_file, write_text

__all__ = [
    "INCOMING_DIR",
    "PREVIOUS_DIR",
    "abandon_incoming",
    "bring_in",
    "edited_files",
    "is_intact",
    "keep_data",
    "keep_previous",
    "next_version",
    "read_manifest",
    "stage",
    "stage_version",
    "verify",
    "version_numbers",
    "write_manifest",
]

PREVIOUS_DIR = ".previous"
INCOMING_DIR = ".incoming"
PUBLISHED_DIR = ".published"
DATA_FILES = (ROWS_FILE, EXAMPLES_FILE, QUESTIONS_FILE)


def next_version(wanted: str, known: Sequence[str]) -> str:
    """Return `wanted` if it is later than every known version, else the patch after the latest of them."""
    latest = max(map(version_numbers, known), default=(-1, 0, 0))
    if version_numbers(wanted) > latest:
        return wanted
    return f"{latest[0]}.{latest[1]}.{latest[2] + 1}"


def version_numbers(version: str) -> tuple[int, int, int]:
    major, minor, patch = version.partition("-")[0].split(".")
    return int(major), int(minor), int(patch)


def read_manifest(path: Path) -> Manifest | None:
    """Return a manifest, None where there is none that can be read."""
    try:
        return Manifest.load(path)
    except ManifestError:
        return None


def verify(version: Path, name: str) -> Manifest:
    """Check a kept version against its own manifest."""
    try:
        manifest = Manifest.load(version / MANIFEST_FILE)
    except ManifestError as error:
        raise PublishError(f"{name}: {version} cannot be brought in: {error}") from error
    for entry in (manifest.adapter, manifest.dataset, manifest.examples, manifest.questions):
        path = version / entry.file
        if not _is(path, entry):
            raise PublishError(f"{name}: {version} cannot be brought in: {path} is missing or was changed")
    return manifest


def stage(source: Path, target: Path) -> Path:
    """Copy a file beside its final place, under a temporary name."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, temporary)
    return temporary


def keep_previous(folder: Path) -> None:
    """Set the published version aside; its manifest goes first, so that nobody reads a half-changed folder."""
    manifest_path = folder / MANIFEST_FILE
    if not manifest_path.is_file():
        return
    kept = folder / PREVIOUS_DIR
    temporary = folder / f"{PREVIOUS_DIR}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in _files(folder):
        shutil.copyfile(path, temporary / path.name)
    for name in edited_files(folder):
        if (folder / PUBLISHED_DIR / name).is_file():
            shutil.copyfile(folder / PUBLISHED_DIR / name, temporary / name)
    shutil.rmtree(kept, ignore_errors=True)
    temporary.replace(kept)
    manifest_path.unlink()


@contextmanager
def stage_version(folder: Path) -> Iterator[Path]:
    """Yield a copy of the published version, to be changed; it is the incoming one when the block has ended well."""
    temporary = folder / f"{INCOMING_DIR}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in _files(folder):
        shutil.copyfile(path, temporary / path.name)
    yield temporary
    temporary.replace(folder / INCOMING_DIR)


def bring_in(folder: Path, name: str) -> Manifest:
    """Make the incoming version the published one and return its manifest; stopped anywhere, a second call finishes it.

    Raises:
        PublishError: its files are not what its manifest says.
    """
    source = folder / INCOMING_DIR
    manifest = verify(source, name)
    manifest_path = folder / MANIFEST_FILE
    wanted = (source / MANIFEST_FILE).read_bytes()
    if not manifest_path.is_file() or manifest_path.read_bytes() != wanted:
        keep_previous(folder)
        _replace_all(source, folder)
        keep_data(folder)
    _discard(source)
    return manifest


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest atomically."""
    text = yaml.safe_dump(manifest.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def _replace_all(source: Path, folder: Path) -> None:
    """Make a folder's files those of `source`, the manifest last; its own manifest is already gone."""
    wanted = sorted(path.name for path in source.iterdir())
    for name in wanted:
        if name != MANIFEST_FILE:
            replace_file(stage(source / name, folder / name), folder / name)
    for path in _files(folder):
        if path.name not in wanted:
            path.unlink()
    replace_file(stage(source / MANIFEST_FILE, folder / MANIFEST_FILE), folder / MANIFEST_FILE)


def abandon_incoming(folder: Path) -> None:
    """Let a publication overtake what was stopped halfway; what a rollback had taken is kept if nothing else is."""
    source, kept = folder / INCOMING_DIR, folder / PREVIOUS_DIR
    if source.is_dir() and kept.is_dir():
        _discard(source)
    elif source.is_dir():
        source.replace(kept)


def _discard(version: Path) -> None:
    """Remove a kept version; renamed first, so that a half-removed one is never taken for a version."""
    temporary = version.with_name(f"{version.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    version.replace(temporary)
    shutil.rmtree(temporary)


def _files(folder: Path) -> list[Path]:
    """Return the files of a published version."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def edited_files(folder: Path) -> list[str]:
    """Return the data files that are not as the published manifest says; none without a manifest."""
    manifest = read_manifest(folder / MANIFEST_FILE)
    if manifest is None:
        return []
    entries = (manifest.dataset, manifest.examples, manifest.questions)
    return [entry.file for entry in entries if not _is(folder / entry.file, entry)]


def is_intact(folder: Path, manifest: Manifest) -> bool:
    """Tell whether adapter and data are those that the manifest names."""
    entries = (manifest.adapter, manifest.dataset, manifest.examples, manifest.questions)
    return all(_is(folder / entry.file, entry) for entry in entries)


def _is(path: Path, entry: FileHash) -> bool:
    return path.is_file() and file_sha256(path) == entry.sha256


def keep_data(folder: Path) -> None:
    """Keep a copy of the data as it is published."""
    kept = folder / PUBLISHED_DIR
    kept.mkdir(exist_ok=True)
    for name in DATA_FILES:
        temporary = kept / f".{name}.tmp"
        shutil.copyfile(folder / name, temporary)
        replace_file(temporary, kept / name)
