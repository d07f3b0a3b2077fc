"""LlamaFactory's own options: which of them a recipe may pass through, and with which values.

Owns the options that Pointsman sets itself, those that would make an adapter that the engine cannot follow, and the
ranges that LlamaFactory does not check. Names and types of all others are checked by LlamaFactory's own parser
(`plan`), without loading a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["check_options"]

# LlamaFactory options that Pointsman writes itself, with the recipe key that sets them.
OWNED = {
    "model_name_or_path": "base.train_from",
    "template": "base.template",
    "enable_thinking": "base.enable_thinking",
    "default_system": "base.system_prompt",
    "finetuning_type": None,
    "stage": None,
    "do_train": None,
    "lora_rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target": "lora.target",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "learning_rate": "training.learning_rate",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "cutoff_len": "training.cutoff_tokens",
    "lr_scheduler_type": "training.scheduler",
    "warmup_steps": "training.warmup",
    "warmup_ratio": "training.warmup",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "pure_bf16": "training.precision",
    "use_cpu": "training.device",
    "seed": "training.seed",
    "data_seed": "training.seed",
    "disable_gradient_checkpointing": "training.gradient_checkpointing",
    "dataset": None,
    "dataset_dir": None,
    "tokenized_path": None,
    "output_dir": None,
    "overwrite_output_dir": None,
    "resume_from_checkpoint": None,
    "logging_steps": None,
    "logging_strategy": None,
    "logging_nan_inf_filter": None,
    "include_num_input_tokens_seen": None,
    "plot_loss": None,
    "report_to": None,
    "trust_remote_code": None,
}
# LlamaFactory options whose adapters llama.cpp's converter drops or changes, or whose base nobody serves.
UNCONVERTIBLE = {
    "use_dora": "llama.cpp has no DoRA adapters",
    "use_rslora": "llama.cpp scales by alpha/rank, rsLoRA by alpha/sqrt(rank)",
    "pissa_init": "PiSSA changes the base weights, which the engine does not know of",
    "pissa_convert": "PiSSA changes the base weights, which the engine does not know of",
    "additional_target": "llama.cpp cannot load embedding or head weights from an adapter",
    "use_mora": "llama.cpp has no MoRA adapters",
    "adapter_name_or_path": "the earlier adapter would be merged into a base that the engine does not serve",
    "create_new_adapter": "the earlier adapter would be merged into a base that the engine does not serve",
    "resize_vocab": "the engine's base has no room for new tokens",
    "add_tokens": "the engine's base does not know the new tokens",
    "add_special_tokens": "the engine's base does not know the new tokens",
    "new_special_tokens_config": "the engine's base does not know the new tokens",
    "rope_scaling": "the engine serves the base with its own positions",
    "mixture_of_depths": "the engine has no mixture of depths",
    "save_only_model": "a run without its optimizer's state cannot be resumed",
    "do_predict": "`pointsman measure` asks the real engine instead",
    "predict_with_generate": "`pointsman measure` asks the real engine instead",
}
# What LlamaFactory takes in silence whatever it is: a test of the value, and what is allowed.
Allowed = tuple[Callable[[Any], bool], str]
_SHARE: Allowed = (lambda value: 0 <= value < 1, "0 or more and less than 1")
_POSITIVE: Allowed = (lambda value: value > 0, "more than 0")
_COUNT: Allowed = (lambda value: value >= 1 and value == int(value), "a whole number, 1 or more")
RANGES: dict[str, Allowed] = {
    "val_size": (
        lambda value: 0 <= value < 1 or value == int(value) > 0,
        "a share of the rows, 0 or more and less than 1, or a whole number of rows",
    ),
    "quantization_bit": (lambda value: value in (4, 8), "4 or 8"),
    "neftune_noise_alpha": _POSITIVE,
    "loraplus_lr_ratio": _POSITIVE,
    "loraplus_lr_embedding": _POSITIVE,
    "weight_decay": _SHARE,
    "label_smoothing_factor": _SHARE,
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": _POSITIVE,
    "max_grad_norm": (lambda value: value >= 0, "0 or more"),
    "max_samples": _COUNT,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "save_total_limit": _COUNT,
    "early_stopping_steps": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "preprocessing_num_workers": _COUNT,
    "dataloader_num_workers": (lambda value: value >= 0 and value == int(value), "a whole number, 0 or more"),
}
EARLY_STOPPING_NEEDS = ("eval_strategy", "load_best_model_at_end", "metric_for_best_model")


def check_options(options: dict[str, Any]) -> None:
    """Refuse what the recipe sets elsewhere, what cannot be converted, and values that LlamaFactory lets pass.

    Raises:
        ValueError: names the option, its value and what is allowed, or the reason.
    """
    for key, value in options.items():
        if key in OWNED:
            where = OWNED[key]
            raise ValueError(f"{key} is set by {where}" if where else f"{key} is set by Pointsman")
        if key in UNCONVERTIBLE and value not in (False, None):
            raise ValueError(f"{key} cannot be used: {UNCONVERTIBLE[key]}")
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
            raise ValueError(f"{key} is the text {value!r}, which LlamaFactory takes for true: remove the quotes")
        if key in RANGES and value is not None:
            _check_range(key, value)
    _check_combinations(options)


def _check_range(key: str, value: Any) -> None:
    is_allowed, allowed = RANGES[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}, a number is expected: {allowed}")
    if not is_allowed(value):
        raise ValueError(f"{key} is {value!r}, allowed is {allowed}")


def _check_combinations(options: dict[str, Any]) -> None:
    """Refuse what parses and then trains wrongly, or fails only when training begins."""
    if options.get("packing") and not options.get("neat_packing"):
        raise ValueError("packing lets packed rows see each other: set neat_packing: true beside it")
    if options.get("early_stopping_steps") is not None:
        missing = [key for key in EARLY_STOPPING_NEEDS if not options.get(key)]
        if missing:
            raise ValueError(f"early_stopping_steps needs {', '.join(missing)} beside it")
    if str(options.get("save_strategy", "")) == "no":
        raise ValueError("save_strategy is 'no': a run without checkpoints cannot be resumed")
