"""Fine-tune an encoder until texts of one route lie together and apart from all others. Optional; minutes on a CPU.

Training runs in a child process, so that this one never loads torch. What an encoder was tuned on says nothing of how
it reads new texts, so `split` keeps half of the texts from it: the router is calibrated on those alone.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.child import Child, ChildFailed, read_job
from router.embedding import MANIFEST
from router.errors import EmbeddingError, RouterError
from router.examples import check_examples
from router.export import default_prompt, export_onnx, load_source

__all__ = ["Split", "finetune", "split"]

MIN_EXAMPLES = 4
"""Of each route: two to pair, and two to calibrate on."""

PAIRS_PER_TEXT = 8
"""Of each text with others, half of them alike; more repeats what was learnt."""

MAX_PAIRS = 24_000
"""Some ten minutes of two cores, for texts of a dozen words."""

UNWANTED_SHARE = 0.7
"""Of the pairs that are not alike, so many are with a text of no route, when there are any: the harder border."""

BATCH_PAIRS = 32
LEARNING_RATE = 2e-5
WARMUP = 0.1


@dataclass(frozen=True)
class Split:
    """Texts by route, and of no route: to tune on, and to calibrate on."""

    tuned: dict[str, list[str]]
    tuned_negatives: list[str]
    judged: dict[str, list[str]]
    judged_negatives: list[str]

    def further(self, others: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Further examples for `fit`, by route: the tuned texts after `others`."""
        return {route: [*others.get(route, []), *texts] for route, texts in self.tuned.items()}


def split(examples: Mapping[str, Sequence[str]], negatives: Sequence[str], *, seed: int = 0) -> Split:
    """Halve the texts of every route, and of none, at random; equal texts stay together.

    Raises:
        RouterError: a route with fewer than four different examples; a single one without texts of no route; and
            whatever `fit` refuses.
    """
    draw = random.Random(seed)
    checked = check_examples(examples, negatives).judged
    draw.shuffle(checked)
    halves: dict[str | None, tuple[list[str], list[str]]] = {}
    for route in [*sorted(examples), None]:
        texts = [text for text, owner in checked if owner == route]
        if route is not None and len(texts) < MIN_EXAMPLES:
            raise RouterError(
                f"route {route!r} has {len(texts)} different examples, fine-tuning needs at least {MIN_EXAMPLES}"
            )
        halves[route] = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    if len(examples) == 1 and not halves[None][0]:
        raise RouterError("fine-tuning a single route needs texts of no route: there is nothing to tell it from")
    tuned_negatives, judged_negatives = halves.pop(None)
    routes = {route: halves[route] for route in sorted(examples)}
    return Split(
        {route: tuned for route, (tuned, _) in routes.items()},
        tuned_negatives,
        {route: judged for route, (_, judged) in routes.items()},
        judged_negatives,
    )


def finetune(
    source: str | Path,
    examples: Mapping[str, Sequence[str]],
    negatives: Sequence[str],
    target_dir: Path,
    *,
    seed: int = 0,
    timeout_s: float = 3600.0,
) -> None:
    """Tune a copy of the encoder at `source` and export it to `target_dir`, as `export_onnx` does.

    Args:
        source: a sentence-transformers or transformers directory, or a Hub id; an exported encoder cannot be trained.
        examples: two or more texts of each route.
        negatives: texts of no route; they are not drawn to each other.

    Raises:
        EmbeddingError: it cannot be loaded, trained or exported, or took longer than `timeout_s`.
    """
    if (Path(source) / MANIFEST).is_file():
        raise EmbeddingError(f"{source} is an exported encoder, which cannot be trained: give what it was made from")
    job: dict[str, Any] = {
        "source": str(source),
        "examples": {name: list(texts) for name, texts in examples.items()},
        "negatives": list(negatives),
        "target": str(target_dir.resolve()),
        "seed": seed,
    }
    try:
        with tempfile.TemporaryDirectory(prefix="pointsman-finetune-") as folder:
            Child("router.finetune").run(job | {"folder": folder}, timeout_s=timeout_s)
    except TimeoutError:
        raise EmbeddingError(f"fine-tuning {str(source)!r} took longer than {timeout_s:.0f} s") from None
    except ChildFailed as error:
        raise EmbeddingError(str(error) or f"fine-tuning {str(source)!r}: exit code {error.status}") from None


def make_pairs(
    examples: Mapping[str, Sequence[str]], negatives: Sequence[str], *, seed: int
) -> list[tuple[str, str, float]]:
    """Pair texts: 1 of the same route, 0 of different ones or of one and none; as many of each, in random order."""
    draw = random.Random(seed)
    owned = [(text, route) for route, texts in sorted(examples.items()) for text in texts]
    pairs: list[tuple[str, str, float]] = []
    while len(pairs) < min(PAIRS_PER_TEXT * len(owned), MAX_PAIRS):
        draw.shuffle(owned)
        for text, route in owned:
            alike = draw.choice([other for other in examples[route] if other != text])
            unwanted = negatives and (len(examples) < 2 or draw.random() < UNWANTED_SHARE)
            others = negatives if unwanted else examples[draw.choice([name for name in examples if name != route])]
            pairs += [(text, alike, 1.0), (text, draw.choice(others), 0.0)]
    pairs = pairs[:MAX_PAIRS]
    draw.shuffle(pairs)
    return pairs


def main() -> int:
    """Do what standard input describes; 1 with the reason on standard output when it cannot be done."""
    job = read_job()
    if Path(job["source"]).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        pairs = make_pairs(job["examples"], job["negatives"], seed=job["seed"])
        folder = Path(job["folder"])
        _train(job["source"], pairs, folder, job["seed"])
        facts = {"source": f"{Path(job['source']).name}, fine-tuned", "finetuned": True}
        export_onnx(folder / "tuned", Path(job["target"]), facts=facts)
    except EmbeddingError as error:
        print(error)
        return 1
    return 0


def _train(source: str, pairs: Sequence[tuple[str, str, float]], folder: Path, seed: int) -> None:
    """Regress the cosine of each pair on 1 or 0; writes `tuned` into the folder."""
    try:
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
        from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
    except ImportError as error:
        raise EmbeddingError(
            f"fine-tuning needs the packages of the extra 'finetune': pip install -e '.[finetune]' ({error})"
        ) from error
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    model = load_source(source)
    first, second, label = zip(*pairs, strict=True)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "run"),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH_PAIRS,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        prompts=default_prompt(model),
        disable_tqdm=not sys.stderr.isatty(),
    )
    data = Dataset.from_dict({"first": list(first), "second": list(second), "label": list(label)})
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=CosineSimilarityLoss(model)
    ).train()
    model.save(str(folder / "tuned"))
