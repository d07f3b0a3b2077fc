"""Conversion and its checks around a scripted training environment and a scripted engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from gguf import GGUFWriter

from gateway.experts import file_sha256
from training.archive import VERSION
from training.convert import convert
from training.convert_checks import check_adapter, read_checks
from training.convert_engine import Generated, Message
from training.errors import ConvertError, PublishError, TrainingError
from training.files import read_json, write_json
from training.publish import publish
from training.run import Run, State

# Plays the training environment's Python: the converter, LlamaFactory's encoding and PEFT's scores.
CHILD = """#!{python}
import json, pathlib, sys
script, arguments = pathlib.Path(sys.argv[2]).name, sys.argv[3:]
if script == "convert_lora_to_gguf.py":
    print(" ".join(arguments))
    from gguf import GGUFWriter
    import numpy
    writer = GGUFWriter(arguments[arguments.index("--outfile") + 1], "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16)
    for name in ("a", "b"):
        writer.add_tensor(name, numpy.zeros((2, 2), dtype=numpy.float32))
    writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
    sys.exit()
spec = json.loads(pathlib.Path(arguments[0]).read_text())
if script == {fails!r}:
    print("RuntimeError: out of memory")
    sys.exit(1)
if script == "encode.py":
    messages = [{{"role": "user", "content": "Peat?"}}]
    row = {{"row": 3, "system": None, "messages": messages, "answer": "no", "tokens": {tokens}}}
    result = {{"rows": [row], "total": 1, "cut": [], "dropped": []}}
if script == "score.py":
    result = {{"scores": {{}}}}
    for scale in spec["scales"]:
        answers = [sequence["answer"] for sequence in spec["sequences"]]
        scored = [{{"logprobs": [-0.5 - abs(scale - 1)] * len(answer), "top": answer}} for answer in answers]
        result["scores"][str(scale)] = scored
pathlib.Path(spec["output"]).write_text(json.dumps(result))
"""
PROMPT, ANSWER, STOP = [1, 2, 3], [7, 8], 9


class ScriptedEngine:
    """Makes three tokens of any conversation and two of any answer, with one log-probability for each."""

    def __init__(self, logprob: float = -0.5, counted: int = 3) -> None:
        self.logprob = logprob
        self.counted = counted
        self.adapters: list[Path] = []

    @contextmanager
    def open(self, model: Path, adapter: Path, threads: int | None) -> Iterator[ScriptedEngine]:
        self.adapters.append(adapter)
        yield self

    def prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        return PROMPT

    def counted_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return self.counted

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        return [STOP] if text == "<|im_end|>" else [4, 5]

    def text(self, tokens: Sequence[int]) -> str:
        return "".join({7: "n", 8: "o"}.get(token, f"[{token}]") for token in tokens)

    def generate(self, prompt: Sequence[int], *, scale: float, max_tokens: int) -> Generated:
        assert scale == 1
        return Generated(tuple(ANSWER), (self.logprob,) * len(ANSWER))


class Converted:
    """A trained run and what plays the rest of the world."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run = run
        self.cache = folder / "cache"
        self.python = folder / "python"
        self.script()
        sources = self.cache / "llama.cpp" / VERSION
        sources.mkdir(parents=True)
        (sources / "complete").touch()
        base = folder / "base.gguf"
        writer = GGUFWriter(base, "llama")
        writer.add_eos_token_id(STOP)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        facts = run.facts()
        identity = facts["base"] | {"sha256": file_sha256(base)}
        paths = {"served_gguf": str(base), "training_weights": str(folder), "python": str(self.python)}
        run.write_facts(facts | paths | {"base": identity})
        write_json(run.config_path, {"cutoff_len": 64})
        (run.folder / "checks.json").unlink()
        run.gguf_path.unlink()
        run.adapter_dir.mkdir()
        write_json(run.adapter_dir / "adapter_config.json", {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]})
        shapes = {"q_proj.lora_A.weight": {"shape": [8, 4]}, "q_proj.lora_B.weight": {"shape": [4, 8]}}
        header = json.dumps(shapes).encode()
        tensors = run.adapter_dir / "adapter_model.safetensors"
        tensors.write_bytes(len(header).to_bytes(8, "little") + header)
        run.set_state(State.TRAINED)

    def script(self, *, tokens: Sequence[int] = (*PROMPT, *ANSWER, STOP), fails: str = "") -> None:
        text = CHILD.format(python=sys.executable, tokens=list(tokens), fails=fails)
        self.python.write_text(text, encoding="utf-8")
        self.python.chmod(0o755)

    def convert(self, engine: ScriptedEngine) -> Path:
        return convert(self.run.folder, cache_dir=self.cache, open_engine=engine.open)


@pytest.fixture
def converted(measured_run: Run, tmp_path: Path) -> Converted:
    return Converted(measured_run, tmp_path)


def test_a_faithful_conversion_is_recorded_with_its_figures(converted: Converted) -> None:
    gguf = converted.convert(ScriptedEngine())
    checks = read_checks(converted.run)
    assert checks is not None
    assert converted.run.state() is State.CONVERTED
    assert checks["passed"]
    assert checks["adapter_sha256"] == file_sha256(gguf)
    assert checks["parity"]["mean_difference"] == 0
    assert checks["parity"]["differences"] == {"0": 1.0, "0.5": 0.5, "1": 0.0, "2": 1.0}
    assert checks["template"] == {"rows": 1, "tokens": 3, "rows_cut": 0, "rows_dropped": 0}


