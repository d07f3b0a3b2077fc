"""How well does the router choose, and abstain, on texts it has not seen?

Three questions, one table each:

1. CLINC150, ten domains as experts: fitted on train (10, 50, 200 a domain, the mean of some draws; all), measured on
   val and the out-of-scope texts. Beside ours, on the same encoder, stand aurelio semantic-router and one logistic
   regression over the domains. Recall is the share of out-of-scope texts refused when 5 % of the others are; the last
   columns are what our own threshold does, chosen without seeing val, for 5 % asked. Where out-of-scope texts are
   given at fitting (oos_train), only oos_val is measured on; else both are.
2. The experts in experts/: fitted as the gateway fits them, measured on questions that were held out.
   With --finetune, the same again after the encoder was tuned on half of the examples; of CLINC150 one draw.
3. Conversations about them: where does the last turn go? Beside it, what the last turn alone would say.

With --second-encoder, a router on that one decides where the first is in doubt; also shown is how often that is.

The last line is one JSON object; `ratio` is our recall over semantic-router's with all examples and no negatives.

    python benchmarks/routing_quality.py [--encoder SOURCE] [--second-encoder SOURCE] [--draws 5]
                                         [--only clinc experts conversations] [--quick] [--without-further]
                                         [--finetune]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from peers import child_environment, peer_python
from routing_data import (
    Clinc,
    Labelled,
    Task,
    conversations,
    decide,
    expert_data,
    expert_questions,
    locate_encoder,
    open_encoder,
)
from serving import finish, print_table
from sklearn.linear_model import LogisticRegression

from gateway.settings import Settings
from router import BulkEmbedder, FittedRouter, OnnxEmbedder, Split, finetune, fit, split
from router.calibrate import area_under_curve, calibration_error
from router.continuation import Encoded

ASKED = 0.05
PARTS = ("clinc", "experts", "conversations")
Second = tuple[FittedRouter, BulkEmbedder] | None
REQUIREMENTS = ("semantic-router==1.1.1", "sentence-transformers==6.2.0", "torch==2.13.0", "transformers==5.24.0")
COLUMNS = ("accuracy %", "AUROC", "recall", "false abstain %", "recall at own threshold", "calibration error",
           "in doubt %")  # fmt: skip


def measure(named: Sequence[str], top: np.ndarray, held_out: Labelled) -> dict[str, float]:
    """What the best routes and their scores are worth, whatever the threshold."""
    right = np.array([route == label for route, (_, label) in zip(named, held_out, strict=True)])
    inside = np.array([label is not None for _, label in held_out])
    return {
        "accuracy %": 100 * float(right[inside].mean()),
        "AUROC": area_under_curve(top[inside], top[~inside]),
        "recall": float(np.mean(top[~inside] < np.quantile(top[inside], ASKED))),
    }


def run_tuned(task: Task, encoder: str | None, threads: int) -> dict[str, float]:
    """`run_ours` on an encoder tuned on half of the examples; these teach, the others calibrate."""
    parts = split(task.examples, task.negatives)
    with tempfile.TemporaryDirectory() as folder:
        tuned = tune(parts, encoder, Path(folder), threads)
        return run_ours(replace(task, examples=parts.judged, negatives=parts.judged_negatives), tuned, parts.tuned)


def tune(parts: Split, encoder: str | None, folder: Path, threads: int) -> BulkEmbedder:
    started = time.monotonic()
    finetune(locate_encoder(encoder), parts.tuned, parts.tuned_negatives, folder / "encoder")
    print(f"tuned in {time.monotonic() - started:.0f} s", flush=True)
    return BulkEmbedder(OnnxEmbedder(folder / "encoder", threads=threads), workers=threads)


def run_ours(
    task: Task,
    embedder: BulkEmbedder,
    further: Mapping[str, Sequence[str]] | None = None,
    second: BulkEmbedder | None = None,
) -> dict[str, float]:
    texts = [text for text, _ in task.held_out]
    fitted, encoded, qualify = fit_and_read(task, embedder, further, texts)
    scores = np.stack([row.scores for row in encoded])
    doubtful = [row for row, text in enumerate(texts) if fitted.policy.in_doubt([text], {text: encoded[row]})]
    if second is not None and doubtful:
        _, again, qualify_again = fit_and_read(task, second, further, [texts[row] for row in doubtful])
        scores[doubtful] = np.stack([row.scores for row in again])
        qualify[doubtful] = qualify_again
    named, top = [fitted.routes[index] for index in scores.argmax(axis=1)], scores.max(axis=1)
    inside = np.array([label is not None for _, label in task.held_out])
    # Calibration on the validation split as it is: oos_train is there to measure recall with.
    kept = slice(task.n_split)
    right = np.array([route == label for route, (_, label) in zip(named, task.held_out, strict=True)])
    return measure(named, top, task.held_out) | {
        "false abstain %": 100 * float(np.mean(~qualify[inside])),
        "recall at own threshold": float(np.mean(~qualify[~inside])),
        "calibration error": calibration_error(top[kept], right[kept]),
        "in doubt %": 100 * len(doubtful) / len(texts),
    }


def fit_and_read(
    task: Task, embedder: BulkEmbedder, further: Mapping[str, Sequence[str]] | None, texts: Sequence[str]
) -> tuple[FittedRouter, list[Encoded], np.ndarray]:
    """Return the router, what it reads in each text, and whether that qualifies for an expert."""
    fitted = fit(task.examples, task.negatives, embedder, further=further, max_false_abstain=ASKED)
    encoded = fitted.encode(texts, embedder.read(texts))
    return fitted, encoded, np.array([fitted.policy.qualifies(row.scores) for row in encoded])


def run_logistic(task: Task, embedder: BulkEmbedder) -> dict[str, float]:
    pairs = [(text, route) for route, texts in task.examples.items() for text in texts]
    model = LogisticRegression(C=10, max_iter=300)
    model.fit(embedder.embed([text for text, _ in pairs]), [route for _, route in pairs])
    shares = model.predict_proba(embedder.embed([text for text, _ in task.held_out]))
    return measure([str(model.classes_[index]) for index in shares.argmax(axis=1)], shares.max(axis=1), task.held_out)


def run_peer(task: Task, embedder: BulkEmbedder, python: Path) -> dict[str, float]:
    texts = list(dict.fromkeys([*(text for texts in task.examples.values() for text in texts),
                                *(text for text, _ in task.held_out)]))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "vectors.npz"
        named = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
        np.savez(archive, texts=named, vectors=embedder.embed(texts))
        asked = {"vectors": str(archive), "routes": task.examples, "texts": [text for text, _ in task.held_out]}
        child = subprocess.run(
            [str(python), str(Path(__file__).with_name("routing_quality_peer.py"))],
            input=json.dumps(asked), stdout=subprocess.PIPE, env=child_environment(), check=True, text=True,
        )  # fmt: skip
    found = json.loads(child.stdout)
    return measure([str(route) for route in found["routes"]], np.array(found["scores"]), task.held_out)


def run_clinc(
    embedder: BulkEmbedder, given: argparse.Namespace, second: BulkEmbedder | None
) -> dict[str, dict[str, float]]:
    draws, quick = given.draws, given.quick
    clinc, results = Clinc(), dict[str, dict[str, float]]()
    python = peer_python("semantic-router", REQUIREMENTS)
    for count in (10, 50, 200, *(() if quick else (None,))):
        name = "all" if count is None else f"{count} a domain"
        seeds = range(1 if count is None else draws)
        plain = [clinc.task(count, draw, negatives=False) for draw in seeds]
        warned = [clinc.task(count, draw, negatives=True) for draw in seeds]
        results[f"{name} | pointsman"] = _mean([run_ours(task, embedder, second=second) for task in plain])
        results[f"{name} | pointsman, 100 negatives given"] = _mean(
            [run_ours(task, embedder, second=second) for task in warned]
        )
        results[f"{name} | semantic-router"] = _mean([run_peer(task, embedder, python) for task in plain])
        results[f"{name} | logistic regression"] = _mean([run_logistic(task, embedder) for task in plain])
        if given.finetune:
            results[f"{name} | pointsman, fine-tuned"] = run_tuned(plain[0], given.encoder, given.threads)
            results[f"{name} | pointsman, fine-tuned, 100 negatives given"] = run_tuned(
                warned[0], given.encoder, given.threads
            )
        for row in [row for row in results if row.startswith(f"{name} | ")]:
            print(row, {key: round(value, 4) for key, value in results[row].items()}, flush=True)
    print(f"\nCLINC150, {draws} draws of the small ones\n")
    print_table(
        ("examples", "router", *COLUMNS),
        [(*row.split(" | "), *(values.get(column, "") for column in COLUMNS)) for row, values in results.items()],
    )
    return results


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def run_experts(fitted: FittedRouter, embedder: BulkEmbedder, second: Second = None) -> dict[str, Any]:
    """The share of questions that reach their expert, and of the others that reach the base model."""
    rows, missed = [], []
    for source, labelled in expert_questions().items():
        found = [(text, label, decide(fitted, embedder, [text], second)) for text, label in labelled]
        inside = [decision.route == label for _, label, decision in found if label is not None]
        outside = [decision.route is None for _, label, decision in found if label is None]
        rows.append((source, len(inside), f"{np.mean(inside):.1%}" if inside else "", len(outside),
                     f"{np.mean(outside):.1%}" if outside else "",
                     f"{np.mean([decision.second for *_, decision in found]):.1%}"))  # fmt: skip
        missed += [
            f"  {label or 'base'} expected, {decision.route or 'base'}: {text}"
            for text, label, decision in found
            if decision.route != label
        ]
    print(f"\nthe experts shipped, {fitted.provenance.max_false_abstain:.0%} false abstentions asked for\n")
    print_table(("texts", "in domain", "to their expert", "out of scope", "to base", "read twice"), rows)
    print("\n".join(missed))
    return {
        source: {"in_domain": inside, "out_of_scope": outside, "read_twice": twice}
        for source, _, inside, _, outside, twice in rows
    }


def run_tuned_experts(given: argparse.Namespace) -> dict[str, Any]:
    """The experts and the conversations again, as ``pointsman router fit --finetune`` fits."""
    data = expert_data()
    parts = split(data["examples"], data["negatives"])
    further = parts.further(data["further"])
    with tempfile.TemporaryDirectory() as folder:
        tuned = tune(parts, given.encoder, Path(folder), given.threads)
        share = Settings().router.false_abstain
        fitted = fit(
            parts.judged,
            parts.judged_negatives,
            tuned,
            passages=data["passages"],
            further=further,
            max_false_abstain=share,
        )
        return {"experts": run_experts(fitted, tuned), "conversations": run_conversations(fitted, tuned)}


def run_conversations(fitted: FittedRouter, embedder: BulkEmbedder, second: Second = None) -> dict[str, Any]:
    """Replay each conversation; the floor looks at the last turn alone."""
    found: dict[str, list[tuple[bool, bool, bool]]] = {}
    for turns, expert, kind in conversations():
        whole, alone = (decide(fitted, embedder, asked, second) for asked in (turns, turns[-1:]))
        right, right_alone = ((decision.route or "base") == expert for decision in (whole, alone))
        found.setdefault(kind, []).append((right, right_alone, whole.second))
        if not right:
            print(f"  {expert} expected, {whole.route or 'base'}: {' / '.join(turns)}")
    table = [[kind, len(rows), *map(sum, zip(*rows, strict=True))] for kind, rows in found.items()]
    print_table(["conversations, the last turn", "asked", "right", "right by that turn alone", "read twice"], table)
    return {
        kind: {"asked": asked, "right": right, "right_alone": alone, "read_twice": twice}
        for kind, asked, right, alone, twice in table
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="model directory, pypi:PACKAGE or Hub id; the configured one if left out")
    parser.add_argument("--second-encoder", help="another one, for texts that the first leaves in doubt")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="leave out CLINC150 with all 15,000 examples")
    parser.add_argument("--without-further", action="store_true", help="fit without the experts' further examples")
    parser.add_argument("--finetune", action="store_true", help="also tune the encoder; some ten minutes more")
    arguments = parser.parse_args()
    if arguments.finetune and arguments.second_encoder:
        parser.error("--finetune and --second-encoder do not go together")
    embedder = open_encoder(arguments.encoder, arguments.threads)
    reader = open_encoder(arguments.second_encoder, arguments.threads) if arguments.second_encoder else None
    results: dict[str, Any] = {}
    if "clinc" in arguments.only:
        results["clinc150"] = run_clinc(embedder, arguments, reader)
        name = "200 a domain" if arguments.quick else "all"
        ours, peer = (results["clinc150"][f"{name} | {row}"] for row in ("pointsman", "semantic-router"))
        results["ratio"] = ours["recall"] / peer["recall"]
    if set(arguments.only) != {"clinc"}:
        data = expert_data() | ({"further": {}} if arguments.without_further else {})
        share = Settings().router.false_abstain
        fitted = fit(**data, embedder=embedder, max_false_abstain=share)
        second = (fit(**data, embedder=reader, max_false_abstain=share), reader) if reader else None
        if "experts" in arguments.only:
            results["experts"] = run_experts(fitted, embedder, second)
        if "conversations" in arguments.only:
            results["conversations"] = run_conversations(fitted, embedder, second)
        if arguments.finetune:
            results["finetuned"] = run_tuned_experts(arguments)
    encoders = {"encoder": arguments.encoder, "second_encoder": arguments.second_encoder}
    finish("routing_quality", **encoders, **results)


if __name__ == "__main__":
    main()
