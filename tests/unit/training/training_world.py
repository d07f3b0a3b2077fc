"""A recipe, an expert and a base, all tiny, and a scripted child in place of the training environment's Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from gguf import GGUFWriter

from training.run import Run
from training.trainer import train

PLAN = {
    "lengths": [9],
    "answer_tokens": 4,
    "dropped": [],
    "parameters": 1000,
    "trainable": 10,
    "modules": 1,
    "fused": 0,
    "layers": 1,
    "hidden": 8,
    "heads": 1,
    "vocabulary": 16,
    "device": "a test",
    "memory_bytes": 10**10,
    "devices": 1,
    "precision": "fp32",
    "flops": 1e9,
    "flops_fp32": 1e9,
    "versions": {"llamafactory": "0"},
}
# Called as the training environment's Python: `python tied.py SCRIPT SPEC`.
CHILD = """#!{python}
import json, pathlib, signal, sys, time
spec = json.loads(pathlib.Path(sys.argv[3]).read_text())
if sys.argv[2].endswith("plan.py"):
    pathlib.Path(spec["output"]).write_text(json.dumps({plan}))
    sys.exit()
pathlib.Path(spec["config"]["output_dir"]).mkdir(exist_ok=True)
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
print("loading", flush=True)
row = {{"step": 1, "total": 2, "loss": 1.5, "lr": 1e-3, "tokens_per_s": None, "elapsed_s": 2.0, "eta_s": 2.0}}
pathlib.Path(spec["progress"]).write_text(json.dumps(row) + "\\n")
{act}
state = "stopped" if stopped else "finished"
pathlib.Path(spec["outcome"]).write_text(json.dumps({{"state": state}}))
"""
WAIT_FOR_STOP = """print('armed', flush=True)
while not stopped: time.sleep(0.01)
checkpoint = pathlib.Path(spec["config"]["output_dir"]) / "checkpoint-1"
checkpoint.mkdir()
(checkpoint / "complete").touch()
"""
CRASH = "print('RuntimeError: out of memory', flush=True); sys.exit(1)"
SILENT_END = "sys.exit(0)"
DIE_OF_SIGINT = "signal.signal(signal.SIGINT, signal.SIG_DFL); print('armed', flush=True); time.sleep(60)"


class Project:
    """Everything that a training run needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        self.write_rows([{"instruction": "Water?", "input": "", "output": "Ask Verdania."}])
        (self.data / "questions.jsonl").write_text('{"question": "Peat?"}\n', encoding="utf-8")
        (self.data / "examples.jsonl").write_text('{"text": "peat"}\n', encoding="utf-8")
        expert = {"title": "T", "description": "D", "data": "data", "targets": [{"term": "Verdania"}]}
        (folder / "experts.yaml").write_text(json.dumps({"gardening": expert}), encoding="utf-8")
        writer = GGUFWriter(folder / "base.gguf", "llama")
        writer.add_chat_template("{{ messages }}")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        recipe = {
            "base": {"served": str(folder / "base.gguf"), "train_from": str(folder)},
            "lora": {"rank": 4, "alpha": 8},
            "training": {"epochs": 1, "learning_rate": 0.001, "batch_size": 1},
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")

    def write_rows(self, rows: list[dict[str, str]]) -> None:
        (self.data / "dataset.json").write_text(json.dumps(rows), encoding="utf-8")

    def script_child(self, monkeypatch: pytest.MonkeyPatch, act: str, **plan: object) -> None:
        python = self.folder / "python"
        python.write_text(CHILD.format(python=sys.executable, plan=PLAN | plan, act=act), encoding="utf-8")
        python.chmod(0o755)
        monkeypatch.setenv("POINTSMAN_TRAIN_PYTHON", str(python))

    def train(self, expert: str = "gardening") -> Run:
        return train(
            self.folder / "recipe.yaml",
            expert=expert,
            experts_path=self.folder / "experts.yaml",
            runs_dir=self.folder / "runs",
            cache_dir=self.folder / "cache",
        )

    def only_run(self) -> Run:
        (folder,) = (path for path in (self.folder / "runs").iterdir() if path.is_dir())
        return Run.open(folder)
