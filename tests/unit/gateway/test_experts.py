"""Manifests: which experts may be served, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.fakes import BASE_IDENTITY, write_expert_files

from gateway.errors import ManifestError
from gateway.experts import MANIFEST_FILE, ExpertRegistry, Manifest, check_name, load_expert, scan_experts
from training.versions import write_manifest


def test_a_manifest_that_fits_its_files_and_base_is_served(tmp_path: Path) -> None:
    expert = load_expert(write_expert_files(tmp_path, "baking"), BASE_IDENTITY)
    assert (expert.name, expert.manifest.scale, expert.manifest.generation) == ("baking", 1.0, {})
    assert expert.adapter_path == tmp_path / "baking" / "adapter.gguf"
    assert expert.examples_path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["baking", "c-3po", "a", "x" * 64, "data", "tt-s"])
def test_a_slug_may_name_an_expert(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "slug"),
        ("Baking", "slug"),
        ("a_b", "slug"),
        ("a--b", "slug"),
        ("-a", "slug"),
        ("a-", "slug"),
        ("a/b", "slug"),
        ("a\n", "slug"),
        ("é", "slug"),
        ("x" * 65, "slug"),
        ("auto", "reserved"),
        ("base", "reserved"),
        ("math-adapter", "'ada'"),
        ("tts", "'tts'"),
        ("embedding-x", "'embedding'"),
        ("whisper", "'whisper'"),
        ("codex", "'codex'"),
    ],
)
def test_names_that_front_ends_misread_are_refused(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_name(name)


@pytest.mark.parametrize("file", ["adapter.gguf", "examples.jsonl"])
def test_a_wrong_hash_names_both(tmp_path: Path, file: str) -> None:
    directory = write_expert_files(tmp_path, "baking")
    expected = getattr(Manifest.load(directory / MANIFEST_FILE), file.split(".")[0]).sha256
    (directory / file).write_bytes(b"GGUF something else")
    with pytest.raises(ManifestError) as caught:
        load_expert(directory, None)
    assert file in caught.value.message
    assert expected in caught.value.message
    assert "sha256 is " in caught.value.message


@pytest.mark.parametrize("key", ["sha256", "chat_template_sha256"])
def test_a_wrong_base_names_both(tmp_path: Path, key: str) -> None:
    directory = write_expert_files(tmp_path, "baking")
    served = BASE_IDENTITY.model_copy(update={key: "d" * 64})
    with pytest.raises(ManifestError) as caught:
        load_expert(directory, served)
    assert getattr(BASE_IDENTITY, key) in caught.value.message
    assert "d" * 64 in caught.value.message
    assert load_expert(directory, None).name == "baking"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    directory = write_expert_files(tmp_path, "baking")
    (directory / "adapter.gguf").unlink()
    with pytest.raises(ManifestError, match=r"adapter\.gguf: cannot be read: No such file"):
        load_expert(directory, None)


def test_an_adapter_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a GGUF file: it starts with b'PK"):
        load_expert(write_expert_files(tmp_path, "baking", weights=b"PK\x03\x04"), None)


def test_a_directory_of_another_name_is_refused(tmp_path: Path) -> None:
    directory = write_expert_files(tmp_path, "baking").rename(tmp_path / "cooking")
    with pytest.raises(ManifestError, match="'baking', the directory 'cooking'"):
        load_expert(directory, None)


FILE = {"file": "adapter.gguf", "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"name": "auto"}, "name: .*reserved"),
        ({"name": 5}, "name: "),
        ({"version": "1.0"}, "version: .*'1.0'"),
        ({"scale": 0}, "scale: .*0"),
        ({"scale": 4.1}, "scale: .*4.1"),
        ({"targets": []}, "targets: "),
        ({"recipe_sha256": "xyz"}, "recipe_sha256: "),
        ({"adapter": {**FILE, "file": "../adapter.gguf"}}, r"adapter\.file: .*'\.\./adapter"),
        ({"adapter": {**FILE, "file": ".hidden"}}, r"adapter\.file: "),
        ({"adapter": {**FILE, "sha256": "A" * 64}}, r"adapter\.sha256: "),
        ({"base": {"name": "x"}}, r"base\.revision: "),
        ({"title": ""}, "title: "),
    ],
)
def test_a_value_that_is_not_allowed_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        load_expert(write_expert_files(tmp_path, "baking", **changes), None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name: [", "not valid YAML"),
        (b"\xff\xfe", "not valid YAML"),
        (b"- a\n- b\n", "a mapping is expected, found list"),
        (b"", "a mapping is expected, found NoneType"),
        (b"1: x\n", "manifest|1"),
        (b"name: baking\n", "title: Field required"),
    ],
)
def test_a_corrupt_manifest_is_an_error_of_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / MANIFEST_FILE
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=says) as caught:
        Manifest.load(path)
    assert str(path) in caught.value.message


def test_what_is_dumped_loads_again_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    directory = write_expert_files(tmp_path, "baking", description="Über\nalles: 'x'", generation={"temperature": 0})
    manifest = Manifest.load(directory / MANIFEST_FILE)
    write_manifest(manifest, directory / MANIFEST_FILE)
    assert Manifest.load(directory / MANIFEST_FILE) == manifest
    assert list(directory.glob("*.tmp")) == []


def test_a_scan_goes_on_with_the_others(tmp_path: Path) -> None:
    for name in ("cycling", "baking"):
        write_expert_files(tmp_path, name)
    write_expert_files(tmp_path, "broken", scale=-1)
    write_expert_files(tmp_path, "unparsable")
    (tmp_path / "unparsable" / MANIFEST_FILE).write_text("[", encoding="utf-8")
    write_expert_files(tmp_path, "unfinished")
    (tmp_path / "unfinished" / MANIFEST_FILE).unlink()
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    experts, rejected = scan_experts(tmp_path, BASE_IDENTITY)
    assert list(experts) == ["baking", "cycling"]
    assert [row.name for row in rejected] == ["broken", "unparsable"]
    assert "scale" in rejected[0].reason


def test_experts_that_are_nowhere_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        scan_experts(tmp_path / "none", None)


def test_the_repositorys_own_manifests_are_valid() -> None:
    root = Path(__file__).parents[3] / "experts"
    for path in root.glob(f"*/{MANIFEST_FILE}"):
        assert load_expert(path.parent, None).name == path.parent.name
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["name"] == path.parent.name


def test_a_disabled_expert_stays_disabled_over_a_reload(tmp_path: Path) -> None:
    for name in ("baking", "cycling"):
        write_expert_files(tmp_path, name)
    experts, _ = scan_experts(tmp_path, None)
    registry = ExpertRegistry(experts)
    registry.set_enabled("baking", False)
    registry.replace(experts, [])
    assert [registry.is_enabled(name) for name in ("baking", "cycling", "none")] == [False, True, False]
    registry.set_enabled("baking", True)
    assert registry.is_enabled("baking")
    registry.reject("baking", "it does not load")
    assert ("baking" in registry, len(registry), registry.get("baking")) == (False, 1, None)
    assert [(row.name, row.reason) for row in registry.rejected] == [("baking", "it does not load")]


@pytest.mark.parametrize(("value", "kept"), [("0.9", 0.9), ("null", None), (None, None)])
def test_an_expert_may_ask_for_a_threshold_of_its_own(tmp_path: Path, value: str | None, kept: float | None) -> None:
    directory = write_expert_files(tmp_path, "baking")
    path = directory / MANIFEST_FILE
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("threshold:")]
    path.write_text("\n".join([*lines, *([f"threshold: {value}"] if value else [])]) + "\n", encoding="utf-8")
    assert load_expert(directory, None).manifest.threshold == kept


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", "high"])
def test_a_threshold_that_no_score_can_reach_or_miss_is_refused(tmp_path: Path, value: str) -> None:
    directory = write_expert_files(tmp_path, "baking")
    path = directory / MANIFEST_FILE
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("threshold:")]
    path.write_text("\n".join([*lines, f"threshold: {value}"]) + "\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=f"threshold: .*{value}"):
        load_expert(directory, None)
