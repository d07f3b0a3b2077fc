"""Score tokens with a PEFT adapter on the training base, in fp32: what the converted adapter is held against.

Runs by path with the training environment's Python; imports nothing of Pointsman's.
"""

# mypy: disable-error-code="import-not-found, no-untyped-call"

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

BYTES_PER_WEIGHT = 4
HEADROOM = 1.3


class AdapterNotLoaded(Exception):
    """PEFT left out a part of the adapter, which it does with no more than a warning."""


def load(weights: str, adapter: Path) -> Any:
    """Load base and adapter in fp32, on the GPU where they fit."""
    base = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    loaded = {name.replace(".default.", "."): value for name, value in model.named_parameters() if ".lora_" in name}
    for name, value in load_file(adapter / "adapter_model.safetensors").items():
        if name not in loaded or not torch.equal(loaded[name].float(), value.float()):
            raise AdapterNotLoaded(f"PEFT did not load {name} of the adapter onto this base")
    needed = sum(parameter.numel() for parameter in model.parameters()) * BYTES_PER_WEIGHT * HEADROOM
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > needed:
        model = model.to("cuda")
    return model


def set_scale(layers: list[tuple[LoraLayer, dict[str, float]]], scale: float) -> None:
    """Multiply the trained scaling (alpha / rank) of every layer."""
    for layer, trained in layers:
        for name, scaling in trained.items():
            layer.scaling[name] = scaling * scale


def score(model: Any, prompt: list[int], answer: list[int]) -> dict[str, list[Any]]:
    """Return the log-probability of each token of the answer, and the likeliest token in its place."""
    tokens = torch.tensor([prompt + answer], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].float()
    chosen = torch.tensor(answer, device=model.device).unsqueeze(1)
    logprobs = logits.log_softmax(-1).gather(1, chosen).squeeze(1)
    return {"logprobs": logprobs.tolist(), "top": logits.argmax(-1).tolist()}


def main(spec_path: Path) -> None:
    """Read `{"weights", "adapter", "sequences": [{"prompt", "answer"}], "scales", "output"}`, write scores by scale."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    model = load(spec["weights"], Path(spec["adapter"]))
    layers = [(module, dict(module.scaling)) for module in model.modules() if isinstance(module, LoraLayer)]
    scores = {}
    for scale in spec["scales"]:
        set_scale(layers, scale)
        scores[str(scale)] = [score(model, each["prompt"], each["answer"]) for each in spec["sequences"]]
    Path(spec["output"]).write_text(json.dumps({"scores": scores}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
