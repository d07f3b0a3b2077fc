"""Which recipe routes and abstains best on the frozen encoder? What `router/` was chosen from, and each kind's worth.

CLINC150, ten domains as experts, fitted on train and measured on val and oos_val; the 100 texts of oos_train are given
as negatives to the recipes that can use them. All are scikit-learn on the same vectors. The rows "without …" are ours
with one kind of evidence taken out. Recall is the share of out-of-scope texts refused when 5 % of the others are.

The last line is one JSON object; `ratio` is our recall over the best other recipe's.

    python benchmarks/routing_recipes.py [--count 50] [--draws 3] [--encoder SOURCE]    (--count 0: all 15,000)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from routing_data import Clinc, Task, open_encoder
from routing_quality import measure
from serving import finish, print_table
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.svm import SVC

from router import BulkEmbedder, fit
from router.classifier import KERNEL, LEXICAL, LINEAR, NEAREST, SCOPE

CLUSTERS = 15
Vectors = np.ndarray
Recipe = Callable[[Vectors, np.ndarray, Vectors, Vectors], Vectors]
"""Vectors and labels of the examples, vectors of the negatives, vectors to judge -> scores [n_texts, n_routes]."""


def logistic(vectors: Vectors, labels: np.ndarray, _negatives: Vectors, asked: Vectors) -> Vectors:
    return LogisticRegression(C=10, max_iter=300).fit(vectors, labels).predict_proba(asked)


def outside_class(vectors: Vectors, labels: np.ndarray, negatives: Vectors, asked: Vectors) -> Vectors:
    both = np.concatenate([labels, np.full(len(negatives), labels.max() + 1)])
    model = LogisticRegression(C=10, max_iter=300, class_weight="balanced")
    return model.fit(np.concatenate([vectors, negatives]), both).predict_proba(asked)[:, :-1]


def clusters(vectors: Vectors, labels: np.ndarray, _negatives: Vectors, asked: Vectors) -> Vectors:
    found, owners = sub_topics(vectors, labels)
    shares = LogisticRegression(C=10, max_iter=300).fit(vectors, found).predict_proba(asked)
    return np.stack([shares[:, owners == route].sum(axis=1) for route in np.unique(labels)], axis=1)


def nearest(vectors: Vectors, labels: np.ndarray, _negatives: Vectors, asked: Vectors) -> Vectors:
    cosines = asked @ vectors.T
    return np.stack([np.sort(cosines[:, labels == r], axis=1)[:, -3:].mean(axis=1) for r in np.unique(labels)], axis=1)


def prototypes(vectors: Vectors, labels: np.ndarray, _negatives: Vectors, asked: Vectors) -> Vectors:
    means = np.stack([vectors[labels == route].mean(axis=0) for route in np.unique(labels)])
    return asked @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T


def mahalanobis(vectors: Vectors, labels: np.ndarray, _negatives: Vectors, asked: Vectors) -> Vectors:
    return -distances(vectors, labels, asked)


def mahalanobis_clusters(vectors: Vectors, labels: np.ndarray, _negatives: Vectors, asked: Vectors) -> Vectors:
    found, owners = sub_topics(vectors, labels)
    away = distances(vectors, found, asked)
    return -np.stack([away[:, owners == route].min(axis=1) for route in np.unique(labels)], axis=1)


def machines(vectors: Vectors, labels: np.ndarray, _negatives: Vectors, asked: Vectors) -> Vectors:
    rows = np.random.default_rng(0).permutation(len(labels))[:4000]
    models = (
        SVC(C=5, gamma=1, class_weight="balanced").fit(vectors[rows], labels[rows] == r) for r in np.unique(labels)
    )
    return np.stack([model.decision_function(asked) for model in models], axis=1)


def calibrator(vectors: Vectors, labels: np.ndarray, negatives: Vectors, asked: Vectors) -> Vectors:
    """Logistic regression over the scores of clusters and neighbours and a negatives' head, fitted out of fold."""
    parts = np.random.default_rng(0).integers(0, 3, len(labels))
    tuned = LogisticRegression(C=1, class_weight="balanced")
    inside = np.concatenate([np.ones(len(labels)), np.zeros(len(negatives))])
    everything = np.concatenate([vectors, negatives])
    head = LogisticRegression(C=10, class_weight="balanced")
    alone = cross_val_predict(head, everything, inside, cv=3, method="decision_function")
    seen = np.zeros((len(everything), len(np.unique(labels)), 2))
    for part in range(3):
        held, rest = np.flatnonzero(parts == part), parts != part
        judged = np.concatenate([held, len(labels) + np.flatnonzero(np.arange(len(negatives)) % 3 == part)])
        seen[judged] = pair(vectors[rest], labels[rest], negatives, everything[judged])
    best = seen.sum(axis=2).argmax(axis=1)
    rows = np.arange(len(best))
    right = np.concatenate([best[: len(labels)] == labels, np.zeros(len(negatives), dtype=bool)])
    tuned.fit(np.column_stack([seen[rows, best], alone]), right)
    now, scope = pair(vectors, labels, negatives, asked), head.fit(everything, inside).decision_function(asked)
    return np.stack(
        [tuned.decision_function(np.column_stack([now[:, route], scope])) for route in range(now.shape[1])], axis=1
    )


