"""Everything before a run: what a person wrote is checked, the base is brought, LlamaFactory plans.

A mistake ends here and leaves nothing behind but the base in the cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gateway.base import default_cache_dir
from training.anchors import load_anchors
from training.base import ServedBase, find_served_base, training_weights
from training.dataset import Row, check_file, load_questions
from training.description import QUESTIONS_FILE, ROWS_FILE, ExpertDescription, load_descriptions
from training.environment import find_environment
from training.errors import RecipeError
from training.launch import launcher_arguments
from training.plan import Plan, make_plan
from training.recipe import Recipe, load_recipe

__all__ = ["Prepared", "dry_run", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, checked; nothing has been written but the base in the cache."""

    recipe_path: Path
    recipe: Recipe
    """With the precision that the plan chose."""
    expert: str
    experts_path: Path
    description: ExpertDescription
    rows: list[Row]
    """What is trained on: the expert's rows, then its anchors."""
    base: ServedBase
    weights: str
    python: Path
    cache_dir: Path
    plan: Plan


def prepare(
    recipe_path: Path,
    *,
    expert: str,
    experts_path: Path,
    cache_dir: Path | None = None,
    served: str | None = None,
) -> Prepared:
    """Check recipe, expert and rows, bring the base, and plan the run.

    Args:
        served: another source of the served GGUF than the recipe's.

    Raises:
        RecipeError, DatasetError: a mistake in what a person wrote.
        SetupError: no training environment, or no base.
    """
    cache = cache_dir or default_cache_dir()
    recipe, description, rows = _read(recipe_path, expert, experts_path)
    launcher_arguments(os.environ)  # its mistakes, too, are found before a run exists
    python = find_environment(cache)
    base = find_served_base(served or recipe.base.served, cache)
    weights = training_weights(recipe.base.train_from, base, python, cache)
    plan = _plan(recipe_path, recipe, rows, expert, weights, python, cache)
    recipe = recipe.with_precision(plan.precision)
    return Prepared(recipe_path, recipe, expert, experts_path, description, rows, base, weights, python, cache, plan)


def dry_run(recipe_path: Path, *, expert: str, experts_path: Path, cache_dir: Path | None = None) -> Plan:
    """Plan a run as `prepare` does; the served base is only brought where training takes its weights from it."""
    recipe, _, rows = _read(recipe_path, expert, experts_path)
    if recipe.base.train_from == "gguf":
        return prepare(recipe_path, expert=expert, experts_path=experts_path, cache_dir=cache_dir).plan
    cache = cache_dir or default_cache_dir()
    return _plan(recipe_path, recipe, rows, expert, recipe.base.train_from, find_environment(cache), cache)


def _read(recipe_path: Path, expert: str, experts_path: Path) -> tuple[Recipe, ExpertDescription, list[Row]]:
    """Read and check what a person wrote."""
    recipe = load_recipe(recipe_path)
    descriptions = load_descriptions(experts_path)
    if expert not in descriptions:
        raise RecipeError(f"expert {expert!r} is not in {experts_path}; it has: {', '.join(descriptions)}")
    description = descriptions[expert]
    questions = load_questions(description.data / QUESTIONS_FILE)
    # Lengths are the plan's: it counts them as LlamaFactory does.
    rows = check_file(description.data / ROWS_FILE, terms=description.terms, questions=questions, cutoff_tokens=None)
    if description.anchors is not None:
        rows += load_anchors(description.anchors, rows, terms=description.terms, questions=questions)
    return recipe, description, rows


def _plan(
    recipe_path: Path, recipe: Recipe, rows: list[Row], expert: str, weights: str, python: Path, cache: Path
) -> Plan:
    try:
        return make_plan(recipe, rows, expert=expert, weights=weights, python=python, cache_dir=cache)
    except RecipeError as error:
        raise RecipeError(f"{recipe_path}: {error}") from error
