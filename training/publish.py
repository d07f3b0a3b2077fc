"""Publish a measured run: its files go to `experts/<name>/`, the manifest last.

Owns the order of the steps, so that a reader never sees half an expert, and keeps the version before.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import ValidationError

from gateway.experts import ADAPTER_FILE, MANIFEST_FILE, FileHash, Manifest, file_sha256
from training.archive import CONVERTER_BUILD
from training.card import render_card
from training.dataset import load_rows
from training.description import EXAMPLES_FILE, QUESTIONS_FILE, ROWS_FILE, ExpertDescription
from training.errors import PublishError
from training.files import read_json, replace_file, write_text
from training.run import Run, State
from training.yaml_file import read_yaml

__all__ = ["publish"]

PREVIOUS_DIR = ".previous"
CARD_FILE = "CARD.md"


def publish(run_dir: Path, *, experts_dir: Path, minimum_hit_rate: float = 0.9) -> Manifest:
    """Publish a measured run and return its manifest.

    The order: new files are copied beside the old ones, the old version is set aside, the old manifest is removed,
    the new files take their names, the new manifest is written. Stopped anywhere, a second call finishes it.

    Raises:
        PublishError: the run misses `minimum_hit_rate`, or its files changed since it was measured.
    """
    run = Run.open(run_dir)
    run.require(State.MEASURED, State.PUBLISHED)
    manifest = _manifest(run)
    hit_rate = manifest.results["expert"]["hit_rate"]
    if hit_rate < minimum_hit_rate:
        raise PublishError(f"{manifest.name}: hit rate {hit_rate:.1%} is below the minimum {minimum_hit_rate:.1%}")
    folder = experts_dir / manifest.name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = read_yaml(run.recipe_path)
    card = render_card(manifest, recipe, len(load_rows(run.folder / ROWS_FILE)))
    sources = {ADAPTER_FILE: run.gguf_path, **_data_files(run)}
    staged = {name: _stage(source, folder / name) for name, source in sources.items()}
    _keep_previous(folder)
    for name, temporary in staged.items():
        replace_file(temporary, folder / name)
    write_text(folder / CARD_FILE, card)
    _dump(manifest, folder / MANIFEST_FILE)
    run.set_state(State.PUBLISHED, str(folder))
    return manifest


def _manifest(run: Run) -> Manifest:
    facts, measurement = run.facts(), read_json(run.measurement_path)
    adapter_sha256 = file_sha256(run.gguf_path)
    if measurement["adapter_sha256"] != adapter_sha256:
        raise PublishError(f"{run.folder.name}: adapter.gguf is not the one that was measured: measure it again")
    description = ExpertDescription.model_validate(facts["description"])
    keys = {ROWS_FILE: "dataset", EXAMPLES_FILE: "examples", QUESTIONS_FILE: "questions"}
    data = _data_files(run)
    hashes = {keys[name]: FileHash(file=name, sha256=file_sha256(path)) for name, path in data.items()}
    try:
        return Manifest.model_validate(
            {
                "name": facts["expert"],
                "title": description.title,
                "description": description.description,
                "version": description.version,
                "created": datetime.now(UTC).replace(microsecond=0),
                "adapter": FileHash(file=ADAPTER_FILE, sha256=adapter_sha256),
                **hashes,
                "base": facts["base"],
                "scale": description.scale,
                "system_prompt": description.system_prompt,
                "generation": description.generation,
                "targets": description.targets,
                "recipe_sha256": facts["recipe_sha256"],
                "converter": CONVERTER_BUILD,
                "results": measurement["results"],
            }
        )
    except ValidationError as error:
        raise PublishError(f"{run.folder.name}: its manifest is not valid: {error.errors()[0]}") from error


def _data_files(run: Run) -> dict[str, Path]:
    """Where each data file comes from: trained and measured ones from the run, routing examples as they are now.

    Raises:
        PublishError: the rows or the questions were edited since; publishing would overwrite the edit.
    """
    data = ExpertDescription.model_validate(run.facts()["description"]).data
    for name, step in ((ROWS_FILE, "train"), (QUESTIONS_FILE, "measure")):
        if (data / name).is_file() and file_sha256(data / name) != file_sha256(run.folder / name):
            raise PublishError(f"{data / name} was edited since {run.folder.name} used it: {step} again")
    examples = data / EXAMPLES_FILE
    return {
        ROWS_FILE: run.folder / ROWS_FILE,
        QUESTIONS_FILE: run.folder / QUESTIONS_FILE,
        EXAMPLES_FILE: examples if examples.is_file() else run.folder / EXAMPLES_FILE,
    }


def _stage(source: Path, target: Path) -> Path:
    """Copy a file beside its final place, under a temporary name."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, temporary)
    return temporary


def _keep_previous(folder: Path) -> None:
    """Set the published version aside; its manifest goes first, so that nobody reads a half-changed folder."""
    manifest_path = folder / MANIFEST_FILE
    if not manifest_path.is_file():
        return
    kept = folder / PREVIOUS_DIR
    temporary = folder / f"{PREVIOUS_DIR}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, temporary / path.name)
    shutil.rmtree(kept, ignore_errors=True)
    temporary.replace(kept)
    manifest_path.unlink()


def _dump(manifest: Manifest, path: Path) -> None:
    text = yaml.safe_dump(manifest.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write_text(path, text)
