"""Publish a measured run: its files go to `experts/<name>/`, the manifest last.

Owns what a manifest says and when an expert is fit to be published; the changes on disk are `versions`'.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.experts import ADAPTER_FILE, MANIFEST_FILE, FileHash, Manifest, file_sha256
from training.archive import CONVERTER_BUILD
from training.card import CARD_FILE, render_card
from training.convert_checks import read_checks
from training.dataset import load_rows
from training.description import ANCHORS_FILE, EXAMPLES_FILE, QUESTIONS_FILE, ROWS_FILE, ExpertDescription
from training.errors import PublishError
from training.files import read_json, replace_file, write_text
from training.run import Run, State
from training.versions import (
    INCOMING_DIR,
    PREVIOUS_DIR,
    abandon_incoming,
    is_intact,
    keep_data,
    keep_previous,
    next_version,
    read_manifest,
    stage,
    version_numbers,
    write_manifest,
)
from training.yaml_file import read_yaml

__all__ = ["MINIMUM_HIT_RATE", "publish"]

MINIMUM_HIT_RATE = 0.9


def publish(run_dir: Path, *, experts_dir: Path, minimum_hit_rate: float = MINIMUM_HIT_RATE) -> Manifest:
    """Publish a measured run and return its manifest; what is published already is left as it is.

    The order: new files are copied beside the old ones, the old version is set aside, the old manifest is removed,
    the new files take their names, the new manifest is written. Stopped anywhere, a second call finishes it.

    The version is the one that the expert's description asks for, or, when that was published or overtaken, the next
    patch after the published one.

    Raises:
        PublishError: the run misses `minimum_hit_rate`, it did not pass the checks after its conversion, or its files
            changed since.
    """
    run = Run.open(run_dir)
    with run.locked():
        run.require(State.MEASURED, State.PUBLISHED)
        manifest = _manifest(run)
        hit_rate = manifest.results["expert"]["hit_rate"]
        if hit_rate < minimum_hit_rate:
            raise PublishError(f"{manifest.name}: hit rate {hit_rate:.1%} is below the minimum {minimum_hit_rate:.1%}")
        folder = experts_dir / manifest.name
        folder.mkdir(parents=True, exist_ok=True)
        published = read_manifest(folder / MANIFEST_FILE)
        if published is not None and _same(published, manifest) and is_intact(folder, published):
            manifest = published
        else:
            kept = [read_manifest(folder / kept / MANIFEST_FILE) for kept in (PREVIOUS_DIR, INCOMING_DIR)]
            version = next_version(manifest.version, [each.version for each in (published, *kept) if each])
            manifest = manifest.model_copy(update={"version": version})
            _replace_version(run, manifest, folder)
        run.set_state(State.PUBLISHED, str(folder))
    return manifest


def _same(published: Manifest, manifest: Manifest) -> bool:
    """Tell whether publishing would change nothing but date and version."""
    ignored = {"created", "version"}
    overtaken = version_numbers(published.version) >= version_numbers(manifest.version)
    return overtaken and published.model_dump(exclude=ignored) == manifest.model_dump(exclude=ignored)


def _replace_version(run: Run, manifest: Manifest, folder: Path) -> None:
    abandon_incoming(folder)
    recipe = read_yaml(run.recipe_path)
    anchors = run.folder / ANCHORS_FILE
    counts = (len(load_rows(run.folder / ROWS_FILE)), len(load_rows(anchors)) if anchors.is_file() else 0)
    card = render_card(manifest, recipe, *counts)
    sources = {ADAPTER_FILE: run.gguf_path, **_data_files(run)}
    staged = {name: stage(source, folder / name) for name, source in sources.items()}
    keep_previous(folder)
    for name, temporary in staged.items():
        replace_file(temporary, folder / name)
    write_text(folder / CARD_FILE, card)
    keep_data(folder)
    write_manifest(manifest, folder / MANIFEST_FILE)


def _checked(run: Run, adapter_sha256: str) -> dict[str, Any]:
    """Return what the manifest says of the checks after the conversion.

    Raises:
        PublishError: they were not made, not passed, or made on another adapter.
    """
    name, checks = run.folder.name, read_checks(run)
    if checks is None:
        raise PublishError(f"{name}: adapter.gguf was never checked against the trained adapter: check it")
    if not checks["passed"]:
        raise PublishError(f"{name}: it failed a check after its conversion: {checks['message']}")
    if checks["adapter_sha256"] != adapter_sha256:
        raise PublishError(f"{name}: adapter.gguf is not the one that was checked: check it again")
    return {**checks["parity"], "template_rows": checks["template"]["rows"]}


def _manifest(run: Run) -> Manifest:
    facts, measurement = run.facts(), read_json(run.measurement_path)
    adapter_sha256 = file_sha256(run.gguf_path)
    if measurement["adapter_sha256"] != adapter_sha256:
        raise PublishError(f"{run.folder.name}: adapter.gguf is not the one that was measured: measure it again")
    parity = _checked(run, adapter_sha256)
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
                "anchors_sha256": facts.get("anchors_sha256"),
                "converter": CONVERTER_BUILD,
                "results": {**measurement["results"], "parity": parity},
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
