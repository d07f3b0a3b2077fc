"""What a data set is held against: an expert's targets, its benchmark questions, the base's limit and tokenizer.

Owns how these are found from what a person names: files, directories with a dataset.json, or experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.dataset import load_questions
from training.dataset_tokens import Estimate, TokenCounter, TokenizerCounter, counter_for_base
from training.description import QUESTIONS_FILE, ROWS_FILE, ExpertDescription, load_descriptions
from training.errors import DatasetError
from training.lint_checks import Expectations
from training.recipe import load_recipe

__all__ = ["Named", "find_limit", "find_sources"]

DEFAULT_CUTOFF = 2048


@dataclass(frozen=True)
class Named:
    """What the command line names; None and empty mean: find it."""

    files: tuple[Path, ...] = ()
    expert: str | None = None
    experts_file: Path = Path("configs/experts.yaml")
    targets: tuple[str, ...] = ()
    questions: Path | None = None
    recipe: Path | None = None
    default_recipe: Path = Path("configs/recipes/smollm2.yaml")
    cutoff_tokens: int | None = None
    tokenizer: Path | None = None
    cache_dir: Path = Path()


def find_sources(named: Named) -> list[tuple[Path, Expectations]]:
    """Return every file with what it is held against.

    An expert that is not named is recognised by its data directory; questions lie beside the rows.

    Raises:
        DatasetError, RecipeError: nothing named, or something that cannot be read.
    """
    experts = load_descriptions(named.experts_file) if named.expert or named.experts_file.is_file() else {}
    if named.expert is not None and named.expert not in experts:
        raise DatasetError(f"expert {named.expert!r} is not in {named.experts_file}; it has: {', '.join(experts)}")
    chosen = experts[named.expert] if named.expert else None
    files = named.files or ((chosen.data / ROWS_FILE,) if chosen else ())
    if not files:
        raise DatasetError("name at least one file, a directory with a dataset.json, or --expert")
    cutoff, tokens = find_limit(named)
    sources = []
    for given in files:
        path = given / ROWS_FILE if given.is_dir() else given
        expert = chosen or _expert_of(path, list(experts.values()))
        terms = dict.fromkeys([*(expert.terms if expert else ()), *named.targets])
        beside = path.parent / QUESTIONS_FILE
        questions = named.questions or (beside if beside.is_file() and beside != path else None)
        texts = tuple(load_questions(questions)) if questions else ()
        sources.append((path, Expectations(tuple(terms), texts, cutoff, tokens)))
    return sources


def find_limit(named: Named) -> tuple[int, TokenCounter]:
    """Return the greatest length of a row and what counts it: of the recipe, unless named themselves.

    Raises:
        DatasetError, RecipeError: the limit, the recipe or the tokenizer is not one.
    """
    if named.cutoff_tokens is not None and named.cutoff_tokens < 1:
        raise DatasetError(f"cutoff must be at least 1 token, found {named.cutoff_tokens}")
    path = named.recipe or (named.default_recipe if named.default_recipe.is_file() else None)
    recipe = load_recipe(path) if path else None
    cutoff = named.cutoff_tokens or (recipe.training.cutoff_tokens if recipe else DEFAULT_CUTOFF)
    if named.tokenizer is not None:
        return cutoff, TokenizerCounter(named.tokenizer)
    if recipe is None:
        return cutoff, Estimate()
    base = recipe.base
    return cutoff, counter_for_base(base.served, base.train_from, named.cache_dir, base.system_prompt)


def _expert_of(path: Path, experts: Sequence[ExpertDescription]) -> ExpertDescription | None:
    folder = path.parent.resolve()
    return next((expert for expert in experts if expert.data == folder and path.name == ROWS_FILE), None)
