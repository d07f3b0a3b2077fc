"""Rollback: the version before comes back whole, the manifest last, wherever it is stopped."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.experts import Manifest, load_expert, scan_experts
from training.errors import PublishError
from training.publish import publish
from training.rollback import rollback
from training.run import Run


@pytest.fixture
def experts(tmp_path: Path, measured_run: Run, make_run: Callable[..., Run]) -> Path:
    """An expert in its second version, 1.1.0 after 1.0.0."""
    folder = tmp_path / "experts"
    publish(measured_run.folder, experts_dir=folder)
    publish(make_run(adapter=b"GGUF two", version="1.1.0").folder, experts_dir=folder)
    return folder


def version(experts: Path) -> tuple[str, bytes, str]:
    """What is served, its adapter, and what is kept."""
    folder = experts / "gardening"
    kept = Manifest.load(folder / ".previous" / "expert.yaml").version
    return load_expert(folder, None).manifest.version, (folder / "adapter.gguf").read_bytes(), kept


def test_the_version_before_comes_back_and_the_present_one_is_kept(experts: Path) -> None:
    assert rollback("gardening", experts).version == "1.0.0"
    assert version(experts) == ("1.0.0", b"GGUF one", "1.1.0")
    assert "# Gardening 1.0.0" in (experts / "gardening" / "CARD.md").read_text(encoding="utf-8")


def test_twice_is_back_again(experts: Path) -> None:
    rollback("gardening", experts)
    assert rollback("gardening", experts).version == "1.1.0"
    assert version(experts) == ("1.1.0", b"GGUF two", "1.0.0")


def test_nothing_is_left_lying_about(experts: Path) -> None:
    before = sorted(path.name for path in (experts / "gardening").iterdir())
    (experts / "gardening" / "extra.txt").write_text("of 1.1.0 alone", encoding="utf-8")
    rollback("gardening", experts)
    assert sorted(path.name for path in (experts / "gardening").iterdir()) == before


def stop_at(patch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Let the `step`-th change of the disk fail, as if the process had been killed before it."""
    done: list[str] = []

    def guarded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object, **options: object) -> object:
            if len(done) == step:
                raise KeyboardInterrupt
            done.append(name)
            return real(*arguments, **options)

        return change

    patch.setattr(shutil, "copyfile", guarded("copyfile", shutil.copyfile))
    patch.setattr(shutil, "rmtree", guarded("rmtree", shutil.rmtree))
    patch.setattr(Path, "replace", guarded("rename", Path.replace))
    patch.setattr(Path, "unlink", guarded("unlink", Path.unlink))
    return done


def count_steps(experts: Path, copy: Path) -> int:
    shutil.copytree(experts, copy)
    with pytest.MonkeyPatch.context() as patch:
        done = stop_at(patch, -1)
        rollback("gardening", copy)
    return len(done)


def test_stopped_before_any_change_no_wrong_expert_is_served_and_a_second_call_finishes(
    experts: Path, tmp_path: Path
) -> None:
    steps = count_steps(experts, tmp_path / "counted")
    assert steps > 10
    for step in range(steps):
        copy = tmp_path / f"stopped-{step}"
        shutil.copytree(experts, copy)
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                rollback("gardening", copy)
        served, rejected = scan_experts(copy, None)
        assert rejected == [], f"step {step}: a half-made expert would be read"
        assert {expert.manifest.version for expert in served.values()} <= {"1.0.0", "1.1.0"}
        if version_is_back(copy):
            continue
        rollback("gardening", copy)
        assert version(copy) == ("1.0.0", b"GGUF one", "1.1.0"), f"step {step}"


def version_is_back(experts: Path) -> bool:
    """Tell whether all that was left to do is the removal of a temporary folder."""
    folder = experts / "gardening"
    return not (folder / ".incoming").is_dir() and version(experts) == ("1.0.0", b"GGUF one", "1.1.0")


@pytest.mark.parametrize("step", range(0, 24, 3))
def test_a_publication_overtakes_a_rollback_that_was_stopped(
    experts: Path, make_run: Callable[..., Run], step: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with contextlib.suppress(KeyboardInterrupt):
            rollback("gardening", experts)
    publish(make_run(adapter=b"GGUF three", version="1.2.0").folder, experts_dir=experts)
    assert load_expert(experts / "gardening", None).manifest.version == "1.2.0"
    assert not (experts / "gardening" / ".incoming").exists()
    assert rollback("gardening", experts).version in ("1.0.0", "1.1.0")


def test_data_that_a_person_edited_is_not_overwritten(experts: Path) -> None:
    rows = experts / "gardening" / "dataset.json"
    rows.write_text("[]", encoding="utf-8")
    with pytest.raises(PublishError, match=r"dataset\.json in .* was edited since it was published"):
        rollback("gardening", experts)
    assert rows.read_text(encoding="utf-8") == "[]"


def test_without_a_previous_version_nothing_happens(tmp_path: Path, measured_run: Run) -> None:
    publish(measured_run.folder, experts_dir=tmp_path / "experts")
    with pytest.raises(PublishError, match="there is no previous version"):
        rollback("gardening", tmp_path / "experts")
    assert load_expert(tmp_path / "experts" / "gardening", None).manifest.version == "1.0.0"


@pytest.mark.parametrize("name", ["../gardening", "no-such-expert", "base", ""])
def test_a_name_that_is_no_expert_is_refused(experts: Path, name: str) -> None:
    with pytest.raises(PublishError):
        rollback(name, experts)


@pytest.mark.parametrize("file", ["adapter.gguf", "questions.jsonl", "expert.yaml"])
def test_a_kept_version_that_was_changed_is_not_brought_back(experts: Path, file: str) -> None:
    (experts / "gardening" / ".previous" / file).write_bytes(b"changed")
    with pytest.raises(PublishError, match="cannot be brought in"):
        rollback("gardening", experts)
    assert load_expert(experts / "gardening", None).manifest.version == "1.1.0"


def test_a_kept_version_without_a_file_is_not_brought_back(experts: Path) -> None:
    (experts / "gardening" / ".previous" / "adapter.gguf").unlink()
    with pytest.raises(PublishError, match="is missing or was changed"):
        rollback("gardening", experts)
