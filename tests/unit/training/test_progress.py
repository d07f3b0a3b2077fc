"""The callbacks in the training child: what they write, and that a spoilt run does not look like a good one."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

SCRIPT = Path(__file__).parents[3] / "training" / "child" / "progress.py"


@pytest.fixture(scope="module")
def progress() -> Iterator[ModuleType]:
    """The module as the child imports it: by path."""
    spec = importlib.util.spec_from_file_location("progress", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["progress"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["progress"]


@pytest.fixture
def arguments(tmp_path: Path) -> SimpleNamespace:
    """As much of the trainer's arguments as the callbacks read; the whole of them wants the training environment."""
    return SimpleNamespace(output_dir=str(tmp_path / "adapter"), world_size=1)


def state(step: int, tokens: int = 0) -> TrainerState:
    return TrainerState(global_step=step, max_steps=10, epoch=step / 10, num_input_tokens_seen=tokens)


def written(path: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_logged_step_is_a_row_and_the_closing_summary_is_none(
    progress: ModuleType, arguments: SimpleNamespace, tmp_path: Path
) -> None:
    callback = progress.ProgressCallback(tmp_path / "progress.jsonl")
    callback.on_train_begin(arguments, state(0), TrainerControl())
    logs = {"loss": 2.5, "learning_rate": 1e-3, "grad_norm": 0.5}
    callback.on_log(arguments, state(1, tokens=64), TrainerControl(), logs=logs)
    callback.on_log(arguments, state(1), TrainerControl(), logs={"train_runtime": 3.0, "train_loss": 2.5})
    (row,) = written(tmp_path / "progress.jsonl")
    assert (row["step"], row["total"], row["loss"], row["lr"], row["grad_norm"]) == (1, 10, 2.5, 1e-3, 0.5)
    assert row["tokens_per_s"] > 0
    assert row["eta_s"] >= 0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_and_is_null_in_the_file(
    progress: ModuleType, arguments: SimpleNamespace, tmp_path: Path, loss: float
) -> None:
    callback = progress.ProgressCallback(tmp_path / "progress.jsonl")
    with pytest.raises(progress.LossNotFinite, match=r"the loss is \w+ at step 3: lower training\.learning_rate"):
        callback.on_log(arguments, state(3), TrainerControl(), logs={"loss": loss, "grad_norm": float("nan")})
    (row,) = written(tmp_path / "progress.jsonl")
    assert (row["loss"], row["grad_norm"]) == (None, None)


def test_a_resumed_run_counts_time_and_tokens_from_where_it_resumed(
    progress: ModuleType, arguments: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    callback = progress.ProgressCallback(tmp_path / "progress.jsonl")
    callback.on_train_begin(arguments, state(8, tokens=8000), TrainerControl())
    clock[0] += 2
    callback.on_log(arguments, state(9, tokens=8100), TrainerControl(), logs={"loss": 1.0})
    (row,) = written(tmp_path / "progress.jsonl")
    assert (row["elapsed_s"], row["eta_s"], row["tokens_per_s"]) == (2.0, 2.0, 50.0)


def test_a_checkpoint_is_marked_when_it_is_whole(
    progress: ModuleType, arguments: SimpleNamespace, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "adapter" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    progress.CheckpointCallback().on_save(arguments, state(4), TrainerControl())
    assert (checkpoint / "complete").is_file()


def test_long_steps_are_saved_by_the_clock(
    progress: ModuleType, arguments: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    callback = progress.CheckpointCallback()
    assert not callback.on_step_end(arguments, state(1), TrainerControl()).should_save
    clock[0] += progress.CHECKPOINT_EVERY_S + 1
    assert callback.on_step_end(arguments, state(2), TrainerControl()).should_save


def test_a_signal_stops_after_the_step_with_a_checkpoint(
    progress: ModuleType, arguments: SimpleNamespace, tmp_path: Path
) -> None:
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        callback = progress.StopCallback(tmp_path / "stop")
        assert not callback.on_step_end(arguments, state(1), TrainerControl()).should_training_stop
        signal.raise_signal(signal.SIGTERM)
        control = callback.on_step_end(arguments, state(2), TrainerControl())
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert control.should_training_stop
    assert control.should_save