def refused(converted: Converted, engine: ScriptedEngine, message: str) -> None:
    """Convert, see it refused, and see that nothing can be published."""
    run = converted.run
    with pytest.raises(ConvertError, match=message):
        converted.convert(engine)
    assert run.state() is State.FAILED
    assert not run.gguf_path.exists()
    assert (run.folder / "adapter.rejected.gguf").is_file()
    checks = read_checks(run)
    assert checks is not None
    assert not checks["passed"]
    with pytest.raises(TrainingError, match="the run is failed"):
        publish(run.folder, experts_dir=run.folder / "experts")
    converted.script()
    converted.convert(ScriptedEngine())
    assert run.state() is State.CONVERTED
    assert not (run.folder / "adapter.rejected.gguf").exists()


def test_an_engine_that_says_something_else_stops_the_run_until_it_is_converted_again(converted: Converted) -> None:
    refused(converted, ScriptedEngine(logprob=-1.5), r"parity: .* differ by 1\.000 nats")


def test_another_prompt_than_was_trained_on_stops_the_run(converted: Converted) -> None:
    converted.script(tokens=[1, 6, 3, *ANSWER, STOP])
    message = r"row 3: token 1 of the prompt differs: trained on '\[6\]' \(6\).* makes '\[2\]' \(2\)"
    refused(converted, ScriptedEngine(), message)


def test_an_answer_without_its_end_stops_the_run(converted: Converted) -> None:
    converted.script(tokens=[*PROMPT, *ANSWER])
    refused(converted, ScriptedEngine(), "does not end with a token that ends the engine's turn")


def test_a_chat_endpoint_that_counts_other_tokens_stops_the_run(converted: Converted) -> None:
    refused(converted, ScriptedEngine(counted=4), "/apply-template makes 3 tokens of a prompt, the chat endpoint 4")


@pytest.mark.parametrize("script", ["encode.py", "score.py"])
def test_a_check_that_could_not_be_made_says_nothing_of_the_adapter(converted: Converted, script: str) -> None:
    converted.script(fails=script)
    with pytest.raises(TrainingError, match=rf"{script} failed \(exit code 1\): RuntimeError: out of memory"):
        converted.convert(ScriptedEngine())
    assert converted.run.state() is State.TRAINED
    assert read_checks(converted.run) is None
    assert not converted.run.gguf_path.exists()


def test_a_base_that_changed_since_training_is_refused(converted: Converted) -> None:
    base = Path(converted.run.facts()["served_gguf"])
    base.write_bytes(base.read_bytes() + b"x")
    with pytest.raises(ConvertError, match=r"base\.gguf is another base now"):
        converted.convert(ScriptedEngine())


def test_an_adapter_that_cannot_be_converted_is_refused_before_anything_runs(converted: Converted) -> None:
    path = converted.run.adapter_dir / "adapter_config.json"
    write_json(path, read_json(path) | {"use_rslora": True})
    engine = ScriptedEngine()
    with pytest.raises(ConvertError, match="use_rslora is True"):
        converted.convert(engine)
    assert engine.adapters == []
    assert not (converted.run.folder / "convert.log").exists()


@pytest.mark.parametrize("state", [State.FAILED, State.STOPPED, State.TRAINING])
def test_a_failed_training_run_is_not_converted(converted: Converted, state: State) -> None:
    """A stopped one has an adapter that looks whole."""
    converted.run.set_state(state)
    with pytest.raises(TrainingError, match=f"the run is {state.value}"):
        converted.convert(ScriptedEngine())


def test_the_converter_is_told_its_base(converted: Converted) -> None:
    """Left alone it asks a hub for what the adapter's own note names."""
    converted.convert(ScriptedEngine())
    weights = converted.run.facts()["training_weights"]
    assert f"--base {weights} " in (converted.run.folder / "convert.log").read_text(encoding="utf-8")


def test_the_figures_reach_the_manifest(measured_run: Run, tmp_path: Path) -> None:
    manifest = publish(measured_run.folder, experts_dir=tmp_path / "experts")
    assert manifest.results["parity"] == {
        "tokens": 384,
        "mean_difference": 0.04,
        "top1_agreement": 0.97,
        "template_rows": 8,
    }


CHANGED_CHECKS = [
    ({"passed": False, "message": "parity: too far"}, "failed a check after its conversion: parity: too far"),
    ({"adapter_sha256": "0" * 64}, "adapter.gguf is not the one that was checked"),
]


@pytest.mark.parametrize(("change", "message"), CHANGED_CHECKS)
def test_without_passed_checks_of_this_adapter_nothing_is_published(
    measured_run: Run, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = measured_run.folder / "checks.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(PublishError, match=message):
        publish(measured_run.folder, experts_dir=tmp_path / "experts")
    assert not (tmp_path / "experts").exists()


def test_a_run_that_was_never_checked_is_not_published(measured_run: Run, tmp_path: Path) -> None:
    (measured_run.folder / "checks.json").unlink()
    with pytest.raises(PublishError, match="never checked"):
        publish(measured_run.folder, experts_dir=tmp_path / "experts")


def test_an_existing_adapter_can_be_checked_without_converting_it(converted: Converted) -> None:
    gguf = converted.convert(ScriptedEngine())
    (converted.run.folder / "checks.json").unlink()
    checks = check_adapter(converted.run, gguf, open_engine=ScriptedEngine().open)
    assert checks == read_checks(converted.run)
