"""Decide which expert a conversation belongs to: text in, `RouteDecision` out.

Knows text and scores, nothing of HTTP, llama.cpp or where examples are stored. Importing it loads numpy only.
"""

from router.apart import ApartFitter
from router.artifact import FittedRouter, Provenance, load_artifact
from router.bulk import BulkEmbedder
from router.embedding import Embedder, OnnxEmbedder, ensure_encoder
from router.errors import ArtifactError, EmbeddingError, RouterError
from router.evaluate import Decided, Evaluation, Labelled, decide_all, summarise
from router.examples import check_examples
from router.explain import Explanation
from router.finetune import Split, finetune, split
from router.fit import fit, load_current
from router.overlap import Overlap, find_overlap
from router.reference import Neighbour, Reference, load_reference
from router.report import render_report
from router.router import Router
from router.types import Reason, RouteDecision

__all__ = [
    "ApartFitter",
    "ArtifactError",
    "BulkEmbedder",
    "Decided",
    "Embedder",
    "EmbeddingError",
    "Evaluation",
    "Explanation",
    "FittedRouter",
    "Labelled",
    "Neighbour",
    "OnnxEmbedder",
    "Overlap",
    "Provenance",
    "Reason",
    "Reference",
    "RouteDecision",
    "Router",
    "RouterError",
    "Split",
    "check_examples",
    "decide_all",
    "ensure_encoder",
    "find_overlap",
    "finetune",
    "fit",
    "load_artifact",
    "load_current",
    "load_reference",
    "render_report",
    "split",
    "summarise",
]
