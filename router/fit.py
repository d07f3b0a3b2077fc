"""Examples -> `FittedRouter`. The only module that needs scikit-learn, imported when it fits.

Everything calibrated here (standardisation, weights of the evidence, thresholds) is calibrated on evidence given out
of fold, by classifiers that had not seen the text in question. Knows nothing of files of examples or of experts.
"""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from router.artifact import FittedRouter, Provenance, load_artifact
from router.calibrate import calibrate
from router.classifier import N_KINDS, OUTSIDE, Classifier, Evidence, Indices, ridge_matrix
from router.continuation import N_SIGNALS
from router.conversation import Policy
from router.embedding import Embedder, Vectors, take_meaning
from router.errors import ArtifactError, RouterError
from router.examples import Checked, check_examples
from router.followups import (
    NO_FOLD,
    Corpus,
    FollowUpPairs,
    after_openings,
    build_pairs,
    fit_continuation,
)
from router.lexical import count_buckets, drop_marks, fit_lexical
from router.lots import Draw, Lots, deal, draw_lots, shuffle
from router.rounded import RoundedTexts
from router.taught import FOLLOW_UPS, PHRASES, REQUESTS
from router.threshold import Scores
from router.witnesses import Witnesses

FOLDS = ((2500, 10), (8000, 5), (None, 3))
"""Of texts up to that number, so many folds. Of few texts each fold must leave nearly all to fit on, or the threshold
is one for a weaker router, and refuses too little; of many the time counts."""

FEW_A_FOLD = 10
"""Texts of one label: of fewer in each fold, lots alone would spread them too unevenly."""

STRANGER_GROUPS = 2
MAX_CLUSTERS = 15
EXAMPLES_PER_CLUSTER = 4
REGULARISATION_C = 30.0
MAX_ITERATIONS = 100
MAX_KERNEL_TEXTS = 6000
"""Of more, the kernel kinds are fitted on so many, drawn at random: time grows with the cube of the number, memory with
its square, to some 0.4 GB a worker."""

MIN_KERNEL_TEXTS = 200
"""Of every route, and of the negatives, so many are drawn before any others."""


