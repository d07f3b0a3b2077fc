"""The checks after a conversion: template and parity, on the run's own rows and questions, in the real engine.

Owns their order and their record, `checks.json` in the run, which publish.py asks for. Passed or not, it says which
adapter was checked, by its hash.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.experts import file_sha256
from gateway.gguf_header import read_gguf_metadata
from training.convert_engine import Generated, Probe, ProbeEngine
from training.dataset import load_questions
from training.description import QUESTIONS_FILE, ExpertDescription
from training.environment import child_environment
from training.errors import ConvertError, TrainingError
from training.files import read_json, write_json
from training.parity import DEQUANTISED, OTHER_WEIGHTS, SCALES, Bounds, Scored, compare, refuse_difference
from training.recipe import load_recipe
from training.run import Run, State
from training.template_check import EncodedRow, check_ending, check_prompt

__all__ = ["CHECKS_FILE", "OpenEngine", "check_adapter", "check_run", "failed_checks", "open_probe", "read_checks"]

CHECKS_FILE = "checks.json"
CHILD_SCRIPTS = Path(__file__).parent / "child"
ROWS = 8
QUESTIONS = 8
ANSWER_TOKENS = 48
# Ends of a turn that llama.cpp knows by their text, whatever the GGUF's metadata says.
END_TEXTS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "</s>", "<turn|>")
END_KEYS = ("eos", "eot", "eom")
OpenEngine = Callable[[Path, Path, int | None], AbstractContextManager[Probe]]


def open_probe(model: Path, adapter: Path, threads: int | None) -> AbstractContextManager[Probe]:
    """Open the real engine."""
    return ProbeEngine(model, (adapter,), threads=threads)


def check_run(run_dir: Path, *, threads: int | None = None) -> dict[str, Any]:
    """Check a converted run's adapter, record the outcome and return it.

    Raises:
        ConvertError: a check failed; the run is marked as failed.
    """
    run = Run.open(run_dir)
    run.require(State.CONVERTED, State.MEASURED, State.PUBLISHED, *([State.FAILED] if failed_checks(run) else []))
    if not run.gguf_path.is_file():
        raise ConvertError(f"{run.folder}: there is no {run.gguf_path.name} to check: convert it first")
    checks = check_adapter(run, run.gguf_path, threads=threads)
    if run.state() is State.FAILED:
        run.set_state(State.CONVERTED)
    return checks


def check_adapter(
    run: Run, adapter: Path, *, threads: int | None = None, open_engine: OpenEngine = open_probe
) -> dict[str, Any]:
    """Check one GGUF against the run's trained adapter and its rows; see `check_run`.

    A child or an engine that fails says nothing of the adapter: nothing is recorded then.
    """
    record: dict[str, Any] = {"adapter_sha256": file_sha256(adapter), "passed": False, "message": ""}
    served = _served_gguf(run)
    encoded = _encode(run)
    description = ExpertDescription.model_validate(run.facts()["description"])
    try:
        with open_engine(served, adapter, threads) as engine:
            record["template"] = _check_template(engine, encoded, description.system_prompt, _end_ids(served))
            prompts = [engine.prompt_tokens(each) for each in _conversations(run, description.system_prompt)]
            generated = [engine.generate(each, scale=1, max_tokens=ANSWER_TOKENS) for each in prompts]
        parity = compare(generated, _score(run, prompts, generated))
        bounds = _bounds(run)
        record["parity"] = parity.results() | {"bounds": asdict(bounds)}
        refuse_difference(parity, bounds)
    except ConvertError as error:
        write_json(run.folder / CHECKS_FILE, record | {"message": str(error)})
        run.set_state(State.FAILED, str(error))
        raise
    record["passed"] = True
    write_json(run.folder / CHECKS_FILE, record)
    return record


def read_checks(run: Run) -> dict[str, Any] | None:
    """Return the recorded outcome, None if the run was never checked."""
    path = run.folder / CHECKS_FILE
    checks: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return checks


def failed_checks(run: Run) -> bool:
    """Tell whether the run failed at its checks, not before them."""
    checks = read_checks(run)
    return run.state() is State.FAILED and checks is not None and not checks["passed"]


def _check_template(
    engine: Probe, encoded: dict[str, Any], system_prompt: str | None, end_ids: frozenset[int]
) -> dict[str, Any]:
    rows = [EncodedRow(**row) for row in encoded["rows"]]
    if not rows:
        raise ConvertError("template: no row could be compared: all are dropped by LlamaFactory, or use tools or media")
    texts = [engine.tokenize(text) for text in END_TEXTS]
    ends = end_ids | {tokens[0] for tokens in texts if len(tokens) == 1}
    compared = 0
    _check_endpoint(engine, rows[0].conversation(system_prompt))
    for row in rows:
        served = engine.prompt_tokens(row.conversation(system_prompt))
        check_prompt(row, served, engine.text)
        check_ending(row, len(served), ends, engine.text)
        compared += len(served)
    return {
        "rows": len(rows),
        "tokens": compared,
        "rows_cut": len(encoded["cut"]),
        "rows_dropped": len(encoded["dropped"]),
    }


def _check_endpoint(engine: Probe, messages: list[dict[str, str]]) -> None:
    """Make sure that what is compared is what the chat endpoint computes."""
    made, counted = len(engine.prompt_tokens(messages)), engine.counted_prompt_tokens(messages)
    if made != counted:
        raise ConvertError(f"template: /apply-template makes {made} tokens of a prompt, the chat endpoint {counted}")


def _end_ids(gguf: Path) -> frozenset[int]:
    """Return the tokens that the GGUF itself names as the end of a turn."""
    metadata = read_gguf_metadata(gguf)
    found = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in END_KEYS]
    return frozenset(value for value in found if isinstance(value, int))


def _conversations(run: Run, system_prompt: str | None) -> list[list[dict[str, str]]]:
    """Pick questions from all over the run's own."""
    questions = load_questions(run.folder / QUESTIONS_FILE)
    chosen = questions[:: max(1, len(questions) // QUESTIONS)][:QUESTIONS]
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [[*system, {"role": "user", "content": question}] for question in chosen]


def _served_gguf(run: Run) -> Path:
    facts = run.facts()
    path = Path(facts["served_gguf"])
    if not path.is_file():
        raise ConvertError(f"the base that the run was trained for is gone: {path}")
    found = file_sha256(path)
    if found != facts["base"]["sha256"]:
        raise ConvertError(
            f"{path.name} is another base now: its sha256 is {found}, the run was trained for {facts['base']['sha256']}"
        )
    return path


def _bounds(run: Run) -> Bounds:
    return DEQUANTISED if load_recipe(run.recipe_path).base.train_from == "gguf" else OTHER_WEIGHTS


def _encode(run: Run) -> dict[str, Any]:
    encoded: dict[str, Any] = _child(run, "encode.py", {"config": read_json(run.config_path), "rows": ROWS})
    return encoded


def _score(run: Run, prompts: Sequence[Sequence[int]], generated: Sequence[Generated]) -> dict[float, list[Scored]]:
    spec = {
        "weights": run.facts()["training_weights"],
        "adapter": str(run.adapter_dir),
        "sequences": [
            {"prompt": list(prompt), "answer": list(answer.tokens)}
            for prompt, answer in zip(prompts, generated, strict=True)
        ],
        "scales": list(SCALES),
    }
    scores = _child(run, "score.py", spec)["scores"]
    return {
        scale: [Scored(tuple(answer["logprobs"]), tuple(answer["top"])) for answer in scores[str(scale)]]
        for scale in SCALES
    }


def _child(run: Run, script: str, spec: dict[str, Any]) -> Any:
    """Run a script in the training environment and return what it wrote.

    Raises:
        TrainingError: it failed; carries its last line.
    """
    with tempfile.TemporaryDirectory(prefix="pointsman-check-") as folder:
        spec_path, output = Path(folder) / "spec.json", Path(folder) / "output.json"
        write_json(spec_path, spec | {"output": str(output)})
        command = [run.facts()["python"], str(CHILD_SCRIPTS / script), str(spec_path)]
        child = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
        with (run.folder / "convert.log").open("a", encoding="utf-8") as log:
            log.write(child.stdout + child.stderr)
        if child.returncode or not output.is_file():
            tail = " | ".join((child.stdout + child.stderr).splitlines()[-3:])
            raise TrainingError(f"{run.folder.name}: {script} failed (exit code {child.returncode}): {tail}")
        return read_json(output)
