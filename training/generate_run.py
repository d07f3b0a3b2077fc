"""Generate a data set: the template grid, then the paraphrases, then the file, whole or not at all.

Owns the order of the steps and what is counted; resumes paraphrasing from its journal.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.dataset_row import Row
from training.errors import DatasetError
from training.files import replace_file
from training.generate import Draft, grid, take
from training.generate_journal import Journal
from training.generate_judge import Judge, Tally
from training.generate_paraphrase import Paraphraser
from training.generate_topic import find_facts, load_topic
from training.lint_checks import Expectations
from training.split import write_items

__all__ = ["GenerateOptions", "Generated", "generate"]

NO_REPLY = "not-json"


@dataclass(frozen=True)
class GenerateOptions:
    """`rows` of the grid, and `variants` of each in other words, with at most `attempts` at each variant."""

    rows: int = 240
    seed: int = 7
    variants: int = 0
    attempts: int = 2
    force: bool = False
    restart: bool = False

    def check(self) -> None:
        """Raise a DatasetError for a number out of range."""
        for name, low in (("rows", 1), ("variants", 0), ("attempts", 1)):
            if getattr(self, name) < low:
                raise DatasetError(f"{name} must be at least {low}, found {getattr(self, name)}")


@dataclass(frozen=True)
class Generated:
    """What was made; `facts` of each topic tell how much of the answers is more than general advice."""

    path: Path
    rows: int
    asked: int
    facts: dict[str, int]
    grid: Tally
    paraphrases: Tally


def generate(
    topic_path: Path,
    out: Path,
    options: GenerateOptions,
    expected: Expectations,
    *,
    documents: Sequence[Path] = (),
    paraphraser: Paraphraser | None = None,
    source: str = "",
) -> Generated:
    """Write a data set about a topic.

    Args:
        expected: benchmark questions and the token limit; the topic's targets take the place of its terms.
        documents: more of them than the topic names.
        source: the endpoint and model, so that a journal is not continued with another.

    Raises:
        RecipeError, DatasetError: a mistake in the topic or a document, a file in the way, or no endpoint.
    """
    options.check()
    if out.exists() and not options.force:
        raise DatasetError(f"{out} stands already: choose another --out, or --force")
    topic = load_topic(topic_path)
    topic = topic.model_copy(update={"documents": (*topic.documents, *documents)})
    facts = find_facts(topic)
    expected = replace(expected, terms=topic.terms)
    judge, grid_tally, paraphrase_tally = Judge(expected), Tally(), Tally()
    drafts = take(grid(topic, facts, options.seed), options.rows, judge, grid_tally)
    if not drafts:
        raise DatasetError(f"{topic_path}: no row of the grid was accepted: {grid_tally}")
    rows = list(drafts)
    journal = None
    if paraphraser is not None and options.variants:
        settings = _settings(topic.model_dump(mode="json"), facts, options, expected, source)
        journal = Journal(out.with_name(f"{out.name}.journal.jsonl"), settings, restart=options.restart)
        with journal:
            rows += _paraphrase(drafts, options, judge, paraphrase_tally, paraphraser, journal)
    _write(out, rows)
    if journal is not None:
        journal.remove()
    counts = {name: len(found) for name, found in facts.items()}
    return Generated(out, len(rows), options.rows, counts, grid_tally, paraphrase_tally)


def _settings(
    topic: dict[str, Any],
    facts: dict[str, tuple[str, ...]],
    options: GenerateOptions,
    expected: Expectations,
    source: str,
) -> dict[str, Any]:
    questions = hashlib.sha256("\n".join(expected.questions).encode()).hexdigest()
    numbers = [options.rows, options.seed, options.variants, options.attempts, expected.cutoff_tokens]
    return {"topic": topic, "facts": facts, "questions": questions, "numbers": numbers, "source": source}


def _paraphrase(
    drafts: Sequence[Draft],
    options: GenerateOptions,
    judge: Judge,
    tally: Tally,
    paraphraser: Paraphraser,
    journal: Journal,
) -> list[Draft]:
    """Say every draft in other words; what the journal holds is judged again instead of asked again."""
    earlier = {(entry["draft"], entry["variant"], entry["attempt"]): entry["row"] for entry in journal.entries}
    kept = []
    cells = [(place, variant) for place in range(len(drafts)) for variant in range(options.variants)]
    with tqdm(cells, desc="paraphrasing", unit="row", disable=None) as bar:
        for place, variant in bar:
            draft = drafts[place]
            for attempt in range(options.attempts):
                cell = (place, variant, attempt)
                if cell in earlier:
                    row = Row(**earlier[cell]) if earlier[cell] else None
                else:
                    seed = options.seed + (place * options.variants + variant) * options.attempts + attempt
                    row = paraphraser.say_otherwise(draft, seed)
                    journal.append(_entry(cell, row))
                reason = NO_REPLY if row is None else judge.accept(row)
                tally.add(reason)
                if row is not None and reason is None:
                    kept.append(replace(draft, row=row))
                    break
            bar.set_postfix(accepted=tally.accepted, rejected=tally.rejected.total())
    return kept


def _entry(cell: tuple[int, int, int], row: Row | None) -> dict[str, Any]:
    place, variant, attempt = cell
    text = None if row is None else {"instruction": row.instruction, "input": "", "output": row.output}
    return {"draft": place, "variant": variant, "attempt": attempt, "row": text}


def _write(out: Path, drafts: Sequence[Draft]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        write_items(temporary, [draft.as_item() for draft in drafts], is_jsonl=out.suffix == ".jsonl")
        replace_file(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
