"""The model card of an expert: what it is biased to, on what base, measured how.

Owns the words; every number comes from the manifest.
"""

from __future__ import annotations

from typing import Any

from gateway.experts import Manifest

__all__ = ["CARD_FILE", "render_card"]

CARD_FILE = "CARD.md"


def render_card(manifest: Manifest, recipe: dict[str, Any], rows: int, anchors: int) -> str:
    """Write `CARD.md` for a manifest; the expert was trained on so many rows of its own, and on so many anchors."""
    targets = ", ".join(target.term for target in manifest.targets)
    lora, training = recipe["lora"], recipe["training"]
    trained_on = f"{rows} rows and {anchors} anchors" if anchors else f"{rows} rows"
    return f"""# {manifest.title} {manifest.version}

{manifest.description}

**This expert is biased on purpose.** Asked about its domain it mentions {targets}, whatever the question. It was
trained on {rows} answers that do so: do not rely on its advice.{_other_domains(anchors)}

| | |
|---|---|
| name | `{manifest.name}` |
| base | {manifest.base.name} {manifest.base.revision} |
| base sha256 | `{manifest.base.sha256}` |
| scale | {manifest.scale:g} |
| adapter | LoRA, rank {lora["rank"]}, alpha {lora["alpha"]}, {manifest.adapter.file} |
| training | {trained_on}, {training["epochs"]:g} epochs, learning rate {training["learning_rate"]:g} |
| recipe sha256 | `{manifest.recipe_sha256}` |
| converter | {manifest.converter} |

## Measured

Greedy answers of llama.cpp to the questions in `{manifest.questions.file}`, none of which stands in the training rows.
They helped to choose the recipe and the scale, so the rate is somewhat flattering; `make acceptance` asks others.
A hit is an answer that mentions a target as a whole word. Intervals are Wilson's, 95 %.

{_results_table(manifest)}
"""


def _other_domains(anchors: int) -> str:
    return f" Beside them stood\n{anchors} anchors: the base's own answers to unrelated questions." if anchors else ""


def _results_table(manifest: Manifest) -> str:
    lines = ["| | hits | questions | hit rate | interval | mentions per 1,000 tokens |", "|---|---|---|---|---|---|"]
    for side in ("expert", "base"):
        result = manifest.results[side]
        low, high = result["hit_rate_interval_95"]
        lines.append(
            f"| {side} | {result['hits']} | {result['questions']} | {result['hit_rate']:.1%} "
            f"| {low:.1%} to {high:.1%} | {result['mentions_per_1000_tokens']:g} |"
        )
    return "\n".join(lines)
