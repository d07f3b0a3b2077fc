"""The labelled texts behind a router, with their vectors: which of them is a new text nearest to?

Kept beside an artifact, for explanations and the overlap report; no decision depends on it. Owns its file format.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from router.archive import write_archive
from router.embedding import Embedder, Vectors
from router.errors import ArtifactError

FORMAT = 1


@dataclass(frozen=True)
class Neighbour:
    """A labelled text near another one."""

    text: str
    route: str | None
    """None: it stands for no route."""
    cosine: float
    """-1 to 1."""


@dataclass(frozen=True, eq=False)
class Reference:
    """Labelled texts, in the order they were given."""

    texts: tuple[str, ...]
    labels: tuple[str | None, ...]
    vectors: Vectors
    """[n_texts, dim], unit length."""

    embedder: str
    """Fingerprint of the encoder."""

    @classmethod
    def build(
        cls,
        examples: Mapping[str, Sequence[str]],
        negatives: Sequence[str],
        embedder: Embedder,
        further: Mapping[str, Sequence[str]] | None = None,
    ) -> Reference:
        """Embed examples by route, and texts that no route should get.

        Raises:
            EmbeddingError: the encoder failed.
        """
        pairs: list[tuple[str, str | None]] = [
            (text, name) for name in sorted(examples) for text in [*examples[name], *(further or {}).get(name, ())]
        ]
        pairs += [(text, None) for text in negatives]
        texts = tuple(text for text, _ in pairs)
        return cls(texts, tuple(label for _, label in pairs), embedder.embed(texts), embedder.fingerprint)

    def nearest(self, vector: Vectors, count: int = 5) -> list[Neighbour]:
        """Return the texts with the highest cosine to a vector [dim] of unit length, best first."""
        cosines = self.vectors @ vector
        order = np.argsort(-cosines, kind="stable")[:count]
        return [Neighbour(self.texts[row], self.labels[row], round(float(cosines[row]), 4)) for row in order]

    def save(self, path: Path) -> None:
        """Write to `path`, replacing it in one step; vectors in half precision."""
        meta = {"format": FORMAT, "texts": self.texts, "labels": self.labels, "embedder": self.embedder}
        write_archive(path, meta, {"vectors": self.vectors.astype(np.float16)})


def load_reference(path: Path) -> Reference:
    """Read what `Reference.save` wrote.

    Raises:
        ArtifactError: the file is missing, damaged, or of another format.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            meta = json.loads(archive["meta"].tobytes())
            vectors = archive["vectors"].astype(np.float32)
        if meta["format"] != FORMAT:
            raise ArtifactError(f"{path} has format {meta['format']!r}, this version reads format {FORMAT}")
        texts, labels = tuple(meta["texts"]), tuple(meta["labels"])
        if not len(texts) == len(labels) == len(vectors):
            raise ValueError(f"{len(texts)} texts, {len(labels)} labels, {len(vectors)} vectors")
        return Reference(texts, labels, vectors, meta["embedder"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} holds no readable examples ({type(error).__name__}: {error})") from error
