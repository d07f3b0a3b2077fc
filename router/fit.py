"""Examples -> `FittedRouter`. The only module that needs scikit-learn, imported when it fits.

Everything calibrated here (standardisation, weights of the evidence, thresholds) is calibrated on evidence given out
of fold, by classifiers that had not seen the text in question. Knows nothing of files of examples or of experts.
"""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from router.artifact import FittedRouter, Provenance, load_artifact
from router.calibrate import calibrate
from router.classifier import GAMMA, N_KINDS, OUTSIDE, Classifier, Evidence, Indices
from router.continuation import N_SIGNALS
from router.conversation import Policy
from router.embedding import Embedder, Vectors
from router.errors import ArtifactError, RouterError
from router.examples import check_examples
from router.followups import FollowUpPairs, build_pairs, fit_continuation
from router.threshold import Scores

FOLDS = 5
MAX_CLUSTERS = 15
EXAMPLES_PER_CLUSTER = 4
REGULARISATION_C = 10.0
MACHINE_C = 5.0


def fit(
    examples: Mapping[str, Sequence[str]],
    negatives: Sequence[str],
    embedder: Embedder,
    *,
    seed: int = 0,
    max_false_abstain: float = 0.05,
) -> FittedRouter:
    """Fit a router; deterministic for equal arguments.

    Args:
        examples: texts of each route, two or more; fewer than 50 are fitted with a warning.
        negatives: texts no route should get, resembling the real unwanted traffic; without them the threshold rests
            on the examples alone and far more unwanted texts are accepted.
        max_false_abstain: 0–1, most of the examples that may fall below the threshold out of fold.

    Raises:
        RouterError: no routes, a route with fewer than two examples, an empty text, or a text under two labels.
        EmbeddingError: the encoder failed.
    """
    if not 0.0 <= max_false_abstain < 1.0:
        raise RouterError(f"max_false_abstain is {max_false_abstain}, allowed is 0 to below 1")
    labelled, warnings = check_examples(examples, negatives)
    routes = tuple(sorted(examples))
    index = {route: number for number, route in enumerate(routes)}
    texts = [text for text, _ in labelled]
    labels = np.array([OUTSIDE if route is None else index[route] for _, route in labelled], dtype=np.int64)
    vectors = embedder.embed(texts)
    folds = _assign_folds(labels, seed)
    pairs = build_pairs(texts, vectors, labels, folds, embedder, seed)
    with python_warnings.catch_warnings():
        # Convergence warnings are expected on few examples; the out-of-fold metrics judge the result.
        python_warnings.simplefilter("ignore")
        evidence, signals = _out_of_fold(vectors, labels, folds, pairs, seed)
        gate, metrics = calibrate(evidence, labels, max_false_abstain=max_false_abstain)
        continuation, more = fit_continuation(pairs, signals, gate)
        classifier = fit_classifier(vectors, labels, seed)
    provenance = Provenance.describe(examples, negatives, embedder.fingerprint, seed, max_false_abstain)
    return FittedRouter(classifier, Policy(routes, gate, continuation), provenance, metrics | more, warnings)


def load_or_fit(
    path: Path,
    examples: Mapping[str, Sequence[str]],
    negatives: Sequence[str],
    embedder: Embedder,
    *,
    seed: int = 0,
    max_false_abstain: float = 0.05,
) -> tuple[FittedRouter, bool]:
    """Return the router at `path`, or fit and save it there when it is missing, damaged or made from other input.

    Returns:
        The router, and whether it was fitted now.

    Raises:
        RouterError, EmbeddingError: as `fit`.
    """
    wanted = Provenance.describe(examples, negatives, embedder.fingerprint, seed, max_false_abstain)
    try:
        stored = load_artifact(path)
    except ArtifactError:
        pass
    else:
        if stored.provenance == wanted:
            return stored, False
    fitted = fit(examples, negatives, embedder, seed=seed, max_false_abstain=max_false_abstain)
    fitted.save(path)
    return fitted, True


