"""All kinds of evidence about a text, side by side: those of its vector and that of its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router.classifier import Classifier, Evidence
from router.embedding import Vectors
from router.lexical import Lexical


@dataclass(frozen=True, eq=False)
class Witnesses:
    """What was fitted on one set of texts; the gate weighs what they say."""

    classifier: Classifier
    lexical: Lexical

    def evidence(self, texts: Sequence[str], vectors: Vectors) -> Evidence:
        """Weigh texts against every route: float64 [n_texts, n_routes, `N_KINDS`], lexical evidence last.

        Args:
            vectors: of the same texts, as `Embedder.read` gives them.
        """
        words = self.lexical.evidence(texts)
        return np.concatenate([self.classifier.evidence(vectors), words[:, :, None]], axis=2)
