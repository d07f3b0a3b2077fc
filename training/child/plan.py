"""Say what a training run would do, without loading the model: LlamaFactory's own parser, template and rows.

Runs by path with the training environment's Python; imports nothing of Pointsman's but its siblings. A mistake of the
recipe's is part of what it writes (`refused`); anything that raises is a failure.
"""

# mypy: disable-error-code="import-not-found"

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import sys
import time
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union

import torch
from encode import encode, open_rows
from llamafactory.hparams import parser
from template import TemplateMismatch, check_template
from transformers import AutoConfig, AutoModelForCausalLM

PACKAGES = ("llamafactory", "transformers", "peft", "torch", "accelerate", "datasets")
HEADS = ("lm_head", "output_layer", "embed_out")
MATRIX = 1024
LONG_NAMES = {"bf16": "bfloat16", "fp16": "float16"}
THINK = "<think>"
ON = ("1", "true", "y")


class Refused(Exception):
    """The recipe cannot be trained; the text is for a person."""


def accepts(hint: Any, value: Any) -> bool:
    """Tell whether a value is of an option's declared type; LlamaFactory's parser does not look."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(accepts(part, value) for part in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    hint = origin or hint
    if hint in (bool, str, list, dict):
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is type(None):
        return value is None
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value in [member.value for member in hint]
    return True


def check_types(config: dict[str, Any]) -> None:
    """Refuse options whose value is of another type than LlamaFactory declares."""
    for arguments in parser._TRAIN_ARGS:
        hints = typing.get_type_hints(arguments)
        for field in dataclasses.fields(arguments):
            if field.name in config and not accepts(hints[field.name], config[field.name]):
                wanted = getattr(hints[field.name], "__name__", None) or str(hints[field.name])
                raise Refused(f"llamafactory.{field.name} is {config[field.name]!r}, LlamaFactory expects {wanted}")


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Take LlamaFactory's ValueError for what it is: a mistake of the recipe's."""
    try:
        yield
    except (ValueError, ImportError, NotImplementedError) as error:
        hint = ": set training.device to cpu, or training.precision to fp32" if "bf16" in str(error) else ""
        raise Refused(f"LlamaFactory refuses the recipe: {' '.join(str(error).split())}{hint}") from error


def parse(config: dict[str, Any]) -> tuple[Any, ...]:
    """Let LlamaFactory check the options."""
    check_types(config)
    with refusals():
        arguments: tuple[Any, ...] = parser.get_train_args(dict(config))
    return arguments


def count_rows(config: dict[str, Any]) -> dict[str, Any]:
    """Encode every row uncut, as LlamaFactory does; lengths in tokens, row numbers from 1."""
    with refusals():
        rows, processor, tokenizer = open_rows(config)
    lengths, answers, dropped = [], 0, []
    for number, row in enumerate(rows, 1):
        tokens, labels = encode(processor, row)
        lengths.append(len(tokens))
        answers += sum(label >= 0 for label in labels)
        if not tokens:
            dropped.append(number)
        elif number == 1:
            trained = tokenizer.decode([label for label in labels if label >= 0])
            if THINK in trained and THINK not in json.dumps(row["_response"]):
                raise Refused("base.template trains the answers to think: set base.enable_thinking to false")
    return {"lengths": lengths, "answer_tokens": answers, "dropped": dropped}


def count_parameters(model_args: Any, lora: dict[str, Any]) -> dict[str, Any]:
    """Build the model without weights; count its parameters, and those of the adapter that the recipe asks for."""
    config = AutoConfig.from_pretrained(model_args.model_name_or_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(head in name for head in HEADS)
    }
    kinds = sorted({name.rsplit(".", 1)[-1] for name in linear})
    wanted = kinds if lora["target"] == "all" else lora["target"].split(",")
    for name in wanted:
        if not any(f".{module}".endswith(f".{name}") for module in linear):
            raise Refused(f"lora.target: {name!r} is no linear layer of this base; it has: {', '.join(kinds)}")
    adapted = [linear[name] for name in linear if any(f".{name}".endswith(f".{each}") for each in wanted)]
    text = config.get_text_config()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(lora["rank"] * (module.in_features + module.out_features) for module in adapted),
        "modules": len(adapted),
        "fused": sum(value.numel() for name, value in model.named_parameters() if value.ndim == 3 and "expert" in name),
        "layers": text.num_hidden_layers,
        "hidden": text.hidden_size,
        "heads": text.num_attention_heads,
        "vocabulary": text.vocab_size,
    }


def take_one_device(config: dict[str, Any]) -> int:
    """Leave this process one device, as LlamaFactory wants it alone; return how many the run will train on.

    Raises:
        Refused: several devices, and nothing that starts the run on them.
    """
    found = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if found > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0] if visible else "0"
    if os.environ.pop("USE_RAY", "0").lower() in ON:
        return int(config.get("ray_num_workers", 1))
    if os.environ.get("FORCE_TORCHRUN", "0").lower() in ON:
        processes = os.environ.get("NPROC_PER_NODE", "auto")
        return int(processes) if processes.isdecimal() else found or os.cpu_count() or 1
    if found > 1 and not config["use_cpu"]:
        raise Refused(f"there are {found} GPUs: set FORCE_TORCHRUN=1, or CUDA_VISIBLE_DEVICES to one of them")
    return 1


def speed(dtype: torch.dtype, device: torch.device) -> float:
    """Return how fast a matrix product is now, in operations a second."""
    matrix = torch.ones(MATRIX, MATRIX, dtype=dtype, device=device)
    rates = []
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits for the device
        rates.append(2 * MATRIX**3 / (time.perf_counter() - started))
    return max(rates[1:])


def prefers_bf16(config: dict[str, Any]) -> bool:
    """Tell whether bf16 is the better choice on the device trained on: half the memory, and no slower than fp32.

    A GPU that has it is never slower; of a CPU the speed tells. LlamaFactory takes it for no other device.
    """
    if config["use_cpu"]:
        return speed(torch.bfloat16, torch.device("cpu")) >= speed(torch.float32, torch.device("cpu"))
    return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))


def machine(training_args: Any) -> dict[str, Any]:
    """Return what the run would compute on and in, with the speed of a matrix product timed now."""
    device = training_args.device
    precision = "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "fp32"
    in_fp32 = speed(torch.float32, device)
    flops = in_fp32 if precision == "fp32" else speed(getattr(torch, LONG_NAMES[precision]), device)
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
    else:
        name, memory = f"{os.cpu_count()} CPU cores", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"device": name, "memory_bytes": memory, "precision": precision, "flops": flops, "flops_fp32": in_fp32}


def main(spec_path: Path) -> None:
    """Read `{"config", "choose", "output"}`; write rows, parameters, machine and versions, or `{"refused": …}`.

    `choose`: the precision is left to us.
    """
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    config = spec["config"]
    try:
        devices = take_one_device(config)
        if spec["choose"]:
            config["bf16"] = prefers_bf16(config)
        model_args, _, training_args, *_ = parse(config)
        with refusals():
            check_template(config)
        result = count_rows(config)
        result |= count_parameters(model_args, {"rank": config["lora_rank"], "target": config["lora_target"]})
        result |= machine(training_args) | {"devices": devices}
        result["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    except (Refused, TemplateMismatch) as refusal:
        result = {"refused": str(refusal)}
    Path(spec["output"]).write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
