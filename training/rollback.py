"""Bring back the version of an expert before the published one.

Owns the order; the changes on disk are `versions`'.
"""

from __future__ import annotations

from pathlib import Path

from gateway.experts import Manifest, check_name
from training.errors import PublishError
from training.versions import INCOMING_DIR, PREVIOUS_DIR, bring_in, edited_files, verify

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
    source = folder / INCOMING_DIR
    if not source.is_dir():
        kept = folder / PREVIOUS_DIR
        if not kept.is_dir():
            raise PublishError(f"{name}: there is no previous version in {folder}")
        verify(kept, name)
        kept.replace(source)
    return bring_in(folder, name)