def fit(
    examples: Mapping[str, Sequence[str]],
    negatives: Sequence[str],
    embedder: Embedder,
    *,
    passages: Mapping[str, Sequence[str]] | None = None,
    further: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    max_false_abstain: float = 0.05,
    workers: int = 1,
    progress: bool = False,
) -> FittedRouter:
    """Fit a router; deterministic for equal arguments.

    Args:
        examples: what people ask, by route, two or more each; fewer than 50 are fitted with a warning.
        negatives: texts no route should get, resembling the real unwanted traffic; without them the threshold rests
            on the examples alone and far more unwanted texts are accepted.
        passages: other texts on a route's topic, such as answers and training rows. They teach its vocabulary, but
            nothing is calibrated on them, since they need not resemble what people ask.
        further: more examples, by route, on which nothing is calibrated either: chosen for their rare words, or because
            a router was in doubt, they are harder than what people ask, and a threshold that suits them is too low.
        max_false_abstain: 0–1, the share of the examples that falls below threshold or margin out of fold. It is what
            to expect of new texts like them, not a limit far from which the threshold stays.
        workers: threads that fit, each a fold of its own; the result is the same.
        progress: show a bar on standard error, when that is a terminal.

    Raises:
        RouterError: no routes, a route with fewer than two examples, an empty text, or a text under two labels.
        EmbeddingError: the encoder failed.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    if not 0.0 <= max_false_abstain < 1.0:
        raise RouterError(f"max_false_abstain is {max_false_abstain}, allowed is 0 to below 1")
    provenance = Provenance.describe(
        examples,
        negatives,
        embedder.fingerprint,
        passages=passages,
        further=further,
        seed=seed,
        max_false_abstain=max_false_abstain,
    )
    checked = check_examples(examples, negatives, passages=passages, further=further)
    routes = tuple(sorted(examples))
    data = _embed(checked, routes, embedder, seed)
    # One thread a worker: the problems are small, and spinning BLAS threads would fight a llama-server for the cores.
    # The limit holds for libraries that are loaded already, so scikit-learn's come first.
    for name in ("sklearn.cluster", "sklearn.linear_model", "scipy.linalg"):
        import_module(name)
    with (
        threadpool_limits(1),
        python_warnings.catch_warnings(),
        # OpenMP's limit is one of the thread that sets it.
        ThreadPoolExecutor(workers, "fit", initializer=partial(threadpool_limits, 1)) as threads,
    ):
        # Convergence warnings are expected on few examples; the out-of-fold metrics judge the result.
        python_warnings.simplefilter("ignore")
        groups = [] if negatives else _group_strangers(len(routes))
        steps = _Steps(data, len(groups), seed, progress)
        witnesses = threads.submit(steps.fit_on, np.ones(len(data.labels), dtype=np.bool_))
        without = {fold: threads.submit(steps.fit_on, data.folds != fold) for fold in _folds_of(data)}
        try:
            pairs = build_pairs(data, embedder, seed)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        evidence, signals = _out_of_fold(data, pairs, without, threads)
        strangers = _meet_strangers(data, groups, len(checked.judged), steps, threads)
        judged = slice(len(checked.judged))
        gate, metrics = calibrate(evidence[judged], data.labels[judged], strangers, max_false_abstain=max_false_abstain)
        continuation, more = fit_continuation(pairs, signals, gate)
        fitted = FittedRouter(
            witnesses.result(), Policy(routes, gate, continuation), provenance, metrics | more, checked.warnings
        )
        steps.bar.close()
    return fitted


def load_current(
    path: Path,
    examples: Mapping[str, Sequence[str]],
    negatives: Sequence[str],
    embedder: Embedder,
    *,
    passages: Mapping[str, Sequence[str]] | None = None,
    further: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    max_false_abstain: float = 0.05,
) -> FittedRouter | None:
    """Return the router at `path`; None when it is missing, damaged or made from other input than this."""
    wanted = Provenance.describe(
        examples,
        negatives,
        embedder.fingerprint,
        passages=passages,
        further=further,
        seed=seed,
        max_false_abstain=max_false_abstain,
    )
    try:
        stored = load_artifact(path)
    except ArtifactError:
        return None
    return stored if stored.provenance == wanted else None


def _embed(checked: Checked, routes: Sequence[str], embedder: Embedder, seed: int) -> Corpus:
    """Put examples, negatives, follow-ups, requests, texts after an opening, further examples, passages side by side.

    Follow-up phrases belong to no route on their own: they are learnt as negatives, and nothing is calibrated on them.
    Other follow-ups and requests are not learnt, since a route may be about them: they show what continues a topic.
    """
    taken = {text for text, _ in (*checked.judged, *checked.further)}
    continuing = [text for text in (*PHRASES, *FOLLOW_UPS) if text not in taken]
    requests = [(text, None) for text in REQUESTS if text not in taken]
    lots = draw_lots([text for text, _ in checked.judged] + continuing + [text for text, _ in requests], seed)
    opened, after = after_openings(checked.judged, lots)
    folded = [*checked.judged, *((text, None) for text in continuing), *requests, *after]
    labelled = [*folded, *checked.further, *checked.passages]
    index = {route: number for number, route in enumerate(routes)}
    labels = np.array([OUTSIDE if route is None else index[route] for _, route in labelled], dtype=np.int64)
    texts = [text for text, _ in labelled]
    phrases = slice(len(checked.judged), len(checked.judged) + len(continuing))
    asked = slice(phrases.stop, phrases.stop + len(requests))
    n_folded = len(folded)
    folds = np.full(len(texts), NO_FOLD, dtype=np.int64)
    folds[: asked.stop] = _assign_folds(labels[: asked.stop], lots)
    folds[asked.stop : n_folded] = folds[opened]
    unmarked = texts[: n_folded + len(checked.further)] + drop_marks(checked.passages)
    learnt = np.ones(len(texts), dtype=np.bool_)
    learnt[phrases.start + sum(text in PHRASES for text in continuing) : n_folded] = False
    return Corpus(unmarked, embedder.read(texts), labels, folds, phrases, asked, opened, learnt, embedder.dim)


class _Steps:
    """Fits witnesses on parts of a corpus, one step of the progress bar each."""

    def __init__(self, data: Corpus, n_strangers: int, seed: int, progress: bool) -> None:
        from tqdm import tqdm

        self._data = data
        self._counted = [count_buckets(text) for text in data.texts]
        self._seed = seed
        total = len(_folds_of(data)) + 1 + n_strangers
        self.bar: Any = tqdm(total=total, desc="fitting", unit="fit", disable=None if progress else True, leave=False)

    def fit_on(self, chosen: npt.NDArray[np.bool_]) -> Witnesses:
        """Fit on the chosen texts; routes without any are unknown to the witnesses, the others keep their order."""
        data = self._data
        chosen = chosen & data.learnt
        counted = [self._counted[row] for row in np.flatnonzero(chosen)]
        labels = data.labels[chosen]
        known = np.unique(labels[labels != OUTSIDE])
        labels = np.where(labels == OUTSIDE, OUTSIDE, np.searchsorted(known, labels))
        witnesses = Witnesses(
            fit_classifier(data.vectors[chosen], labels, self._seed, data.n_meaning), fit_lexical(counted, labels)
        )
        self.bar.update()
        return witnesses


def fit_classifier(vectors: Vectors, labels: Indices, seed: int, n_meaning: int) -> Classifier:
    """Fit the four kinds of evidence on texts, labelled by route or `OUTSIDE`; see `Classifier`.

    Args:
        vectors: as `Embedder.read` gives them.
        n_meaning: the first so many of their values are the meaning.
    """
    order = np.argsort(labels, kind="stable")
    vectors, labels = vectors[order], labels[order]
    meanings = take_meaning(vectors, n_meaning)
    clusters, cluster_routes = np.empty(len(labels), dtype=np.int64), list[int]()
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        found = _cluster(meanings[members], seed)
        clusters[members] = found + len(cluster_routes)
        cluster_routes += [label] * (int(found.max()) + 1)
    weights, biases = _fit_linear(meanings, clusters)
    texts = RoundedTexts.of(vectors)
    duals, offsets = _fit_kernel(texts.vectors, labels, seed)
    return Classifier(
        texts=texts,
        text_routes=labels,
        weights=weights,
        biases=biases,
        cluster_routes=np.array(cluster_routes, dtype=np.int64),
        duals=duals,
        offsets=offsets,
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
    model: Any = LogisticRegression(C=REGULARISATION_C, max_iter=MAX_ITERATIONS).fit(vectors, clusters)
    weights, biases = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    if n_clusters == 2:  # scikit-learn keeps the second of two classes only
        return np.concatenate([np.zeros_like(weights), weights]), np.concatenate([np.zeros_like(biases), biases])
    return weights, biases


def _fit_kernel(vectors: Vectors, labels: Indices, seed: int) -> tuple[Vectors, Vectors]:
    """Return the dual coefficients [n_texts, n_routes + 1] and offsets [n_routes + 1] of one ridge regression a column.

    Each tells its own texts (1) from all others (-1). Of more than `MAX_KERNEL_TEXTS` a part is fitted on, the other
    rows are zero. Source: Saunders et al., "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998.
    """
    from scipy.linalg import cho_factor, cho_solve

    columns = [labels == route for route in range(int(labels.max()) + 1)] + [labels != OUTSIDE]
    targets = np.where(np.stack(columns, axis=1), np.float32(1), np.float32(-1))
    offsets = targets.mean(axis=0)
    fitted_on = _draw(labels, seed)
    # Transposed, a symmetric matrix is what LAPACK reads without a copy.
    factor = cho_factor(ridge_matrix(vectors[fitted_on]).T, overwrite_a=True, check_finite=False)
    duals = np.zeros_like(targets)
    duals[fitted_on] = cho_solve(factor, targets[fitted_on] - offsets)
    return duals, offsets


def _draw(labels: Indices, seed: int) -> Indices:
    """Return the rows of `MAX_KERNEL_TEXTS` texts, ascending; of fewer, all."""
    order = np.random.default_rng(seed).permutation(len(labels))
    early = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        early[order[labels[order] == label][:MIN_KERNEL_TEXTS]] = True
    order = np.concatenate([order[early[order]], order[~early[order]]])
    return np.sort(order[:MAX_KERNEL_TEXTS])


def _out_of_fold(
    data: Corpus, pairs: FollowUpPairs, without: Mapping[int, Future[Witnesses]], threads: ThreadPoolExecutor
) -> tuple[Evidence, Scores]:
    """Weigh every text in a fold, and every follow-up, by witnesses that were fitted without this fold."""
    evidence = np.zeros((len(data.labels), int(data.labels.max()) + 1, N_KINDS))
    signals = np.zeros((len(pairs.anchors), N_SIGNALS))

    def weigh(fold: int) -> None:
        held = data.folds == fold
        witnesses = without[fold].result()
        texts = [data.texts[row] for row in np.flatnonzero(held)]
        evidence[held] = witnesses.evidence(texts, data.vectors[held])
        rows = np.flatnonzero(held[pairs.anchors])
        signals[rows] = pairs.signals(rows, witnesses, data)

    list(threads.map(weigh, without))
    return evidence, signals


def _group_strangers(n_routes: int) -> list[npt.NDArray[np.bool_]]:
    """Return which routes are left out together, so that each is a stranger once; a single one cannot be."""
    if n_routes == 1:
        return []
    return [np.arange(n_routes) % STRANGER_GROUPS == turn for turn in range(STRANGER_GROUPS)]


def _meet_strangers(
    data: Corpus, groups: Sequence[npt.NDArray[np.bool_]], n_judged: int, steps: _Steps, threads: ThreadPoolExecutor
) -> list[Evidence]:
    """Weigh the texts of some routes by witnesses that do not know these: what an unwanted text may look like."""

    def weigh(group: npt.NDArray[np.bool_]) -> Evidence:
        left_out = group[data.labels] & (data.labels != OUTSIDE)
        witnesses = steps.fit_on(~left_out)
        rows = np.flatnonzero(left_out[:n_judged])
        return witnesses.evidence([data.texts[row] for row in rows], data.vectors[rows])

    return list(threads.map(weigh, groups))


def _folds_of(data: Corpus) -> list[int]:
    return [int(fold) for fold in np.unique(data.folds[data.folds != NO_FOLD])]


def _assign_folds(labels: Indices, lots: Lots) -> Indices:
    """Spread the texts of each label over the folds, so that some of each stay outside every fold.

    The few of a small label are spread evenly. Of many each goes by its own lot, so that one more moves none of them.
    """
    count = next(folds for most, folds in FOLDS if most is None or len(labels) <= most)
    folds = deal(lots, count, Draw.FOLD)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < FEW_A_FOLD * count:
            folds[shuffle(members, lots, Draw.FOLD)] = np.arange(len(members)) % count
    return folds
