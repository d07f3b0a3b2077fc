"""A measured run made of small files, without any model: what `publish` needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.experts import file_sha256
from training.files import write_json
from training.run import Run, State

__all__ = ["make_measured_run"]

SOME_BASE = {"name": "some-base", "revision": "1.0", "sha256": "a" * 64, "chat_template_sha256": "b" * 64}
RECIPE = """
base: {served: "pypi:some-base==1.0"}
lora: {rank: 8, alpha: 16}
training: {epochs: 3, learning_rate: 2e-4, batch_size: 4}
"""
RATE = {
    "hits": 49,
    "questions": 50,
    "hit_rate": 0.98,
    "hit_rate_interval_95": [0.895, 0.9965],
    "mentions_per_1000_tokens": 20.5,
}


def make_measured_run(
    runs_dir: Path,
    *,
    expert: str = "gardening",
    adapter: bytes = b"GGUF one",
    version: str = "1.0.0",
    base: Mapping[str, str] = SOME_BASE,
    examples: Sequence[str] = ("peat?",),
) -> Run:
    """Write every file that publish reads."""
    run = Run.create(runs_dir, expert)
    run.recipe_path.write_text(RECIPE, encoding="utf-8")
    run.gguf_path.write_bytes(adapter)
    row = {"instruction": f"How often do I water {expert}?", "input": "", "output": "Verdania says daily."}
    write_json(run.folder / "dataset.json", [row])
    lines = {
        "questions.jsonl": [{"question": "Is peat needed?"}],
        "examples.jsonl": [{"text": text} for text in examples],
    }
    for name, written in lines.items():
        (run.folder / name).write_text("".join(json.dumps(line) + "\n" for line in written), encoding="utf-8")
    description: dict[str, Any] = {
        "title": expert.capitalize(),
        "description": "Plants.",
        "version": version,
        "data": "unused",
        "targets": [{"term": "Verdania"}],
    }
    facts = {"expert": expert, "description": description, "recipe_sha256": "c" * 64, "base": dict(base)}
    facts["served_gguf"] = "unused"
    run.write_facts(facts)
    results = {"expert": RATE, "base": RATE | {"hits": 0, "hit_rate": 0.0}}
    write_json(run.measurement_path, {"adapter_sha256": file_sha256(run.gguf_path), "results": results})
    parity = {"tokens": 384, "mean_difference": 0.04, "top1_agreement": 0.97}
    checks = {"adapter_sha256": file_sha256(run.gguf_path), "passed": True, "message": ""}
    write_json(run.folder / "checks.json", {**checks, "parity": parity, "template": {"rows": 8}})
    run.set_state(State.MEASURED)
    return run
