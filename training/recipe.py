"""The recipe: how an expert is trained, checked before anything starts.

Owns the schema with its ranges (LlamaFactory accepts a rank of -4 or a learning rate "abc" in silence) and the
rendering into LlamaFactory's own options. Does not know which expert is trained or where files lie on disk.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from training.errors import RecipeError
from training.options import check_options
from training.yaml_file import describe_error, read_yaml

__all__ = ["Recipe", "load_recipe", "recipe_sha256"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BaseSection(_Section):
    """The base model. `served` is the GGUF that the engine serves: a package, a hub id or a path.

    `train_from` is `gguf` (dequantise that GGUF), a directory with safetensors, or a hub id.
    """

    served: str = Field(min_length=1)
    train_from: str = Field(default="gguf", min_length=1)
    template: str | None = Field(default=None, min_length=1)
    """A LlamaFactory template name; unset means the base's own chat template, the safest choice."""
    enable_thinking: bool | None = None
    system_prompt: str | None = Field(default=None, min_length=1)


class LoraSection(_Section):
    """The adapter: every linear layer by default; the scale at serving is alpha / rank times the expert's scale."""

    rank: int = Field(ge=1, le=512)
    alpha: int = Field(ge=1, le=2048)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target: tuple[str, ...] | Literal["all"] = "all"

    @field_validator("target", mode="before")
    @classmethod
    def check_modules(cls, value: object) -> object:
        """An adapter on the embedding or the head aborts llama-server, or is dropped."""
        if not isinstance(value, list):
            return value
        if not value:
            raise ValueError("name at least one module, or write all")
        for name in value:
            if name in ("embed_tokens", "lm_head", "wte", "embed_out"):
                raise ValueError(f"{name} cannot be adapted: llama.cpp aborts on embedding and head adapters")
        return tuple(value)


class TrainingSection(_Section):
    """The optimisation. One step trains batch_size x gradient_accumulation rows on each device."""

    epochs: float = Field(gt=0, le=100)
    max_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    learning_rate: float = Field(gt=0, le=0.1)
    batch_size: int = Field(ge=1, le=4096)
    gradient_accumulation: int = Field(default=1, ge=1, le=4096)
    cutoff_tokens: int = Field(default=2048, ge=16, le=1_048_576)
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from zero."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 on a GPU that has it, and on a CPU that multiplies matrices in it no slower than in fp32, or fp32.
    A processor without instructions for bf16 is twenty times slower with it. Chosen when a run is planned, and kept."""
    device: Literal["auto", "cpu"] = "auto"
    gradient_checkpointing: bool = True
    seed: int = Field(default=42, ge=0, le=2**31)

    @model_validator(mode="after")
    def refuse_fp16_on_cpu(self) -> TrainingSection:
        """LlamaFactory accepts the pair and trains wrongly."""
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision fp16 does not work on device cpu: use auto, bf16 or fp32")
        return self


class ConvertSection(_Section):
    """The GGUF that is written."""

    outtype: Literal["f16", "f32", "q8_0"] = "f16"


class Recipe(_Section):
    """One file under `configs/recipes/`."""

    base: BaseSection
    lora: LoraSection
    training: TrainingSection
    convert: ConvertSection = ConvertSection()
    llamafactory: dict[str, Any] = Field(default_factory=dict)
    """LlamaFactory's remaining options, passed through by name; its own parser checks them."""

    @field_validator("llamafactory")
    @classmethod
    def refuse_owned(cls, options: dict[str, Any]) -> dict[str, Any]:
        """See `training.options`."""
        check_options(options)
        return options

    def with_precision(self, precision: str) -> Recipe:
        """Return the recipe with what `auto` came to."""
        training = self.training.model_copy(update={"precision": precision})
        return self.model_copy(update={"training": training})

    def render(self, *, model: str, dataset_dir: Path, dataset: str, output_dir: Path) -> dict[str, Any]:
        """Return LlamaFactory's options for one run; `auto` as fp32."""
        training, lora, base = self.training, self.lora, self.base
        options: dict[str, Any] = {
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "model_name_or_path": model,
            "dataset": dataset,
            "dataset_dir": str(dataset_dir),
            "output_dir": str(output_dir),
            "lora_rank": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "lora_target": lora.target if isinstance(lora.target, str) else ",".join(lora.target),
            "num_train_epochs": training.epochs,
            "learning_rate": training.learning_rate,
            "per_device_train_batch_size": training.batch_size,
            "gradient_accumulation_steps": training.gradient_accumulation,
            "cutoff_len": training.cutoff_tokens,
            "lr_scheduler_type": training.scheduler,
            "warmup_steps": training.warmup,
            "bf16": training.precision == "bf16",
            "fp16": training.precision == "fp16",
            "use_cpu": training.device == "cpu",
            "disable_gradient_checkpointing": not training.gradient_checkpointing,
            "seed": training.seed,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,
            "include_num_input_tokens_seen": "all",
            "plot_loss": True,
            "report_to": "none",
            "disable_tqdm": True,
            # Every tenth of the run; two, so that one is whole when a kill hits the writing of the other.
            "save_strategy": "steps",
            "save_steps": 0.1,
            "save_total_limit": 2,
            "preprocessing_num_workers": 1,
        }
        optional = {
            "max_steps": training.max_steps,
            "template": base.template,
            "enable_thinking": base.enable_thinking,
            "default_system": base.system_prompt,
        }
        options |= {key: value for key, value in optional.items() if value is not None}
        return options | self.llamafactory


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: one line that names the file, the key, the value and what is allowed.
    """
    try:
        return Recipe.model_validate(read_yaml(path))
    except ValidationError as error:
        raise RecipeError(f"{path}: {describe_error(error, Recipe)}") from error


def recipe_sha256(path: Path) -> str:
    """Hash of the recipe file as it stands."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
