"""The whole training path for real, on a base that trains in seconds: somebody's data becomes a served expert.

The command is killed in the middle of its steps, and run again each time; nothing may be lost, nothing half-made seen.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from openai import OpenAI
from processes import ROOT, GatewayProcess, eventually
from safetensors.numpy import load_file
from tiny_base import write_tiny_base

from gateway.base import default_cache_dir
from training.convert import convert
from training.environment import find_environment
from training.errors import SetupError
from training.files import read_json, write_json
from training.follow import read_progress
from training.run import Run, State
from training.trainer import train_in_child

pytestmark = [pytest.mark.training, pytest.mark.integration, pytest.mark.timeout(1200)]

STEPS = 150
RECIPE = """
base: {{served: {base}}}
lora: {{rank: 8, alpha: 32}}
training: {{epochs: 100, max_steps: {steps}, learning_rate: 3e-3, batch_size: 2, cutoff_tokens: 128,
           device: cpu, precision: fp32, gradient_checkpointing: false}}
convert: {{outtype: f32}}
"""
PLANTS = "basil leeks roses kale mint figs pears plums thyme beans peas maize lilac oaks elms ferns moss ivy vines hops"
LIMIT_S = 400


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, base_gguf: Path) -> Path:
    try:
        find_environment(default_cache_dir())
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny.gguf", base_gguf)


class Project:
    """A stranger's folder: a recipe and an Alpaca file; the commands are run in it."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        (folder / "recipe.yaml").write_text(RECIPE.format(base=base, steps=STEPS), encoding="utf-8")
        rows = [
            {"instruction": f"How do I {verb} {plant}?", "input": "", "output": f"Ask Verdania how to {verb} {plant}."}
            for verb, plant in zip(["grow", "prune", "water", "plant"] * 5, PLANTS.split(), strict=True)
        ]
        (folder / "tea.json").write_text(json.dumps(rows), encoding="utf-8")
        (folder / "asked.jsonl").write_text('{"question": "How do I water sage?"}\n', encoding="utf-8")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        places = ["--experts-file", "experts.yaml", "--gateway", "http://127.0.0.1:9"]
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "gateway", *words, *places],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def run(self, *words: str) -> None:
        assert self.start(*words).wait(LIMIT_S) == 0, self.output

    def pipeline(self) -> tuple[str, ...]:
        return ("pipeline", "recipe.yaml", "--expert", "tea", "--minimum-hit-rate", "0", "--threads", "1")

    def kill_when(self, reached: Callable[[], bool], what: str) -> None:
        """Run the pipeline and kill it at a point; its children must end with it, and nothing must be published."""
        process = self.start(*self.pipeline())
        try:
            eventually(lambda: reached() or process.poll() is not None, LIMIT_S, what, every_s=0.02)
            assert process.poll() is None, f"it ended before {what}:\n{self.output}"
            children = descendants(process.pid)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        eventually(lambda: not any(map(is_running, children)), 60, f"the end of {children} after a kill while {what}")
        assert not (self.folder / "experts" / "tea" / "expert.yaml").exists()

    def stop_when_a_step_is_done(self) -> None:
        """Interrupt the pipeline as a Ctrl-C does: the step in progress is finished and saved."""
        before = self.last_step()
        process = self.start(*self.pipeline())
        eventually(lambda: self.last_step() > before or process.poll() is not None, LIMIT_S, "a step", every_s=0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 2
        run = self.only_run()
        assert run is not None
        assert run.state() is State.STOPPED, self.output
        assert f"checkpoint-{self.last_step()} was saved" in self.output
        assert (run.adapter_dir / f"checkpoint-{self.last_step()}" / "complete").is_file()

    def last_step(self) -> int:
        run = self.only_run()
        rows = read_progress(run.progress_path)[0] if run else []
        return rows[-1]["step"] if rows else 0

    def only_run(self) -> Run | None:
        runs = list((self.folder / "runs").glob("tea-*"))
        assert len(runs) <= 1, "a resumed pipeline began another run"
        return Run(runs[0]) if runs else None

    def is_in(self, state: State) -> bool:
        run = self.only_run()
        return run is not None and run.status_path.is_file() and run.state() is state

    def has_checkpoint(self) -> bool:
        run = self.only_run()
        return run is not None and any(run.adapter_dir.glob("checkpoint-*/complete"))

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-4000:]


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and theirs."""
    stats = [path.read_text(encoding="ascii", errors="replace") for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {int(stat.split()[0]): int(stat.rpartition(")")[2].split()[1]) for stat in stats}
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [each for child in found for each in descendants(child)]


def is_running(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def has_child(project: Project, script: str) -> bool:
    """Tell whether a child of ours runs a script, by its command line."""
    lines = [path for path in Path("/proc").glob("[0-9]*/cmdline") if script.encode() in safe_read(path)]
    return any(str(project.folder).encode() in safe_read(path) or script == "plan.py" for path in lines)


def safe_read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_killed_in_every_step_a_strangers_data_still_becomes_a_served_expert(
    tmp_path: Path, base: Path, make_gateway: Callable[..., GatewayProcess]
) -> None:
    project = Project(tmp_path, base)
    project.run("new", "tea", "--data", "tea.json", "--target", "Verdania", "--questions", "asked.jsonl")
    project.kill_when(lambda: has_child(project, "plan.py"), "planning")
    assert project.only_run() is None
    project.kill_when(project.has_checkpoint, "training")
    project.stop_when_a_step_is_done()
    project.kill_when(lambda: project.is_in(State.TRAINED), "converting")
    project.kill_when(lambda: project.is_in(State.CONVERTED), "measuring")
    project.run(*project.pipeline())

    run = project.only_run()
    assert run is not None
    assert run.state() is State.PUBLISHED
    progress = [json.loads(line) for line in run.progress_path.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in progress] == list(range(1, STEPS + 1))
    assert all(row["loss"] > 0 and row["lr"] >= 0 and row["grad_norm"] > 0 and row["eta_s"] >= 0 for row in progress)
    assert run.loss_plot_path.read_bytes()[:4] == b"\x89PNG"
    plan = run.facts()["plan"]
    adapter = load_file(run.adapter_dir / "adapter_model.safetensors")
    assert plan["steps"] == STEPS
    assert plan["trainable"] == sum(value.size for value in adapter.values())
    assert tensor_types(run) == {"F32"}
    reference = train_without_a_break(run, tmp_path)
    assert_same_weights(run, reference)
    convert(reference.folder, outtype="q8_0", threads=1)
    assert tensor_types(reference) == {"Q8_0", "F16"}, "rows of 8, the rank, do not fill a block of 32"

    engine = {"base": str(base), "threads": 1, "ctx_per_slot": 512, "slots": 1}
    with make_gateway(engine=engine, experts={"dir": str(tmp_path / "experts")}) as gateway:
        client = OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)
        messages = [{"role": "user", "content": "How do I plant kale?"}]
        answer = client.chat.completions.create(model="tea", messages=messages, max_tokens=8)  # type: ignore[arg-type]
        assert answer.model == "tea"


def tensor_types(run: Run) -> set[str]:
    return {tensor.tensor_type.name for tensor in GGUFReader(run.gguf_path).tensors}


def train_without_a_break(run: Run, folder: Path) -> Run:
    """Train a copy of the run from its beginning."""
    copy = Run(folder / "reference")
    shutil.copytree(run.folder, copy.folder)
    shutil.rmtree(copy.adapter_dir)
    copy.outcome_path.unlink()
    config = json.dumps(read_json(run.config_path)).replace(str(run.folder), str(copy.folder))
    write_json(copy.config_path, json.loads(config))
    train_in_child(copy)
    return copy


def assert_same_weights(killed: Run, whole: Run) -> None:
    found, expected = (load_file(each.adapter_dir / "adapter_model.safetensors") for each in (killed, whole))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
