"""Convert a run's PEFT adapter to GGUF with llama.cpp's own converter, in place in its sources.

Owns the order: preflight, conversion, a look at what came out, the checks in the engine. The GGUF takes its name only
when all of them passed. The preflight is `convert_preflight`, the checks are `convert_checks`.
"""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader

from gateway.base import default_cache_dir
from training.archive import CONVERTER_BUILD, ensure_llama_cpp
from training.children import last_lines, run_child
from training.convert_checks import OpenEngine, check_adapter, failed_checks, open_probe
from training.convert_preflight import check_adapter_config, preflight
from training.errors import ConvertError
from training.files import replace_file
from training.gguf_metadata import set_identity
from training.recipe import load_recipe
from training.run import Run, State

__all__ = ["CONVERTER_BUILD", "check_adapter_config", "check_gguf", "convert"]


def convert(
    run_dir: Path,
    *,
    outtype: str | None = None,
    cache_dir: Path | None = None,
    threads: int | None = None,
    open_engine: OpenEngine = open_probe,
) -> Path:
    """Convert a trained run, check the result in the engine, and return its GGUF.

    Stopped anywhere, a second call begins again; an adapter that fails a check is kept as `adapter.rejected.gguf`.

    Args:
        outtype: another type than the recipe's: f16, f32 or q8_0.
        threads: of the engine that checks; default: one for each core.

    Raises:
        ConvertError: an adapter that llama.cpp cannot run as trained, a conversion that failed, or a failed check.
        MeasureError: the engine does not start or does not answer.
    """
    run = Run.open(run_dir)
    temporary = run.gguf_path.with_suffix(".gguf.tmp")
    rejected = run.gguf_path.with_suffix(".rejected.gguf")
    with run.locked():
        _require_trained(run)
        _convert(run, temporary, outtype, cache_dir or default_cache_dir())
        try:
            check_adapter(run, temporary, threads=threads, open_engine=open_engine)
        except ConvertError:
            replace_file(temporary, rejected)
            raise
        replace_file(temporary, run.gguf_path)
        rejected.unlink(missing_ok=True)
        run.set_state(State.CONVERTED)
    return run.gguf_path


def check_gguf(path: Path, *, modules: int, alpha: float) -> None:
    """Check that a GGUF is a LoRA adapter with two tensors for each adapted module and the trained alpha.

    Raises:
        ConvertError: it is not; names both values.
    """
    reader = GGUFReader(path)
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora"), ("adapter.lora.alpha", alpha)):
        field = reader.get_field(key)
        found = None if field is None else field.contents()
        if found != expected:
            raise ConvertError(f"{path.name}: {key} is {found!r}, expected {expected!r}")
    if len(reader.tensors) != 2 * modules:
        raise ConvertError(f"{path.name}: {len(reader.tensors)} tensors for {modules} modules, expected {2 * modules}")


def _require_trained(run: Run) -> None:
    """Refuse a run without a finished adapter; one that failed its checks may be converted again."""
    finished = [State.TRAINED, State.CONVERTED, State.MEASURED, State.PUBLISHED]
    run.require(*finished, *([State.FAILED] if failed_checks(run) else []))


def _convert(run: Run, target: Path, outtype: str | None, cache_dir: Path) -> None:
    expected = preflight(run.adapter_dir)
    sources = ensure_llama_cpp(cache_dir)
    facts = run.facts()
    wanted = outtype or load_recipe(run.recipe_path).convert.outtype
    arguments = [str(run.adapter_dir), *_base_arguments(facts["training_weights"])]
    arguments += ["--outtype", wanted, "--outfile", str(target)]
    returncode, written = run_child(facts["python"], sources / "convert_lora_to_gguf.py", *arguments)
    (run.folder / "convert.log").write_text(written, encoding="utf-8")
    if returncode:
        raise ConvertError(f"{run.folder.name}: the converter failed: {last_lines(written, 5)}")
    check_gguf(target, modules=expected.modules, alpha=expected.alpha)
    set_identity(target, name=facts["expert"], base=f"{facts['base']['name']} {facts['base']['revision']}")


def _base_arguments(weights: str) -> list[str]:
    """Always name the base: the adapter's own note of it may be a path that is gone."""
    if Path(weights).is_dir():
        return ["--base", weights]
    return ["--base-model-id", weights]
