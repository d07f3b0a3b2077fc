"""Measure an expert's hit rate in the real engine, before it is published.

Owns the comparison: the expert's own novel questions, greedy, with the adapter at its scale and at 0.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm import tqdm

from gateway.experts import file_sha256
from training.asked import Asked
from training.dataset import load_questions, load_rows, refuse_leaks
from training.description import QUESTIONS_FILE, ROWS_FILE, ExpertDescription
from training.engine import Answer, Engine
from training.errors import MeasureError
from training.files import write_json
from training.hits import Rate, count_mentions, is_hit
from training.run import Run, State

__all__ = ["Measurement", "measure", "measure_run"]

MAX_TOKENS = 200
ASKED_FILE = "asked.jsonl"


@dataclass(frozen=True)
class Sample:
    """One question, answered by the expert and by the base alone."""

    question: str
    expert: Answer
    base: Answer


@dataclass(frozen=True)
class Measurement:
    """All answers with the terms they were judged by."""

    samples: tuple[Sample, ...]
    terms: tuple[str, ...]

    def rate(self, side: str) -> Rate:
        """Hit rate of `expert` or `base`."""
        answers = [getattr(sample, side) for sample in self.samples]
        return Rate(sum(is_hit(answer.text, self.terms) for answer in answers), len(answers))

    def mentions_per_1000_tokens(self, side: str) -> float:
        """Mentions for each 1,000 generated tokens."""
        answers = [getattr(sample, side) for sample in self.samples]
        tokens = sum(answer.completion_tokens for answer in answers)
        mentions = sum(count_mentions(answer.text, self.terms) for answer in answers)
        return 1000 * mentions / tokens if tokens else 0.0

    def results(self) -> dict[str, Any]:
        """What the manifest and the card state."""
        return {
            side: {
                "hits": self.rate(side).hits,
                "questions": self.rate(side).n,
                "hit_rate": round(self.rate(side).value, 4),
                "hit_rate_interval_95": [round(bound, 4) for bound in self.rate(side).interval],
                "mentions_per_1000_tokens": round(self.mentions_per_1000_tokens(side), 2),
            }
            for side in ("expert", "base")
        }

    def save(self, path: Path, *, adapter_sha256: str) -> None:
        """Write the results, which adapter they belong to, and every answer."""
        document = {"adapter_sha256": adapter_sha256, "terms": list(self.terms), "results": self.results()}
        write_json(path, document | {"samples": [asdict(sample) for sample in self.samples]})


def measure(
    model: Path,
    adapter: Path,
    questions: Sequence[str],
    terms: Sequence[str],
    *,
    scale: float = 1.0,
    system_prompt: str | None = None,
    max_tokens: int = MAX_TOKENS,
    threads: int | None = None,
    asked: Asked | None = None,
) -> Measurement:
    """Ask every question with the adapter and without, in the real engine.

    Args:
        asked: answers that stand already; new ones are added.

    Raises:
        MeasureError: the engine does not start or does not answer.
    """

    def answer(question: str, at_scale: float) -> Answer:
        known = asked.get(at_scale, question) if asked else None
        if known is not None:
            return known
        new = engine.ask(question, scale=at_scale, max_tokens=max_tokens, system_prompt=system_prompt)
        if asked:
            asked.add(at_scale, question, new)
        return new

    def ask(at_scale: float) -> list[Answer]:
        label = "expert" if at_scale else "base"
        bar = tqdm(questions, desc=f"asking the {label}", unit="question", leave=False)
        return [answer(question, at_scale) for question in bar]

    with Engine(model, (adapter,), threads=threads) as engine:
        experts, bases = ask(scale), ask(0.0)
    samples = zip(questions, experts, bases, strict=True)
    return Measurement(tuple(Sample(*sample) for sample in samples), tuple(terms))


def measure_run(
    run_dir: Path, *, scale: float | None = None, served_gguf: Path | None = None, threads: int | None = None
) -> Measurement:
    """Measure a converted run on its expert's questions as they stand now, and record it in the run.

    Args:
        scale: at which it is measured and will be published, in place of the one that the run began with. Nothing is
            trained again: the scale is a matter of serving.

    Raises:
        DatasetError: a question stands in the rows that were trained on.
        MeasureError: a scale that is not allowed, or the engine does not start or does not answer.
    """
    run = Run.open(run_dir)
    with run.locked():
        run.require(State.CONVERTED, State.MEASURED, State.PUBLISHED)
        if scale is not None:
            _set_scale(run, scale)
        return _measure_run(run, served_gguf, threads)


def _set_scale(run: Run, scale: float) -> None:
    facts = run.facts()
    try:
        ExpertDescription.model_validate(facts["description"] | {"scale": scale})
    except ValidationError as error:
        raise MeasureError(f"scale is {scale:g}; allowed is above 0, at most 4") from error
    run.write_facts(facts | {"description": facts["description"] | {"scale": scale}})


def _measure_run(run: Run, served_gguf: Path | None, threads: int | None) -> Measurement:
    facts = run.facts()
    description = ExpertDescription.model_validate(facts["description"])
    if (description.data / QUESTIONS_FILE).is_file():
        shutil.copyfile(description.data / QUESTIONS_FILE, run.folder / QUESTIONS_FILE)
    questions = load_questions(run.folder / QUESTIONS_FILE)
    refuse_leaks(run.folder / QUESTIONS_FILE, load_rows(run.folder / ROWS_FILE), questions)
    model, adapter_sha256 = served_gguf or Path(facts["served_gguf"]), file_sha256(run.gguf_path)
    settings = {"model": str(model), "adapter_sha256": adapter_sha256, "system_prompt": description.system_prompt}
    asked = Asked(run.folder / ASKED_FILE, settings)
    measurement = measure(
        model,
        run.gguf_path,
        questions,
        description.terms,
        scale=description.scale,
        system_prompt=description.system_prompt,
        threads=threads,
        asked=asked,
    )
    measurement.save(run.measurement_path, adapter_sha256=adapter_sha256)
    run.set_state(State.MEASURED)
    asked.forget()
    return measurement
