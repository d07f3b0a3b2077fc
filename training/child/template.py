"""Check that the tokens trained on are those that the base's own chat template makes.

Runs in the training environment, beside train.py; imports nothing of Pointsman's. A prompt that differs by one token
between training and serving is the most common cause of an expert that trains well and answers badly.
"""

import json
from pathlib import Path
from typing import Any

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer


class TemplateMismatch(Exception):
    """LlamaFactory's prompt differs from the chat template's."""


def check_template(config: dict[str, Any]) -> int:
    """Compare the prompt of the first row; return its length in tokens.

    Raises:
        TemplateMismatch: names the first differing token of both sides.
    """
    model_args, data_args, *_ = get_train_args(dict(config))
    tokenizer = load_tokenizer(model_args)["tokenizer"]
    rows = Path(config["dataset_dir"]) / f"{config['dataset']}.json"
    row = json.loads(rows.read_text(encoding="utf-8"))[0]
    messages = [{"role": "user", "content": row["instruction"]}]
    system = config.get("default_system")
    served_messages = ([{"role": "system", "content": system}] if system else []) + messages
    # Served without thinking unless the recipe says otherwise; templates that know no such switch ignore it.
    thinking = bool(config.get("enable_thinking"))
    # Rendered first: LlamaFactory may replace the tokenizer's chat template when it sets up its own.
    served_text = tokenizer.apply_chat_template(
        served_messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    served = tokenizer.encode(served_text, add_special_tokens=False)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    answer = {"role": "assistant", "content": row["output"]}
    trained, _ = template.encode_oneturn(tokenizer, [*messages, answer], system)
    if trained != served:
        shorter = min(len(trained), len(served))
        at = next((i for i in range(shorter) if trained[i] != served[i]), shorter)
        shown = [repr(tokenizer.decode(ids[at : at + 8])) for ids in (trained, served)]
        hint = "; set base.enable_thinking to false" if "<think>" in shown[1] else ""
        raise TemplateMismatch(
            f"token {at} of the prompt differs: LlamaFactory trains {shown[0]}, the chat template says {shown[1]}{hint}"
        )
    return len(served)
