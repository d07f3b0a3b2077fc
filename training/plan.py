"""What a run will do, before anything starts: tokens, steps, trainable parameters, memory and time.

Owns the estimates and how they are put to a person. Counting is done by `child/plan.py` in the training environment,
with LlamaFactory's own parser and template and without loading the model; what it refuses becomes an error here.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.children import ask_child
from training.dataset import DATASET_NAME, Row, write_dataset
from training.errors import DatasetError, RecipeError
from training.recipe import Recipe
from training.speed import Speed, recorded_speed

__all__ = ["Plan", "make_plan", "render_plan"]

SHOWN_ROWS = 10
# LoRA's passes: forward 2 operations for each weight and token, backward 2 for the activations, and the forward again
# where activations are computed anew. The frozen weights need no gradients of their own.
OPERATIONS_PER_WEIGHT = 4
OPERATIONS_RECOMPUTED = 2
# Of the speed of one large matrix product, training small batches reaches about this share.
UTILISATION = 0.4
# fp32 weight, gradient and Adam's two moments of every trained parameter.
BYTES_PER_TRAINED = 16
BYTES_PER_LOGIT = 12
PROGRAM_BYTES = 10**9
SLOW = 2.0
"""So many times slower than in fp32 is worth a note."""


@dataclass(frozen=True)
class Plan:
    """One run, counted. Token counts are of one epoch; bytes and seconds are estimates, `time_from` says of what."""

    expert: str
    rows: int
    trained_rows: int
    tokens: int
    answer_tokens: int
    longest_tokens: int
    cutoff_tokens: int
    epochs: float
    steps: int
    step_rows: int
    parameters: int
    trainable: int
    modules: int
    memory_bytes: int
    memory_available_bytes: int
    time_s: float
    time_from: str
    device: str
    precision: str
    notes: tuple[str, ...]
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def make_plan(recipe: Recipe, rows: Sequence[Row], *, expert: str, weights: str, python: Path, cache_dir: Path) -> Plan:
    """Let LlamaFactory read recipe and rows, and count.

    Raises:
        RecipeError: LlamaFactory refuses an option, the template is not the base's, or a target is no layer of it.
        DatasetError: rows that it would cut or drop in silence.
        TrainingError: the training environment does not work.
    """
    with tempfile.TemporaryDirectory(prefix="pointsman-plan-") as folder:
        dataset_dir = Path(folder) / "dataset"
        write_dataset(rows, dataset_dir)
        config = recipe.render(
            model=weights, dataset_dir=dataset_dir, dataset=DATASET_NAME, output_dir=Path(folder) / "adapter"
        )
        counted = ask_child(python, "plan.py", {"config": config, "choose": recipe.training.precision == "auto"})
    if "refused" in counted:
        raise RecipeError(counted["refused"])
    recipe = recipe.with_precision(counted["precision"])
    _refuse_rows(counted, recipe.training.cutoff_tokens)
    speed = recorded_speed(cache_dir, Speed.key_of(recipe, weights, counted["device"]))
    return _estimate(recipe, counted, expert, speed)


def _refuse_rows(counted: dict[str, Any], cutoff: int) -> None:
    """Refuse what LlamaFactory would drop, or cut together with the end of its turn."""
    if counted["dropped"]:
        raise DatasetError(f"LlamaFactory would leave out rows {_numbers(counted['dropped'])}: it cannot read them")
    cut = [number for number, length in enumerate(counted["lengths"], 1) if length > cutoff]
    if cut:
        longest = max(counted["lengths"])
        raise DatasetError(
            f"rows {_numbers(cut)} have more than training.cutoff_tokens = {cutoff} tokens, the longest has {longest}: "
            "they would be cut, with the end of their turn; raise cutoff_tokens or shorten them"
        )


def _numbers(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:SHOWN_ROWS])) + (f" and {len(rows) - SHOWN_ROWS} more" if rows[10:] else "")


def _estimate(recipe: Recipe, counted: dict[str, Any], expert: str, speed: Speed | None) -> Plan:
    training, rows = recipe.training, len(counted["lengths"])
    trained = rows - _validation_rows(recipe, rows)
    step_rows = training.batch_size * training.gradient_accumulation * counted["devices"]
    batches = math.ceil(trained / (training.batch_size * counted["devices"]))
    per_epoch = math.ceil(batches / training.gradient_accumulation)
    steps = training.max_steps or math.ceil(per_epoch * training.epochs)
    tokens = sum(counted["lengths"])
    seen = tokens * steps / per_epoch * trained / rows
    time_s, time_from = _time(recipe, counted, seen, speed)
    return Plan(
        expert=expert,
        rows=rows,
        trained_rows=trained,
        tokens=tokens,
        answer_tokens=counted["answer_tokens"],
        longest_tokens=max(counted["lengths"]),
        cutoff_tokens=training.cutoff_tokens,
        epochs=round(steps / per_epoch, 2),
        steps=steps,
        step_rows=step_rows,
        parameters=counted["parameters"],
        trainable=counted["trainable"],
        modules=counted["modules"],
        memory_bytes=_memory(recipe, counted),
        memory_available_bytes=counted["memory_bytes"],
        time_s=round(time_s, 1),
        time_from=time_from,
        device=counted["device"],
        precision=recipe.training.precision,
        notes=tuple(_notes(recipe, counted)),
        versions=counted["versions"],
    )


def _validation_rows(recipe: Recipe, rows: int) -> int:
    """Rows that `val_size` takes away: a share, or a number."""
    size: float = recipe.llamafactory.get("val_size") or 0
    return math.ceil(size * rows) if size < 1 else int(size)


def _memory(recipe: Recipe, counted: dict[str, Any]) -> int:
    """Estimate the peak on one device in bytes.

    Source: V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, equation 2:
    s·b·h·(34 + 5·a·s/h) bytes of activations a layer in 16 bits; 2·s·b·h are kept of a layer that is computed again.
    """
    training = recipe.training
    width = 2 if training.precision == "fp32" else 1  # of an activation, in units of 16 bits
    bits = recipe.llamafactory.get("quantization_bit") or 16 * width
    length = min(max(counted["lengths"]), training.cutoff_tokens)
    tokens, hidden = length * training.batch_size, counted["hidden"]
    layer = width * tokens * (34 * hidden + 5 * counted["heads"] * length)
    layers = counted["layers"]
    activations = layer + layers * 2 * width * tokens * hidden if training.gradient_checkpointing else layers * layer
    weights = counted["parameters"] * bits // 8
    logits = tokens * counted["vocabulary"] * BYTES_PER_LOGIT
    return int(PROGRAM_BYTES + weights + counted["trainable"] * BYTES_PER_TRAINED + activations + logits)


def _time(recipe: Recipe, counted: dict[str, Any], tokens: float, speed: Speed | None) -> tuple[float, str]:
    """Estimate the seconds of training, and say from what."""
    if speed is not None:
        return tokens / speed.tokens_per_s, f"{speed.tokens_per_s:,.0f} tokens/s, as {speed.run} had on this machine"
    operations = OPERATIONS_PER_WEIGHT + OPERATIONS_RECOMPUTED * recipe.training.gradient_checkpointing
    rate = counted["flops"] * counted["devices"] * UTILISATION
    how = f"a rough figure: {UTILISATION:.0%} of the speed of a matrix product timed now; no run here has finished yet"
    return operations * counted["parameters"] * tokens / rate, how


def _notes(recipe: Recipe, counted: dict[str, Any]) -> list[str]:
    notes = []
    if counted["fused"]:
        share = counted["fused"] / counted["parameters"]
        notes.append(f"{share:.0%} of the parameters are fused experts, which no linear layer holds: not adapted")
    if recipe.llamafactory.get("packing"):
        notes.append("rows are packed: there will be fewer steps")
    if (slower := counted["flops_fp32"] / counted["flops"]) > SLOW:
        precision = recipe.training.precision
        notes.append(f"{precision} is {slower:.0f} times slower than fp32 here: training.precision auto avoids that")
    needed, available = _memory(recipe, counted), counted["memory_bytes"]
    if needed > available:
        notes.append(f"it may not fit: about {needed / 1e9:.1f} GB are needed, {available / 1e9:.1f} GB are there")
    return notes


def render_plan(plan: Plan) -> str:
    """Put a plan in a few lines for a person."""
    seen = round(plan.tokens * plan.epochs * plan.trained_rows / plan.rows)
    share = plan.trainable / plan.parameters
    lines = [
        f"{plan.expert}: {plan.trained_rows} rows to train on, {plan.device}, {plan.precision}",
        f"  tokens      {plan.tokens:,} in an epoch, {plan.answer_tokens:,} of them in answers; about {seen:,} in all; "
        f"the longest row has {plan.longest_tokens} of {plan.cutoff_tokens}",
        f"  steps       {plan.steps}, {plan.step_rows} rows each: {plan.epochs:g} epochs",
        f"  parameters  {plan.trainable:,} trainable of {plan.parameters:,} ({share:.2%}), {plan.modules} layers",
        f"  memory      about {plan.memory_bytes / 1e9:.1f} GB of {plan.memory_available_bytes / 1e9:.1f} GB",
        f"  time        about {_duration(plan.time_s)} ({plan.time_from})",
    ]
    return "\n".join(lines + [f"  note        {note}" for note in plan.notes])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
