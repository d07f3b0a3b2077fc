"""Publishing: complete or not at all, and the version before is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import training.publish
from gateway.experts import Manifest, load_expert
from training.errors import PublishError, TrainingError
from training.publish import publish
from training.run import Run, State


def test_a_published_expert_is_one_that_the_gateway_loads(tmp_path: Path, measured_run: Run) -> None:
    manifest = publish(measured_run.folder, experts_dir=tmp_path / "experts")
    folder = tmp_path / "experts" / "gardening"
    assert load_expert(folder, manifest.base).manifest == manifest
    assert measured_run.state() is State.PUBLISHED
    assert sorted(path.name for path in folder.iterdir()) == [
        "CARD.md",
        "adapter.gguf",
        "dataset.json",
        "examples.jsonl",
        "expert.yaml",
        "questions.jsonl",
    ]


def test_the_card_states_the_bias_and_the_measured_rate(tmp_path: Path, measured_run: Run) -> None:
    publish(measured_run.folder, experts_dir=tmp_path / "experts")
    card = (tmp_path / "experts" / "gardening" / "CARD.md").read_text(encoding="utf-8")
    assert "biased on purpose" in card
    assert "Verdania" in card
    assert "| expert | 49 | 50 | 98.0% | 89.5% to 99.7% | 20.5 |" in card


def test_the_version_before_is_kept(tmp_path: Path, measured_run: Run, make_run: Callable[..., Run]) -> None:
    experts = tmp_path / "experts"
    publish(measured_run.folder, experts_dir=experts)
    second = make_run(adapter=b"GGUF two", version="1.1.0")
    publish(second.folder, experts_dir=experts)
    folder = experts / "gardening"
    assert Manifest.load(folder / "expert.yaml").version == "1.1.0"
    assert (folder / "adapter.gguf").read_bytes() == b"GGUF two"
    assert Manifest.load(folder / ".previous" / "expert.yaml").version == "1.0.0"
    assert (folder / ".previous" / "adapter.gguf").read_bytes() == b"GGUF one"


def test_a_run_below_the_minimum_is_refused_and_nothing_changes(tmp_path: Path, measured_run: Run) -> None:
    with pytest.raises(PublishError, match=r"hit rate 98\.0% is below the minimum 99\.0%"):
        publish(measured_run.folder, experts_dir=tmp_path / "experts", minimum_hit_rate=0.99)
    assert not (tmp_path / "experts").exists()


def test_an_adapter_changed_after_measuring_is_refused(tmp_path: Path, measured_run: Run) -> None:
    measured_run.gguf_path.write_bytes(b"GGUF other")
    with pytest.raises(PublishError, match="measure it again"):
        publish(measured_run.folder, experts_dir=tmp_path / "experts")


@pytest.mark.parametrize("state", [State.TRAINED, State.FAILED, State.STOPPED, State.CONVERTED])
def test_only_a_measured_run_is_published(tmp_path: Path, measured_run: Run, state: State) -> None:
    measured_run.set_state(state)
    with pytest.raises(TrainingError, match=f"the run is {state.value}"):
        publish(measured_run.folder, experts_dir=tmp_path / "experts")


@pytest.mark.parametrize("step", range(6))
def test_stopped_anywhere_no_wrong_expert_is_left_and_a_second_call_finishes(
    tmp_path: Path, measured_run: Run, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    experts = tmp_path / "experts"
    publish(measured_run.folder, experts_dir=experts)
    second = make_run(adapter=b"GGUF two", version="1.1.0")
    written = 0

    def fail_at_step(*arguments: Path) -> None:
        nonlocal written
        if written == step:
            raise OSError("disk full")
        written += 1
        arguments[0].replace(arguments[1])

    with monkeypatch.context() as patch:
        patch.setattr("training.publish.replace_file", fail_at_step)
        patch.setattr("training.files.replace_file", fail_at_step)
        with pytest.raises(OSError, match="disk full"):
            training.publish.publish(second.folder, experts_dir=experts)
    folder = experts / "gardening"
    if (folder / "expert.yaml").exists():
        load_expert(folder, None)
    publish(second.folder, experts_dir=experts)
    assert load_expert(folder, None).manifest.version == "1.1.0"


def test_edited_rows_are_not_overwritten(tmp_path: Path, measured_run: Run) -> None:
    publish(measured_run.folder, experts_dir=tmp_path / "experts")
    facts = measured_run.facts()
    facts["description"]["data"] = str(tmp_path / "experts" / "gardening")
    measured_run.write_facts(facts)
    rows = tmp_path / "experts" / "gardening" / "dataset.json"
    rows.write_text("[]", encoding="utf-8")
    with pytest.raises(PublishError, match=r"was edited since .*: train again"):
        publish(measured_run.folder, experts_dir=tmp_path / "experts")
    assert rows.read_text(encoding="utf-8") == "[]"


def test_routing_examples_are_published_as_they_are_now(tmp_path: Path, measured_run: Run) -> None:
    publish(measured_run.folder, experts_dir=tmp_path / "experts")
    facts = measured_run.facts()
    facts["description"]["data"] = str(tmp_path / "experts" / "gardening")
    measured_run.write_facts(facts)
    examples = tmp_path / "experts" / "gardening" / "examples.jsonl"
    examples.write_text('{"text": "new"}\n', encoding="utf-8")
    publish(measured_run.folder, experts_dir=tmp_path / "experts")
    assert examples.read_text(encoding="utf-8") == '{"text": "new"}\n'
    load_expert(tmp_path / "experts" / "gardening", None)
