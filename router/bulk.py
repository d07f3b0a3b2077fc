"""Embed many texts, each once, on several threads, with progress. For fitting and reports; `Batcher` serves.

Most of a router's texts are those of the fit before, and embedding takes longer than fitting: vectors may be kept in a
file. Owns its format.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from router.archive import write_archive
from router.embedding import Embedder, Vectors, take_meaning

FORMAT = 1

log = logging.getLogger("pointsman.router")

PIECE = 16
"""Texts in one task of a thread: short enough for the progress to move."""

MOST_STORED = 20_000
"""Texts whose vectors a file holds, unless more were asked for at once: some 60 MB. What two gateways, or a benchmark
beside one, read in turns stays known."""

SHOW_FROM = 500
"""Fewer texts are done before a person would look for progress."""


class BulkEmbedder:
    """An `Embedder` over another that remembers every vector it has given."""

    def __init__(
        self, embedder: Embedder, *, workers: int = 1, progress: bool = False, store: Path | None = None
    ) -> None:
        """Wrap.

        Args:
            workers: threads that embed, each a piece at a time.
            progress: show a bar on standard error when that is a terminal.
            store: what an earlier one with the same encoder saved, or where `save` shall write; a file that is missing,
                damaged or of another encoder holds nothing.
        """
        self._embedder = embedder
        self._workers = workers
        self._progress = progress
        self._store = store
        self._stored = _load(store, embedder.fingerprint, embedder.width) if store else {}
        self._known: dict[str, Vectors] = {}
        self.dim = embedder.dim
        self.width = embedder.width
        self.fingerprint = embedder.fingerprint

    def normalise(self, text: str) -> str:
        """See `Embedder.normalise`."""
        return self._embedder.normalise(text)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """See `Embedder.count_tokens`."""
        return self._embedder.count_tokens(texts)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, in order: float32 [n_texts, dim], unit length. See `Embedder.embed`."""
        return take_meaning(self.read(texts), self.dim)

    def read(self, texts: Sequence[str]) -> Vectors:
        """Read texts, in order: float32 [n_texts, width], unit length. See `Embedder.read`."""
        unseen = {text for text in texts if text not in self._known}
        self._known.update((text, self._stored[text]) for text in unseen if text in self._stored)
        # By length, so that the pieces of one moment take about as long as each other; the longest first.
        missing = sorted(unseen.difference(self._known), key=len, reverse=True)
        pieces = [missing[start : start + PIECE] for start in range(0, len(missing), PIECE)]
        if pieces:
            from tqdm import tqdm

            hidden = None if self._progress and len(missing) >= SHOW_FROM else True  # None: hidden off a terminal
            with (
                ThreadPoolExecutor(self._workers, thread_name_prefix="embed") as threads,
                tqdm(total=len(missing), desc="embedding", unit="text", disable=hidden, leave=False) as bar,
            ):
                for piece, vectors in zip(pieces, threads.map(self._embedder.read, pieces), strict=True):
                    self._known.update(zip(piece, vectors, strict=True))
                    bar.update(len(piece))
        if not texts:
            return np.empty((0, self.width), dtype=np.float32)
        return np.stack([self._known[text] for text in texts])

    def save(self) -> None:
        """Write the vectors that were asked for to the store, and beside them the newest of those that it held.

        They only save time: that they cannot be written is a warning in the log.
        """
        if self._store is None or self._known.keys() <= self._stored.keys():
            return
        others = [text for text in self._stored if text not in self._known]
        kept = self._known | {text: self._stored[text] for text in others[: max(0, MOST_STORED - len(self._known))]}
        meta = {"format": FORMAT, "embedder": self.fingerprint, "texts": list(kept)}
        try:
            write_archive(self._store, meta, {"vectors": np.stack(list(kept.values()))}, mode=0o600)
        except OSError as error:
            log.warning("the next fit embeds all texts again: %s cannot be written: %s", self._store, error)


def _load(path: Path, fingerprint: str, width: int) -> dict[str, Vectors]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            meta = json.loads(archive["meta"].tobytes())
            if meta["format"] != FORMAT or meta["embedder"] != fingerprint:
                return {}
            vectors = archive["vectors"]
            return dict(zip(meta["texts"], vectors, strict=True)) if vectors.shape[1] == width else {}
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile):
        return {}
