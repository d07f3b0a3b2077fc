"""Decide which expert a conversation belongs to: text in, `RouteDecision` out.

Knows text and scores, nothing of HTTP, llama.cpp or where examples are stored. Importing it loads numpy only.
"""

from router.artifact import FittedRouter, Provenance, load_artifact
from router.embedding import Embedder, OnnxEmbedder, ensure_encoder
from router.errors import ArtifactError, EmbeddingError, RouterError
from router.evaluate import Evaluation, evaluate
from router.fit import fit, load_or_fit
from router.router import Router
from router.types import Reason, RouteDecision

__all__ = [
    "ArtifactError",
    "Embedder",
    "EmbeddingError",
    "Evaluation",
    "FittedRouter",
    "OnnxEmbedder",
    "Provenance",
    "Reason",
    "RouteDecision",
    "Router",
    "RouterError",
    "ensure_encoder",
    "evaluate",
    "fit",
    "load_artifact",
    "load_or_fit",
]
