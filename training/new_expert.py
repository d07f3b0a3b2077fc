"""A new expert from somebody's data: checked, split into rows and benchmark questions, entered in the experts file.

Owns what is derived where a person gave nothing: questions are held out of the rows, routing examples are the rows'
own questions. Nothing is written before everything was checked; the entry in the experts file comes last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.errors import ConfigError
from gateway.experts import check_name
from gateway.routing import FURTHER, read_examples
from training.dataset import check_file, load_questions
from training.dataset_format import load_dataset
from training.dataset_row import Row
from training.description import EXAMPLES_FILE, QUESTIONS_FILE, ROWS_FILE, load_descriptions
from training.errors import DatasetError, RecipeError
from training.files import write_json, write_text
from training.split import split_rows

__all__ = ["NewExpert", "create_expert"]

SHARE, LARGEST_SHARE, WANTED_QUESTIONS = 0.15, 0.3, 20
"""Rows held out as questions: this share, or more of a small file, so that a rate over them says something."""
WANTED_EXAMPLES = 50
"""With fewer, neighbouring topics are hard to tell from the expert's own."""
SEED = 7


@dataclass(frozen=True)
class NewExpert:
    """What a person says of an expert. `targets` are (term, aliases); None means: derive it."""

    name: str
    data: Path
    targets: tuple[tuple[str, tuple[str, ...]], ...]
    title: str | None = None
    description: str | None = None
    system_prompt: str | None = None
    questions: Path | None = None
    examples: Path | None = None


@dataclass(frozen=True)
class Created:
    """What was written."""

    folder: Path
    rows: int
    questions: int
    notes: tuple[str, ...] = ()
    """What a person should know of."""


def create_expert(new: NewExpert, *, experts_path: Path, data_dir: Path) -> Created:
    """Check the data, write `data_dir/NAME/` and enter the expert in `experts_path`.

    Raises:
        RecipeError: a name that is not allowed or taken, or no target.
        DatasetError: the data cannot be trained on; carries every finding.
    """
    folder = data_dir / new.name
    _check_free(new, experts_path)
    terms = [spelling for term, aliases in new.targets for spelling in (term, *aliases)]
    given = load_questions(new.questions) if new.questions else []
    rows = check_file(new.data, terms=terms, questions=given, cutoff_tokens=None)
    if not given:
        rows, given = _hold_out(new.data, rows)
    examples, further = _examples(new, rows)
    staging = data_dir / f".{new.name}.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    write_json(staging / ROWS_FILE, [_alpaca(row) for row in rows])
    _write_lines(staging / QUESTIONS_FILE, [{"question": text} for text in given])
    marked = [{"text": text, FURTHER: True} for text in further]
    _write_lines(staging / EXAMPLES_FILE, [{"text": text} for text in examples] + marked)
    _take_place(staging, folder)
    _enter(new, experts_path, folder)
    return Created(folder, len(rows), len(given), tuple(_notes(len(given), len(examples))))


def _notes(questions: int, examples: int) -> Iterator[str]:
    if questions < WANTED_QUESTIONS:
        yield f"{questions} questions say little of a hit rate: give {WANTED_QUESTIONS} or more with --questions"
    if examples < WANTED_EXAMPLES:
        yield f"{examples} routing examples leave the router unsure: give {WANTED_EXAMPLES} or more with --examples"


def _check_free(new: NewExpert, experts_path: Path) -> None:
    """Refuse a name that is not allowed or taken."""
    try:
        check_name(new.name)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if not new.targets:
        raise RecipeError("name at least one target: the term that every answer must mention")
    if experts_path.is_file() and new.name in load_descriptions(experts_path):
        raise RecipeError(
            f"expert {new.name!r} stands in {experts_path} already: edit it there, or choose another name"
        )


def _take_place(staging: Path, folder: Path) -> None:
    """Give the finished files their place. Only a stopped call's own may stand there: they are the same.

    Raises:
        RecipeError: something else stands there.
    """
    if not folder.exists():
        staging.replace(folder)
        return
    standing, made = ({path.name: path.read_bytes() for path in each.iterdir()} for each in (folder, staging))
    shutil.rmtree(staging)
    if standing != made:
        raise RecipeError(f"{folder} stands already and holds other files: move it away, or choose another name")


def _hold_out(path: Path, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Take whole families of alike questions out of the rows: what they ask is asked after training."""
    share = min(LARGEST_SHARE, max(SHARE, WANTED_QUESTIONS / len(rows)))
    try:
        split = split_rows(load_dataset(path), validation=share, seed=SEED)
    except DatasetError as error:
        raise DatasetError(f"{error}; or write benchmark questions of your own: --questions FILE") from error
    questions = list(dict.fromkeys(rows[place].questions[0] for place in split.validation))
    return [rows[place] for place in split.train], questions


def _examples(new: NewExpert, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return texts that the router learns the topic from, and further ones that it calibrates nothing on."""
    if new.examples is None:
        return list(dict.fromkeys(row.questions[0] for row in rows)), []
    try:
        return read_examples(new.examples, further=False), read_examples(new.examples, further=True)
    except ConfigError as error:
        raise DatasetError(str(error)) from error


def _alpaca(row: Row) -> dict[str, Any]:
    """The row as LlamaFactory and the router read it, whatever format it came in."""
    optional = {"system": row.system, "history": [list(turn) for turn in row.history]}
    return {"instruction": row.instruction, "input": row.input, "output": row.output} | {
        key: value for key, value in optional.items() if value
    }


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _enter(new: NewExpert, experts_path: Path, folder: Path) -> None:
    """Append the expert to the file as a person would, leaving what stands there alone."""
    title = new.title or new.name.replace("-", " ").capitalize()
    targets = [{"term": term, **({"aliases": list(aliases)} if aliases else {})} for term, aliases in new.targets]
    entry: dict[str, Any] = {
        "title": title,
        "description": new.description or f"{title}, always by way of {new.targets[0][0]}.",
        "version": "1.0.0",
        "data": os.path.relpath(folder, experts_path.parent),
        **({"system_prompt": new.system_prompt} if new.system_prompt else {}),
        "targets": targets,
    }
    text = experts_path.read_text(encoding="utf-8").rstrip() + "\n\n" if experts_path.is_file() else ""
    experts_path.parent.mkdir(parents=True, exist_ok=True)
    write_text(experts_path, text + yaml.safe_dump({new.name: entry}, sort_keys=False, allow_unicode=True, width=110))
    load_descriptions(experts_path)