def pair(vectors: Vectors, labels: np.ndarray, negatives: Vectors, asked: Vectors) -> Vectors:
    shares = np.clip(clusters(vectors, labels, negatives, asked), 1e-6, 1 - 1e-6)
    found = np.stack([np.log(shares / (1 - shares)), nearest(vectors, labels, negatives, asked)], axis=2)
    best = found.max(axis=1)
    return (found - best.mean(axis=0)) / best.std(axis=0)


def z_sum(vectors: Vectors, labels: np.ndarray, negatives: Vectors, asked: Vectors) -> Vectors:
    return pair(vectors, labels, negatives, asked).sum(axis=2)


RECIPES: dict[str, Recipe] = {
    "logistic regression over experts": logistic,
    "the same with an out-of-scope class (negatives)": outside_class,
    "3 nearest examples": nearest,
    "prototypes (cosine to the mean)": prototypes,
    "Mahalanobis to experts": mahalanobis,
    "Mahalanobis to clusters": mahalanobis_clusters,
    "support vector machines": machines,
    "logistic regression over clusters": clusters,
    "clusters + nearest, z-scores summed": z_sum,
    "calibrator over clusters, nearest, negatives' head": calibrator,
}


def sub_topics(vectors: Vectors, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster of each text, numbered over all experts, and the expert of each cluster."""
    found, owners = np.empty(len(labels), dtype=int), list[int]()
    for route in np.unique(labels):
        members = np.flatnonzero(labels == route)
        count = max(1, min(CLUSTERS, len(members) // 4))
        found[members] = KMeans(count, n_init=2, random_state=0).fit_predict(vectors[members]) + len(owners)
        owners += [int(route)] * count
    return found, np.array(owners)


def distances(vectors: Vectors, groups: np.ndarray, asked: Vectors) -> Vectors:
    """Return squared Mahalanobis distances to the mean of each group, one shrunk covariance for all."""
    means = np.stack([vectors[groups == group].mean(axis=0) for group in range(groups.max() + 1)])
    covariance, _ = ledoit_wolf(vectors - means[groups])
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    one, other = asked @ root, means @ root
    return (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T


def run_recipe(recipe: Recipe, task: Task, embedder: BulkEmbedder) -> dict[str, float]:
    routes = sorted(task.examples)
    texts = [text for route in routes for text in task.examples[route]]
    labels = np.repeat(np.arange(len(routes)), [len(task.examples[route]) for route in routes])
    asked = embedder.read([text for text, _ in task.held_out])
    scores = recipe(embedder.read(texts), labels, embedder.read(task.negatives), asked)
    return measure([routes[index] for index in scores.argmax(axis=1)], scores.max(axis=1), task.held_out)


def run_ours(task: Task, embedder: BulkEmbedder) -> dict[str, dict[str, float]]:
    """Ours without negatives, with them, and with one kind of evidence less each."""
    texts = [text for text, _ in task.held_out]
    results = {}
    for given in (False, True):
        fitted = fit(task.examples, task.negatives if given else [], embedder)
        evidence = fitted.witnesses.evidence(texts, embedder.read(texts))
        kinds = {"clusters": LINEAR, "nearest": NEAREST, "kernel": KERNEL, "words": LEXICAL, "scope": SCOPE}
        rows: dict[str, int | None] = {"pointsman, negatives given" if given else "pointsman": None}
        rows |= {f"  without {name}": kind for name, kind in kinds.items()} if given else {}
        for name, kind in rows.items():
            weights = fitted.policy.gate.weights.copy()
            if kind is not None:
                weights[kind] = 0.0
            scores = replace(fitted.policy.gate, weights=weights).scores(evidence)
            named = [fitted.routes[index] for index in scores.argmax(axis=1)]
            results[name] = measure(named, scores.max(axis=1), task.held_out)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="model directory, pypi:PACKAGE or Hub id; the configured one if left out")
    parser.add_argument("--count", type=int, default=50, help="examples a domain; 0: all")
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    embedder, clinc = open_encoder(arguments.encoder, threads=2), Clinc()
    draws: list[dict[str, dict[str, float]]] = []
    for draw in range(arguments.draws if arguments.count else 1):
        task = clinc.task(arguments.count or None, draw, negatives=True)
        found = {name: run_recipe(recipe, task, embedder) for name, recipe in RECIPES.items()}
        draws.append(found | run_ours(task, embedder))
    means = {
        name: {key: float(np.mean([row[name][key] for row in draws])) for key in draws[0][name]} for name in draws[0]
    }
    print_table(("recipe", *next(iter(means.values()))), [(name, *values.values()) for name, values in means.items()])
    best = max(means[name]["recall"] for name in RECIPES)
    finish("routing_recipes", count=arguments.count, draws=len(draws), recipes=means,
           ratio=means["pointsman"]["recall"] / best)  # fmt: skip


if __name__ == "__main__":
    main()
