"""A fitted router as one value, and as one file: a NumPy archive with JSON inside, no pickle.

Owns the file format and the provenance: what a router was fitted from, so that a change of examples, negatives,
encoder or recipe is noticed. Knows nothing of fitting.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from router.archive import write_archive
from router.classifier import Classifier
from router.continuation import Continuation, Encoded
from router.conversation import Policy
from router.embedding import Vectors
from router.errors import ArtifactError, RouterError
from router.lexical import Lexical
from router.taught import DIGEST
from router.threshold import Gate
from router.witnesses import Witnesses

FORMAT = 7
RECIPE = 16
"""Raised whenever the code of `fit` would give another router for the same input."""

_CONTINUATION = ("texts", "duals", "means", "scales", "weights")
"""The arrays of a `Continuation`."""


@dataclass(frozen=True)
class Provenance:
    """What a router was made from; two equal ones mean the same router."""

    examples: Mapping[str, str]
    """Sha256 of each route's examples."""

    passages: Mapping[str, str]
    negatives: str
    embedder: str
    """The encoder's fingerprint."""

    seed: int
    max_false_abstain: float
    recipe: int = RECIPE
    taught: str = DIGEST
    """Of the texts that every router is fitted on."""

    further: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def describe(
        cls,
        examples: Mapping[str, Sequence[str]],
        negatives: Sequence[str],
        fingerprint: str,
        *,
        passages: Mapping[str, Sequence[str]] | None,
        further: Mapping[str, Sequence[str]] | None,
        seed: int,
        max_false_abstain: float,
    ) -> Provenance:
        """Compute it from the arguments of `fit`."""
        hashes, passage_hashes, further_hashes = (
            {route: hash_texts(texts) for route, texts in sorted((given or {}).items())}
            for given in (examples, passages, further)
        )
        return cls(
            hashes,
            passage_hashes,
            hash_texts(negatives),
            fingerprint,
            seed,
            max_false_abstain,
            further=further_hashes,
        )

    @property
    def digest(self) -> str:
        """One sha256 of it all."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class FittedRouter:
    """Witnesses, the rules for judging what they say, and where both came from."""

    witnesses: Witnesses
    policy: Policy
    provenance: Provenance
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measured out of fold while fitting."""

    warnings: tuple[str, ...] = ()
    """What the person who wrote the examples should know."""

    @property
    def routes(self) -> tuple[str, ...]:
        """Every label a decision can name, in the order of the scores."""
        return self.policy.routes

    @property
    def threshold(self) -> float:
        """The score a text must reach, 0–1."""
        return self.policy.gate.threshold

    def encode(self, texts: Sequence[str], vectors: Vectors) -> list[Encoded]:
        """Judge texts and their vectors, as `Embedder.read` gives them; one `Encoded` each."""
        evidence = self.witnesses.evidence(texts, vectors)
        rows = zip(vectors, evidence, self.policy.gate.scores(evidence), strict=True)
        return [Encoded(vector, kinds, scores) for vector, kinds, scores in rows]

    def with_thresholds(self, overrides: Mapping[str, float]) -> FittedRouter:
        """Return a router with other thresholds for some of its routes; names that are no route of it are ignored.

        Raises:
            RouterError: a threshold is not above 0 and below 1.
        """
        for name, value in overrides.items():
            if not 0.0 < value < 1.0:
                raise RouterError(f"the threshold of {name!r} is {value}, allowed is above 0 and below 1")
        return replace(self, policy=replace(self.policy, overrides=dict(overrides)))

    def save(self, path: Path) -> None:
        """Write to `path`, replacing it in one step; thresholds of single routes are the manifests' and left out."""
        meta = {
            "format": FORMAT,
            "routes": self.routes,
            "provenance": asdict(self.provenance),
            "metrics": dict(self.metrics),
            "warnings": self.warnings,
            "gate": {name: getattr(self.policy.gate, name) for name in ("bias", "threshold", "margin")},
            "continuation": {
                "offset": self.policy.continuation.offset,
                "bias": self.policy.continuation.bias,
                "threshold": self.policy.continuation.threshold,
            },
        }
        witnesses = {**self.witnesses.classifier.to_arrays(), **self.witnesses.lexical.to_arrays()}
        write_archive(path, meta, {**witnesses, **_policy_arrays(self.policy)})


def load_artifact(path: Path) -> FittedRouter:
    """Read what `FittedRouter.save` wrote.

    Raises:
        ArtifactError: the file is missing, damaged, or of another format.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(arrays.pop("meta").tobytes())
        if meta["format"] != FORMAT:
            raise ArtifactError(f"{path} has format {meta['format']!r}, this version reads format {FORMAT}: fit again")
        return _rebuild(meta, arrays)
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is not a readable router ({type(error).__name__}: {error})") from error


def hash_texts(texts: Sequence[str]) -> str:
    """Return one sha256 for a list of texts; their order counts."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=True).encode()).hexdigest()


def _policy_arrays(policy: Policy) -> dict[str, Any]:
    gate, continuation = policy.gate, policy.continuation
    arrays = {f"gate_{name}": getattr(gate, name) for name in ("means", "scales", "weights")}
    return {**arrays, **{f"continuation_{name}": getattr(continuation, name) for name in _CONTINUATION}}


def _rebuild(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> FittedRouter:
    gate = Gate(*(arrays[f"gate_{name}"] for name in ("means", "scales", "weights")), **meta["gate"])
    found = {name: arrays[f"continuation_{name}"] for name in _CONTINUATION}
    continuation = Continuation(**found, **meta["continuation"])
    policy = Policy(tuple(meta["routes"]), gate, continuation)
    witnesses = Witnesses(Classifier.from_arrays(arrays), Lexical.from_arrays(arrays))
    for fitted in (witnesses.classifier, witnesses.lexical):
        if fitted.n_routes != len(policy.routes):
            raise ValueError(f"{fitted.n_routes} routes in the arrays, {len(policy.routes)} names")
    provenance = Provenance(**meta["provenance"])
    return FittedRouter(witnesses, policy, provenance, meta["metrics"], tuple(meta["warnings"]))
