"""How well does the router choose, and abstain, on texts it has not seen?

Three questions, one table each:

1. CLINC150, ten domains as experts: fitted on train (all, or 50 a domain), measured on val and the out-of-scope val.
2. The experts in experts/: fitted on their examples, measured on their questions and on data/acceptance.jsonl.
3. Conversations: data/conversations.jsonl, where does the last turn go?

Beside ours stand two baselines on the same vectors and with the same rule for the threshold: one logistic regression
over the routes, and the cosine to each route's mean. The last line is one JSON object; `ratio` is our share of refused
out-of-scope texts over the better baseline's, both at 5 % false abstention, CLINC150 with all examples.

    python benchmarks/routing.py --encoder SOURCE [--quick] [--only clinc|experts|conversations]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from router import Embedder, FittedRouter, OnnxEmbedder, ensure_encoder, fit
from router.calibrate import area_under_curve
from router.conversation import MAX_TURNS
from router.threshold import choose_threshold

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
FALSE_ABSTAIN = 0.05
FEW = 50
Labelled = list[tuple[str, str | None]]
Scorer = Callable[[Sequence[str]], tuple[list[str], np.ndarray]]


@dataclass(frozen=True)
class Task:
    """What to fit on, and what to measure on; None stands for out of scope."""

    name: str
    examples: Mapping[str, Sequence[str]]
    negatives: Sequence[str]
    held_out: Labelled
    passages: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def clinc_tasks(quick: bool) -> list[Task]:
    folder = DATA / "clinc150"
    train, val, outside, outside_val = (
        read_rows(folder / f"{name}.jsonl") for name in ("train", "val", "oos_train", "oos_val")
    )
    by_domain: dict[str, list[str]] = {}
    for row in train:
        by_domain.setdefault(row["domain"], []).append(row["text"])
    owner: dict[str, str] = {}
    for domain, texts in by_domain.items():  # a few utterances stand under two domains: keep the first
        for text in texts:
            owner.setdefault(text, domain)
    unique = {domain: [text for text in dict.fromkeys(texts) if owner[text] == domain]
              for domain, texts in by_domain.items()}  # fmt: skip
    negatives = [row["text"] for row in outside if row["text"] not in owner]
    held_out: Labelled = [(row["text"], row["domain"]) for row in [*val, *outside_val]]
    generator = random.Random(0)
    few = {domain: generator.sample(texts, FEW) for domain, texts in unique.items()}
    tasks = [Task(f"CLINC150, {FEW} a domain", few, negatives, held_out)]
    return tasks if quick else [*tasks, Task("CLINC150, all examples", unique, negatives, held_out)]


def expert_data() -> dict[str, Any]:
    """Return what the gateway fits its router on, as keyword arguments of `fit`."""
    examples, passages = {}, {}
    for path in sorted((ROOT / "experts").glob("*/examples.jsonl")):
        rows = json.loads((path.parent / "dataset.json").read_text(encoding="utf-8"))
        examples[path.parent.name] = [row["text"] for row in read_rows(path)]
        passages[path.parent.name] = [row[key] for row in rows for key in ("instruction", "output")]
    negatives = [row["text"] for row in read_rows(ROOT / "experts" / "out_of_scope.jsonl")]
    return {"examples": examples, "negatives": negatives, "passages": passages}


def expert_tasks() -> list[Task]:
    data = expert_data()
    questions: Labelled = [
        (row["question"], name)
        for name in data["examples"]
        for row in read_rows(ROOT / "experts" / name / "questions.jsonl")
    ]
    acceptance: Labelled = [
        (row["text"], None if row["expert"] == "base" else row["expert"])
        for row in read_rows(DATA / "acceptance.jsonl")
    ]
    outside = [(text, label) for text, label in acceptance if label is None]
    return [
        Task("experts, questions (and the unrelated texts of acceptance)", held_out=questions + outside, **data),
        Task("experts, acceptance", held_out=acceptance, **data),
    ]


def score_ours(fitted: FittedRouter, embedder: Embedder) -> Scorer:
    def score(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        rows = np.stack([encoded.scores for encoded in fitted.encode(embedder.embed(texts))])
        return [fitted.routes[index] for index in rows.argmax(axis=1)], rows.max(axis=1)

    return score


def score_logistic(task: Task, embedder: Embedder) -> tuple[Scorer, float]:
    vectors, labels = embed_examples(task, embedder)
    model = LogisticRegression(C=10, max_iter=300)
    out_of_fold = cross_val_predict(model, vectors, labels, cv=5, method="predict_proba").max(axis=1)
    model.fit(vectors, labels)

    def score(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        shares = model.predict_proba(embedder.embed(texts))
        return [str(model.classes_[index]) for index in shares.argmax(axis=1)], shares.max(axis=1)

    return score, pick_threshold(out_of_fold, score, task)


def score_centroids(task: Task, embedder: Embedder) -> tuple[Scorer, float]:
    vectors, labels = embed_examples(task, embedder)
    routes = sorted(task.examples)
    means = np.stack([vectors[labels == route].mean(axis=0) for route in routes])
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def score(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        cosines = embedder.embed(texts) @ means.T
        return [routes[index] for index in cosines.argmax(axis=1)], cosines.max(axis=1)

    return score, pick_threshold((vectors @ means.T).max(axis=1), score, task)


def embed_examples(task: Task, embedder: Embedder) -> tuple[np.ndarray, np.ndarray]:
    sources = [*task.examples.items(), *task.passages.items()]
    pairs = [(text, route) for route, texts in sources for text in texts]
    return embedder.embed([text for text, _ in pairs]), np.array([route for _, route in pairs])


def pick_threshold(accept: np.ndarray, score: Scorer, task: Task) -> float:
    return choose_threshold(accept, score(task.negatives)[1], max_false_abstain=FALSE_ABSTAIN)


def measure(score: Scorer, threshold: float, held_out: Labelled) -> dict[str, float]:
    decided, top = score([text for text, _ in held_out])
    right = np.array([route == label for route, (_, label) in zip(decided, held_out, strict=True)])
    inside = np.array([label is not None for _, label in held_out])
    at_five = float(np.quantile(top[inside], FALSE_ABSTAIN))
    return {
        "accuracy": float(right[inside].mean()),
        "auroc": area_under_curve(top[inside], top[~inside]),
        "refused at 5 %": float(np.mean(top[~inside] < at_five)),
        "correct": float(np.mean((right & (top >= threshold))[inside])),
        "false abstain": float(np.mean(top[inside] < threshold)),
        "refused": float(np.mean(top[~inside] < threshold)),
    }


def run_task(task: Task, embedder: Embedder) -> dict[str, dict[str, float]]:
    fitted = fit(task.examples, task.negatives, embedder, passages=task.passages, max_false_abstain=FALSE_ABSTAIN)
    return {
        "pointsman": measure(score_ours(fitted, embedder), fitted.threshold, task.held_out),
        "logistic": measure(*score_logistic(task, embedder), task.held_out),
        "centroids": measure(*score_centroids(task, embedder), task.held_out),
    }


def run_conversations(embedder: Embedder) -> dict[str, Any]:
    """Replay each conversation; the floor looks at the last turn alone."""
    fitted = fit(**expert_data(), embedder=embedder, max_false_abstain=FALSE_ABSTAIN)
    rows = read_rows(DATA / "conversations.jsonl")
    right, right_alone, wrong = 0, 0, []
    for row in rows:
        turns = row["turns"][-MAX_TURNS:]
        known = dict(zip(turns, fitted.encode(embedder.embed(turns)), strict=True))
        joints = fitted.policy.joints(turns, known)
        known.update(zip(joints, fitted.encode(embedder.embed(joints)), strict=True))
        route = fitted.policy.decide(turns, known).route or "base"
        right += route == row["expert"]
        right_alone += (fitted.policy.decide(turns[-1:], known).route or "base") == row["expert"]
        if route != row["expert"]:
            wrong.append({**row, "decided": route})
    print(f"\nconversations: {right} of {len(rows)} right; by the last turn alone {right_alone}")
    for row in wrong:
        print(f"  expected {row['expert']}, got {row['decided']}: {' / '.join(row['turns'])}")
    return {"right": right, "right_alone": right_alone, "conversations": len(rows)}


def print_table(name: str, results: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(next(iter(results.values())))
    print(f"\n{name}\n{'':12}" + "".join(f"{column:>16}" for column in columns))
    for router, values in results.items():
        print(f"{router:12}" + "".join(f"{values[column]:16.3f}" for column in columns), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="model directory or Hub id")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "encoders", help="where exports are kept")
    parser.add_argument("--only", choices=("clinc", "experts", "conversations"))
    parser.add_argument("--quick", action="store_true", help="leave out CLINC150 with all 15,000 examples")
    arguments = parser.parse_args()
    embedder = OnnxEmbedder(ensure_encoder(arguments.encoder, arguments.cache))
    tasks: list[Task] = []
    if arguments.only in (None, "clinc"):
        tasks += clinc_tasks(arguments.quick)
    if arguments.only in (None, "experts"):
        tasks += expert_tasks()
    results: dict[str, Any] = {}
    for task in tasks:
        results[task.name] = run_task(task, embedder)
        print_table(task.name, results[task.name])
    if arguments.only in (None, "conversations"):
        results["conversations"] = run_conversations(embedder)
    compared = next((results[task.name] for task in reversed(tasks) if task.name.startswith("CLINC150")), None)
    if compared is not None:
        best_peer = max(compared[name]["refused at 5 %"] for name in ("logistic", "centroids"))
        results["ratio"] = compared["pointsman"]["refused at 5 %"] / best_peer
    print(json.dumps(results))


if __name__ == "__main__":
    main()
