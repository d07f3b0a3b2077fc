"""Encode a run's rows exactly as LlamaFactory did when it trained on them.

Runs by path with the training environment's Python; imports nothing of Pointsman's. Rows are encoded uncut, so that
one that is longer than the cutoff shows.
"""

# mypy: disable-error-code="import-not-found"

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.data.loader import _get_dataset_processor, _get_merged_dataset
from llamafactory.hparams import DataArguments, get_train_args
from llamafactory.model import load_tokenizer

UNCUT_TOKENS = 2**20
TOKENIZER_OPTIONS = (
    "model_name_or_path",
    "use_fast_tokenizer",
    "split_special_tokens",
    "add_tokens",
    "add_special_tokens",
    "new_special_tokens_config",
)
# They change which rows stand in a batch, not how a row is encoded.
BATCH_OPTIONS = (
    "packing",
    "neat_packing",
    "val_size",
    "eval_dataset",
    "eval_on_each_dataset",
    "streaming",
    "tokenized_path",
    "max_samples",
    "cutoff_len",
)


def encoding_options(config: dict[str, Any], output_dir: str) -> dict[str, Any]:
    """Keep of LlamaFactory's options those that decide how a row is encoded."""
    data = {field.name for field in dataclasses.fields(DataArguments)} - set(BATCH_OPTIONS)
    kept = {key: value for key, value in config.items() if key in data or key in TOKENIZER_OPTIONS}
    fixed = {"stage": "sft", "do_train": True, "finetuning_type": "lora", "use_cpu": True, "report_to": "none"}
    return kept | fixed | {"output_dir": output_dir, "cutoff_len": UNCUT_TOKENS}


def comparable(row: dict[str, Any]) -> bool:
    """Tell whether a row is a plain conversation: no tools, no pictures."""
    roles = {message["role"] for message in row["_prompt"] + row["_response"]}
    return roles <= {"user", "assistant"} and not any(row[key] for key in ("_tools", "_images", "_videos", "_audios"))


def open_rows(config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return LlamaFactory's rows, the processor that encodes one of them uncut, and the tokenizer."""
    with tempfile.TemporaryDirectory() as output_dir:
        model_args, data_args, training_args, *_ = get_train_args(encoding_options(config, output_dir))
    tokenizer_module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
    rows = _get_merged_dataset(data_args.dataset, model_args, data_args, training_args, "sft")
    processor = _get_dataset_processor(data_args, "sft", template, **tokenizer_module)
    return rows, processor, tokenizer_module["tokenizer"]


def encode(processor: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return one row's tokens and labels, both empty when LlamaFactory drops it."""
    encoded = processor.preprocess_dataset({key: [value] for key, value in row.items()})
    tokens, labels = encoded.get("input_ids"), encoded.get("labels")
    return (tokens[0], labels[0]) if tokens else ([], [])


def main(spec_path: Path) -> None:
    """Read `{"config", "rows", "output"}`; write `rows` encoded rows from all over the data, and what would be cut."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    rows, processor, _ = open_rows(spec["config"])
    encoded, cut, dropped = [], [], []
    for number, row in enumerate(rows):
        tokens, _ = encode(processor, row)
        if not tokens:
            dropped.append(number)
            continue
        if len(tokens) > spec["config"]["cutoff_len"]:
            cut.append(number)
        if comparable(row):
            prompt = [{"role": message["role"], "content": message["content"]} for message in row["_prompt"]]
            answer = row["_response"][0]["content"]
            encoded.append(
                {
                    "row": number,
                    "system": row["_system"] or None,
                    "messages": prompt,
                    "answer": answer,
                    "tokens": tokens,
                }
            )
    step = max(1, len(encoded) // spec["rows"])
    result = {"rows": encoded[::step][: spec["rows"]], "total": len(rows), "cut": cut, "dropped": dropped}
    Path(spec["output"]).write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