def fit_classifier(vectors: Vectors, labels: Indices, seed: int) -> Classifier:
    """Fit the four kinds of evidence on embedded texts, labelled by route or `OUTSIDE`; see `Classifier`."""
    n_routes = int(labels.max()) + 1
    clusters, cluster_routes = np.empty(len(labels), dtype=np.int64), list[int]()
    for label in [*range(n_routes), *([OUTSIDE] if labels.min() == OUTSIDE else [])]:
        members = np.flatnonzero(labels == label)
        found = _cluster(vectors[members], seed)
        clusters[members] = found + len(cluster_routes)
        cluster_routes += [label] * (int(found.max()) + 1)
    weights, biases = _fit_linear(vectors, clusters)
    machines = [_fit_machine(vectors, labels == route) for route in range(n_routes)]
    machines.append(_fit_machine(vectors, labels != OUTSIDE))
    return Classifier(
        texts=vectors,
        text_routes=labels,
        weights=weights,
        biases=biases,
        cluster_routes=np.array(cluster_routes, dtype=np.int64),
        duals=np.stack([duals for duals, _ in machines], axis=1).astype(np.float32),
        offsets=np.array([offset for _, offset in machines], dtype=np.float32),
    )


def _cluster(vectors: Vectors, seed: int) -> Indices:
    from sklearn.cluster import KMeans

    count = min(MAX_CLUSTERS, len(vectors) // EXAMPLES_PER_CLUSTER)
    if count < 2:
        return np.zeros(len(vectors), dtype=np.int64)
    found = KMeans(count, n_init=2, max_iter=50, random_state=seed).fit_predict(vectors)
    # Identical vectors can leave clusters empty; number the others without gaps.
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def _fit_linear(vectors: Vectors, clusters: Indices) -> tuple[Vectors, Vectors]:
    """Return weights [n_clusters, dim] and biases [n_clusters] of a softmax."""
    from sklearn.linear_model import LogisticRegression

    n_clusters, dim = int(clusters.max()) + 1, vectors.shape[1]
    if n_clusters < 2:
        return np.zeros((1, dim), dtype=np.float32), np.zeros(1, dtype=np.float32)
    model: Any = LogisticRegression(C=REGULARISATION_C, max_iter=300).fit(vectors, clusters)
    weights, biases = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    if n_clusters == 2:  # scikit-learn keeps the second of two classes only
        return np.concatenate([np.zeros_like(weights), weights]), np.concatenate([np.zeros_like(biases), biases])
    return weights, biases


def _fit_machine(vectors: Vectors, inside: npt.NDArray[np.bool_]) -> tuple[Scores, float]:
    """Return the dual coefficient of each text and the offset; nothing is learnt where all texts are inside."""
    from sklearn.svm import SVC

    duals = np.zeros(len(vectors))
    if inside.all():
        return duals, 0.0
    model: Any = SVC(C=MACHINE_C, gamma=GAMMA, class_weight="balanced").fit(vectors, inside)
    duals[model.support_] = model.dual_coef_[0]
    return duals, float(model.intercept_[0])


def _out_of_fold(
    vectors: Vectors, labels: Indices, folds: Indices, pairs: FollowUpPairs, seed: int
) -> tuple[Evidence, Scores]:
    """Weigh every text and every follow-up by a classifier that was not fitted on it."""
    evidence = np.zeros((len(labels), int(labels.max()) + 1, N_KINDS))
    signals = np.zeros((len(pairs.anchors), N_SIGNALS))
    for fold in range(FOLDS):
        held = folds == fold
        if held.any():
            classifier = fit_classifier(vectors[~held], labels[~held], seed)
            evidence[held] = classifier.evidence(vectors[held])
            rows = np.flatnonzero(held[pairs.anchors])
            signals[rows] = pairs.signals(rows, classifier, vectors)
    return evidence, signals


def _assign_folds(labels: Indices, seed: int) -> Indices:
    """Spread the texts of each label evenly over the folds, so that some of each stay outside every fold."""
    generator = np.random.default_rng(seed)
    folds = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        folds[members] = np.arange(len(members)) % FOLDS
    return folds
