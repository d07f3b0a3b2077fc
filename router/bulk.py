"""Embed many texts, each once, on several threads, with progress. For fitting and reports; `Batcher` serves."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from router.embedding import Embedder, Vectors

PIECE = 16
"""Texts in one task of a thread: short enough for the progress to move."""

SHOW_FROM = 500
"""Fewer texts are done before a person would look for progress."""


class BulkEmbedder:
    """An `Embedder` over another that remembers every vector it has given."""

    def __init__(self, embedder: Embedder, *, workers: int = 1, progress: bool = False) -> None:
        """Wrap.

        Args:
            workers: threads that embed, each one text at a time.
            progress: show a bar on standard error when that is a terminal.
        """
        self._embedder = embedder
        self._workers = workers
        self._progress = progress
        self._known: dict[str, Vectors] = {}
        self.dim = embedder.dim
        self.fingerprint = embedder.fingerprint

    def normalise(self, text: str) -> str:
        """See `Embedder.normalise`."""
        return self._embedder.normalise(text)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """See `Embedder.count_tokens`."""
        return self._embedder.count_tokens(texts)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, in order: float32 [n_texts, dim], unit length. See `Embedder.embed`."""
        # By length, so that the pieces of one moment take about as long as each other; the longest first.
        missing = sorted({text for text in texts if text not in self._known}, key=len, reverse=True)
        pieces = [missing[start : start + PIECE] for start in range(0, len(missing), PIECE)]
        if pieces:
            from tqdm import tqdm

            hidden = None if self._progress and len(missing) >= SHOW_FROM else True  # None: hidden off a terminal
            with (
                ThreadPoolExecutor(self._workers, thread_name_prefix="embed") as threads,
                tqdm(total=len(missing), desc="embedding", unit="text", disable=hidden, leave=False) as bar,
            ):
                for piece, vectors in zip(pieces, threads.map(self._embedder.embed, pieces), strict=True):
                    self._known.update(zip(piece, vectors, strict=True))
                    bar.update(len(piece))
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.stack([self._known[text] for text in texts])
