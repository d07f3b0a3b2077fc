"""Fit in a child process: a router that serves keeps its memory and its interpreter to itself meanwhile.

Fitting takes some twenty seconds, loads scikit-learn, and would hold the interpreter lock while answers stream. The
child gives way to the engine: llama.cpp's threads wait for each other, and all for the one that has lost its core.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router.artifact import FittedRouter, load_artifact
from router.bulk import BulkEmbedder
from router.child import LAST_NICENESS, NICENESS, Child, ChildFailed, give_way, read_job
from router.embedding import OnnxEmbedder
from router.errors import RouterError
from router.fit import fit
from router.reference import Reference, load_reference

__all__ = ["ApartFitter"]

ROUTER, REFERENCE = "router.npz", "examples.npz"


class ApartFitter:
    """Fits one router after another, each in a child of its own. `fit` and `close` from any thread."""

    def __init__(self, *, last: bool = False) -> None:
        """Prepare.

        Args:
            last: its children give way to those of others, too.
        """
        self._niceness = LAST_NICENESS if last else NICENESS
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._closed = False

    def fit(
        self,
        examples: Mapping[str, Sequence[str]],
        negatives: Sequence[str],
        embedder: OnnxEmbedder,
        *,
        passages: Mapping[str, Sequence[str]] | None = None,
        further: Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
        max_false_abstain: float = 0.05,
        workers: int = 1,
        progress: bool = False,
        vectors: Path | None = None,
    ) -> tuple[FittedRouter, Reference]:
        """Do what `router.fit.fit` does, and gather the labelled texts with their vectors.

        Args:
            workers: threads that embed, and that fit.
            vectors: where `BulkEmbedder` keeps them for the next fit.

        Raises:
            RouterError: as `fit`; or the child was ended, by `close` or otherwise.
        """
        with tempfile.TemporaryDirectory(prefix="pointsman-fit-") as folder:
            job = {
                "encoder": str(embedder.folder.resolve()),
                "examples": {name: list(texts) for name, texts in examples.items()},
                "negatives": list(negatives),
                "passages": {name: list(texts) for name, texts in (passages or {}).items()},
                "further": {name: list(texts) for name, texts in (further or {}).items()},
                "seed": seed,
                "max_false_abstain": max_false_abstain,
                "workers": workers,
                "progress": progress,
                "vectors": str(vectors.resolve()) if vectors else None,
                "folder": folder,
                "niceness": self._niceness,
            }
            self._run(job)
            return load_artifact(Path(folder) / ROUTER), load_reference(Path(folder) / REFERENCE)

    def close(self) -> None:
        """End a fit that runs, and refuse further ones."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()

    def _run(self, job: dict[str, Any]) -> None:
        with self._turn:
            with self._lock:
                if self._closed:
                    raise RouterError("fitting was ended: the program stops")
                child = self._child = Child("router.apart")
            try:
                child.run(job)
            except ChildFailed as error:
                raise RouterError(str(error) or f"fitting was ended: exit code {error.status}") from None
            finally:
                with self._lock:
                    self._child = None


def main() -> int:
    """Fit what the first line of standard input describes; 1 with the reason on standard output when it cannot be."""
    job = read_job()
    give_way(job["niceness"])
    folder = Path(job["folder"])
    try:
        bulk = BulkEmbedder(
            OnnxEmbedder(Path(job["encoder"])),
            workers=job["workers"],
            progress=job["progress"],
            store=Path(job["vectors"]) if job["vectors"] else None,
        )
        given = {key: job[key] for key in ("passages", "further", "seed", "max_false_abstain", "workers", "progress")}
        fit(job["examples"], job["negatives"], bulk, **given).save(folder / ROUTER)
        Reference.build(job["examples"], job["negatives"], bulk, job["further"]).save(folder / REFERENCE)
        bulk.save()
    except RouterError as error:
        print(error)
        return 1
    return 0
