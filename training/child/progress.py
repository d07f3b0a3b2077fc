"""Callbacks that report a run's progress and stop it between two steps.

Runs in the training environment, beside train.py; imports nothing of Pointsman's.
Owns `progress.jsonl`: one JSON object a logged step, every number finite or null, so that any reader can parse it.
"""

# mypy: disable-error-code="misc"

import json
import math
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def finite(value: Any) -> float | None:
    """Return the value as a float, or None when it is absent, NaN or infinite."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


class ProgressCallback(TrainerCallback):
    """Append one line to `progress.jsonl` for each logged step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started_s = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; a resumed run counts its time from the step it resumed at."""
        self.started_s = time.monotonic()
        self.first_step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the step's numbers; rows without a loss (the closing summary) are left out."""
        if not state.is_world_process_zero or not logs or ("loss" not in logs and "eval_loss" not in logs):
            return
        elapsed_s = time.monotonic() - self.started_s
        done = state.global_step - self.first_step
        row = {
            "step": state.global_step,
            "total": state.max_steps,
            "epoch": finite(state.epoch),
            "loss": finite(logs.get("loss")),
            "eval_loss": finite(logs.get("eval_loss")),
            "lr": finite(logs.get("learning_rate")),
            "grad_norm": finite(logs.get("grad_norm")),
            "tokens_per_s": finite(state.num_input_tokens_seen / elapsed_s) if elapsed_s else None,
            "elapsed_s": round(elapsed_s, 1),
            "eta_s": round(elapsed_s / done * (state.max_steps - state.global_step), 1) if done else None,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class StopCallback(TrainerCallback):
    """Turn SIGINT and SIGTERM into a stop after the step in progress, with a checkpoint."""

    def __init__(self, mark: Path) -> None:
        """Listen to signals.

        Args:
            mark: a file that tells workers in other processes, which get no signal under Ray.
        """
        self.requested = False
        self.mark = mark
        mark.unlink(missing_ok=True)
        signal.signal(signal.SIGINT, self.request)
        signal.signal(signal.SIGTERM, self.request)

    def request(self, signum: int, frame: FrameType | None) -> None:
        """Remember that a stop was asked for."""
        self.requested = True
        self.mark.touch()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Stop and save when a stop was asked for, all workers of a distributed run at the same step."""
        self.requested = self.requested or self.mark.exists()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            asked = torch.tensor(int(self.requested), device=args.device)
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
            self.requested = bool(asked.item())
        if self.requested:
            control.should_training_stop = True
            control.should_save = True
        return control
