"""Every failure that LlamaFactory 0.9.5 or llama.cpp's converter lets pass in silence, and the test that shows ours.

The table is the list; this module holds it complete: each named test exists and carries the case. Sources: the code of
LlamaFactory 0.9.5 and of llama.cpp, and trials with both.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
RECIPE, PLAN, PLANNED = "unit/training/test_recipe.py", "unit/training/test_plan.py", "integration/test_plan.py"
FORMAT, LINT, DATASET = (f"unit/training/test_{name}.py" for name in ("dataset_format", "lint", "dataset"))
PREFLIGHT, CHECKS = "unit/training/test_convert_preflight.py", "integration/test_convert_checks.py"
RESUME, PROGRESS = "unit/training/test_resume.py", "unit/training/test_progress.py"
TRAINER, WHOLE = "unit/training/test_trainer.py", "integration/test_training.py"
OTHER = "integration/test_another_base.py"

# What passes in silence elsewhere: the file, the test, and the case in it.
SILENT = {
    # Reading a recipe
    "2e-4 is text for PyYAML": (RECIPE, "test_exponents_without_a_dot_are_numbers", "0.0002"),
    "a learning rate 'abc'": (RECIPE, "test_a_bad_value_is_refused", '"2e-4", "abc"'),
    "a negative learning rate": (RECIPE, "test_a_bad_value_is_refused", '"-2e-4"'),
    "rank 0": (RECIPE, "test_a_bad_value_is_refused", '"rank: 0"'),
    "rank -4": (RECIPE, "test_a_bad_value_is_refused", '"rank: -4"'),
    "rank as text": (RECIPE, "test_a_bad_value_is_refused", "'rank: \"8\"'"),
    "alpha 0 becomes twice the rank": (RECIPE, "test_a_bad_value_is_refused", '"alpha: 0"'),
    "a negative alpha": (RECIPE, "test_a_bad_value_is_refused", '"alpha: -16"'),
    "dropout 1.5": (RECIPE, "test_a_bad_value_is_refused", "dropout: 1.5"),
    "batch 0": (RECIPE, "test_a_bad_value_is_refused", '"batch_size: 0"'),
    "accumulation 0": (RECIPE, "test_a_bad_value_is_refused", "gradient_accumulation: 0"),
    "a negative cutoff": (RECIPE, "test_a_bad_value_is_refused", "cutoff_tokens: -5"),
    "fp16 on a CPU": (RECIPE, "test_a_bad_value_is_refused", "precision: fp16, device: cpu"),
    "enable_thinking 'false' is true": (RECIPE, "test_a_bad_value_is_refused", 'enable_thinking: "false"'),
    "a key that stands twice": (RECIPE, "test_a_bad_value_is_refused", "stands twice"),
    "val_size 1.5 is one row": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "val_size: 1.5"),
    "a negative val_size": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "val_size: -0.1"),
    "a quantisation of 3 bits": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "quantization_bit: 3"),
    "packing 'false' is true": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "'packing: \"false\"'"),
    "packed rows see each other": (RECIPE, "test_a_bad_llamafactory_option_is_refused", '"packing: true"'),
    "stage 'sftt'": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "stage: sftt"),
    "pure_bf16 without a GPU": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "pure_bf16"),
    "early stopping alone asserts in training": (
        RECIPE,
        "test_a_bad_llamafactory_option_is_refused",
        "early_stopping_steps: 3",
    ),
    "predictions are sampled": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "do_predict"),
    "save_only_model cannot be resumed": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "save_only_model"),
    "overwrite_output_dir keeps old checkpoints": (
        RECIPE,
        "test_a_bad_llamafactory_option_is_refused",
        "overwrite_output_dir",
    ),
    "without do_train nothing is trained": (RECIPE, "test_what_llamafactory_would_leave_out", '"do_train": True'),
    "without output_dir it is trainer_output": (RECIPE, "test_what_llamafactory_would_leave_out", '"output_dir"'),
    "500 steps without a word": (RECIPE, "test_what_llamafactory_would_leave_out", '"logging_steps": 1'),
    "a NaN loss is shown as a mean": (RECIPE, "test_what_llamafactory_would_leave_out", "logging_nan_inf_filter"),
    "text for any other number": (PLANNED, "test_a_mistake_is_refused_before_a_model_is_loaded", "text for a number"),
    "text for any other switch": (PLANNED, "test_a_mistake_is_refused_before_a_model_is_loaded", "text for a switch"),
    "an unknown template, late": (PLANNED, "test_a_mistake_is_refused_before_a_model_is_loaded", "unknown template"),
    "a target that is no layer, late": (PLANNED, "test_a_mistake_is_refused_before_a_model_is_loaded", '"no layer"'),
    "bf16 on a machine without it, late": (PLANNED, "test_a_mistake_is_refused_before_a_model_is_loaded", "bf16"),
    "fused experts are not adapted": (PLAN, "test_fused_experts_are_noted", "fused=900"),
    # Data
    "a key with a typo": (FORMAT, "test_a_row_that_cannot_be_read_is_named", "'ouput'"),
    "rows of two formats": (FORMAT, "test_a_row_that_cannot_be_read_is_named", "this row is OpenAI messages"),
    "turns in bad order are skipped": (FORMAT, "test_a_row_that_cannot_be_read_is_named", "user after user"),
    "a column left out is dropped": (DATASET, "test_the_registry_names_every_column", "columns"),
    "an empty answer": (LINT, "test_it_is_found_at_its_row", "output is empty"),
    "an empty question": (LINT, "test_it_is_found_at_its_row", "instruction is empty"),
    "reasoning is trained on": (LINT, "test_it_is_found_at_its_row", "<think>"),
    "a row is cut with its end of turn": (PLAN, "test_a_row_that_would_be_cut_is_refused", "3000"),
    "a row is dropped": (PLAN, "test_a_row_that_llamafactory_drops_is_refused", "dropped"),
    # Templates
    "another template than the served one": (PLANNED, "test_a_mistake_is_refused_before", "another template"),
    "a system prompt that is not served": (CHECKS, "test_another_system_prompt_than_is_served", "default_system"),
    "smollm2's own system prompt": (CHECKS, "test_another_template_than_is_served_is_refused", "smollm2"),
    "thinking in the labels": (
        OTHER,
        "test_a_prompt_that_lacks_the_empty_thinking_block",
        "trains the answers to think",
    ),
    "qwen3_nothink for a hybrid base": (OTHER, "test_a_prompt_that_lacks_the_empty_thinking_block", "qwen3_nothink"),
    "another end of turn, read from a GGUF": (PLANNED, "test_the_end_of_a_turn_is_what_the_served_base", "im_end"),
    # A run
    "NaN is no JSON": (PROGRESS, "test_a_loss_that_is_no_number_ends_the_run", "nan"),
    "the remaining time is wrong after a resume": (PROGRESS, "test_a_resumed_run_counts_time", "eta_s"),
    "no gradient norm": (WHOLE, "test_killed_in_every_step", "grad_norm"),
    "an aborted run looks finished": (TRAINER, "test_sigint_stops_the_child_and_marks_the_run", "STOPPED"),
    "a stopped run is converted": ("unit/training/test_convert_checks.py", "test_a_failed_training_run", "STOPPED"),
    "orphans": ("unit/training/test_children.py", "test_a_killed_owner_leaves_neither_child", "grandchild"),
    "a resume with other data or settings": (RESUME, "test_every_change_since_is_named_and_refused", "was 0.001"),
    "a resume from half a checkpoint": (RESUME, "test_a_run_goes_on_from_its_last_whole_checkpoint", "checkpoint-1"),
    "a finished directory trains nothing": (RESUME, "test_a_trained_run_is_left_as_it_is", "CONVERTED"),
    "no torchaudio, no training": ("unit/training/test_environment.py", "test_torchaudio_is_required", "torchaudio"),
    # Conversion and serving
    "DoRA": (PREFLIGHT, "test_a_setting_that_the_engine_cannot_follow", "use_dora"),
    "rsLoRA is too weak": (PREFLIGHT, "test_a_setting_that_the_engine_cannot_follow", "use_rslora"),
    "alpha_pattern is ignored": (PREFLIGHT, "test_a_setting_that_the_engine_cannot_follow", "alpha_pattern"),
    "modules_to_save": (PREFLIGHT, "test_a_setting_that_the_engine_cannot_follow", "modules_to_save"),
    "an adapter on embedding or head": (PREFLIGHT, "test_a_setting_that_the_engine_cannot_follow", "lm_head"),
    "PiSSA not converted": (PREFLIGHT, "test_a_setting_that_the_engine_cannot_follow", "pissa"),
    "an alpha that was changed": (CHECKS, "test_twice_the_alpha_is_refused", "2 * ALPHA"),
    "an adapter that is not applied": (CHECKS, "test_an_adapter_without_effect_is_refused", "no effect"),
    "rsLoRA in a recipe": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "use_rslora"),
    "PiSSA in a recipe": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "pissa_convert"),
    "embedding or head in a recipe": (RECIPE, "test_a_bad_llamafactory_option_is_refused", "additional_target"),
    "the base is looked up on a hub": ("unit/training/test_convert_checks.py", "test_the_converter_is_told", "--base"),
    "another base of the same shape": ("unit/gateway/test_experts.py", "test_a_wrong_base_names_both", "sha256"),
    "the base changed after training": ("unit/training/test_convert_checks.py", "test_a_base_that_changed", "another"),
}


@pytest.mark.parametrize("failure", SILENT)
def test_a_failure_that_is_silent_elsewhere_has_its_test(failure: str) -> None:
    file, test, case = SILENT[failure]
    text = (TESTS / file).read_text(encoding="utf-8")
    assert f"def {test}" in text
    assert case in text
