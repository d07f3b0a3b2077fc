"""Bring back the version of an expert before the published one.

Owns the order; the changes on disk are `versions`'.
"""

from __future__ import annotations

from pathlib import Path

from gateway.experts import MANIFEST_FILE, Manifest, check_name
from training.errors import PublishError
from training.versions import (
    PREVIOUS_DIR,
    ROLLBACK_DIR,
    discard,
    edited_files,
    keep_data,
    keep_previous,
    replace_all,
    verify,
)

__all__ = ["rollback"]


def rollback(name: str, experts_dir: Path) -> Manifest:
    """Bring back the version before and return its manifest; the present version becomes the one that is kept.

    Twice is back again. Stopped anywhere, a second call finishes it; the manifest is written last.

    Raises:
        PublishError: no such expert, no version before, files of it that are not what its manifest says, or data that
            a person has edited since and would lose.
    """
    try:
        folder = experts_dir / check_name(name)
    except ValueError as error:
        raise PublishError(str(error)) from error
    edited = edited_files(folder)
    if edited:
        raise PublishError(
            f"{name}: {', '.join(edited)} in {folder} was edited since it was published, and would be overwritten: "
            "move it away first, or publish it"
        )
    source = folder / ROLLBACK_DIR
    if not source.is_dir():
        kept = folder / PREVIOUS_DIR
        if not kept.is_dir():
            raise PublishError(f"{name}: there is no previous version in {folder}")
        verify(kept, name)
        kept.replace(source)
    manifest = verify(source, name)
    manifest_path = folder / MANIFEST_FILE
    wanted = (source / MANIFEST_FILE).read_bytes()
    if not manifest_path.is_file() or manifest_path.read_bytes() != wanted:
        keep_previous(folder)
        replace_all(source, folder)
        keep_data(folder)
    discard(source)
    return manifest
