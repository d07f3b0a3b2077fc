"""LlamaFactory's own parser, template and rows, for real, and no model: what a dry run refuses, in one child."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_base import write_tiny_base

from gateway.base import default_cache_dir
from training.base import find_served_base, training_weights
from training.children import run_child
from training.dataset import DATASET_NAME, Row, write_dataset
from training.environment import find_environment
from training.errors import SetupError
from training.files import read_json
from training.recipe import load_recipe

pytestmark = [pytest.mark.training, pytest.mark.integration, pytest.mark.timeout(600)]

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
PLAN_SCRIPT = Path(__file__).parents[2] / "training" / "child" / "plan.py"
ROWS = [Row(f"How do I grow {plant}?", "", f"Verdania has a guide to {plant}.") for plant in ("basil", "leeks")]
# Runs every case through the script's own `main`, in one process: loading LlamaFactory takes longest.
SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import plan
*paths, shipped = json.loads(Path(sys.argv[1]).read_text())
for path in paths:
    plan.main(Path(path))
spec = json.loads(Path(shipped).read_text())
arguments = plan.parse(spec["config"])
Path(spec["output"]).write_text(json.dumps({{"rank": arguments[3].lora_rank, "epochs": arguments[2].num_train_epochs}}))
"""
# What LlamaFactory 0.9.5 accepts in silence or notices only after it has loaded the model: options changed in a recipe
# that is right, and what must be said.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "text for a number": ({"learning_rate": "abc"}, "llamafactory.learning_rate is 'abc', LlamaFactory expects float"),
    "text for a count": ({"lora_rank": "8"}, "llamafactory.lora_rank is '8', LlamaFactory expects int"),
    "text for a switch": ({"neat_packing": "false"}, "llamafactory.neat_packing is 'false', LlamaFactory expects bool"),
    "unknown option": ({"lora_rnak": 8}, "LlamaFactory refuses the recipe: Some keys are not used"),
    "option of transformers 4": ({"evaluation_strategy": "steps"}, "LlamaFactory refuses the recipe: Some keys"),
    "unknown scheduler": (
        {"lr_scheduler_type": "cosin"},
        "LlamaFactory refuses the recipe: cosin is not a valid SchedulerType",
    ),
    "evaluation without rows": ({"do_eval": True}, "LlamaFactory refuses the recipe: Please make sure eval_dataset"),
    "unknown template": ({"template": "qwen33"}, "LlamaFactory refuses the recipe: Template qwen33 does not exist"),
    "another template": ({"template": "smollm2"}, "of the prompt differs: LlamaFactory trains"),
    "no layer": (
        {"lora_target": "q_projj"},
        "lora.target: 'q_projj' is no linear layer of this base; it has: down_proj,",
    ),
    "bf16 without a device for it": ({"use_cpu": False, "bf16": True}, "bf16"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> dict[str, Any]:
    """What the script wrote for each case, and for the recipe that is right."""
    folder, cache = tmp_path_factory.mktemp("plan"), default_cache_dir()
    try:
        python = find_environment(cache)
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    base = find_served_base(str(write_tiny_base(folder / "tiny.gguf", base_gguf)), cache)
    weights = training_weights("gguf", base, python, cache)
    write_dataset(ROWS, folder / "dataset")
    places = {"model": weights, "dataset_dir": folder / "dataset", "dataset": DATASET_NAME}
    right = load_recipe(RECIPES / "smollm2.yaml").render(output_dir=folder / "adapter", **places)
    cases = {name: right | changed for name, (changed, _) in REFUSED.items()} | {"right": right}
    # Its base is not on this machine: parsed alone, and with the device that a machine without a GPU has.
    qwen = load_recipe(RECIPES / "qwen3-14b.yaml")
    options = qwen.render(**places | {"model": qwen.base.train_from}, output_dir=folder / "adapter")
    cases |= {"bf16": right | {"bf16": True}, "auto": right, "qwen3-14b": options | {"use_cpu": True}}
    paths = []
    for number, (name, config) in enumerate(cases.items()):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(
            json.dumps({"config": config, "choose": name == "auto", "output": str(folder / f"{name}.out")})
        )
    (folder / "cases.json").write_text(json.dumps(list(map(str, paths))), encoding="utf-8")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(folder=str(PLAN_SCRIPT.parent)), encoding="utf-8")
    returncode, written = run_child(python, script, str(folder / "cases.json"))
    assert returncode == 0, written[-4000:]
    found = {name: read_json(folder / f"{name}.out") for name in cases}
    tokenizer = read_json(Path(weights) / "tokenizer_config.json")
    return found | {"tokenizer": tokenizer}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_before_a_model_is_loaded(results: dict[str, Any], case: str) -> None:
    assert REFUSED[case][1] in results[case].get("refused", "it was accepted")


def test_the_shipped_recipe_is_parsed_and_counted(results: dict[str, Any]) -> None:
    right = results["right"]
    assert "refused" not in right
    assert len(right["lengths"]) == len(ROWS)
    assert right["dropped"] == []
    assert 0 < right["answer_tokens"] < sum(right["lengths"])
    assert right["modules"] == 2 * 7
    assert right["versions"]["llamafactory"] == "0.9.5"


def test_bf16_is_chosen_where_it_is_no_slower(results: dict[str, Any]) -> None:
    assert [results[name]["precision"] for name in ("right", "bf16")] == ["fp32", "bf16"]
    faster = results["bf16"]["flops"] / results["bf16"]["flops_fp32"]
    if not 0.7 < faster < 1.4:  # else either may be found the faster
        assert results["auto"]["precision"] == ("bf16" if faster > 1 else "fp32")


def test_the_larger_recipe_is_parsed(results: dict[str, Any]) -> None:
    assert results["qwen3-14b"] == {"rank": 16, "epochs": 3}


def test_the_end_of_a_turn_is_what_the_served_base_says(results: dict[str, Any]) -> None:
    """A tokenizer that transformers reads from this GGUF says `<|im_start|>`."""
    assert results["tokenizer"]["eos_token"] == "<|im_end|>"
