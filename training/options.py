"""LlamaFactory's own options: which of them a recipe may pass through.

Owns the list of options that Pointsman sets itself and of those that llama.cpp cannot follow. All others are checked by
LlamaFactory's own parser.
"""

from __future__ import annotations

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
    "output_dir": None,
    "overwrite_output_dir": None,
    "logging_steps": None,
    "report_to": None,
    "trust_remote_code": None,
}
# LlamaFactory options whose adapters llama.cpp's converter drops or changes, some of them in silence.
UNCONVERTIBLE = {
    "use_dora": "llama.cpp has no DoRA adapters",
    "use_rslora": "llama.cpp scales by alpha/rank, rsLoRA by alpha/sqrt(rank)",
    "pissa_init": "PiSSA changes the base weights, which the engine does not know of",
    "additional_target": "llama.cpp cannot load embedding or head weights from an adapter",
    "use_mora": "llama.cpp has no MoRA adapters",
}


def check_options(options: dict[str, Any]) -> None:
    """Refuse what the recipe sets elsewhere, what cannot be converted, and text that means a boolean.

    Raises:
        ValueError: names the option and the reason.
    """
    for key, value in options.items():
        if key in OWNED:
            where = OWNED[key]
            raise ValueError(f"{key} is set by {where}" if where else f"{key} is set by Pointsman")
        if key in UNCONVERTIBLE and value not in (False, None):
            raise ValueError(f"{key} cannot be used: {UNCONVERTIBLE[key]}")
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
            raise ValueError(f"{key} is the text {value!r}, which LlamaFactory takes for true: remove the quotes")
