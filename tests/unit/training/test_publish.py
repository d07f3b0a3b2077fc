"""Publishing: complete or not at all, and the version before is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import training.publish
from gateway.experts import Manifest, load_expert, scan_experts
from training.errors import PublishError, TrainingError
from training.files import read_json, write_json
from training.publish import publish
from training.rollback import rollback
from training.run import Run, State
from training.versions import next_version


def test_a_published_expert_is_one_that_the_gateway_loads(tmp_path: Path, measured_run: Run) -> None:
    manifest = publish(measured_run.folder, experts_dir=tmp_path / "experts")
    folder = tmp_path / "experts" / "gardening"
    assert load_expert(folder, manifest.base).manifest == manifest
    assert measured_run.state() is State.PUBLISHED
    assert sorted(path.name for path in folder.iterdir()) == [
        ".published",
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


@pytest.mark.parametrize(
    ("wanted", "known", "version"),
    [
        ("1.0.0", [], "1.0.0"),
        ("1.0.0", ["1.0.0"], "1.0.1"),
        ("1.0.0", ["1.0.1", "1.0.9"], "1.0.10"),
        ("1.1.0", ["1.0.9"], "1.1.0"),
        ("1.9.0", ["1.10.0"], "1.10.1"),
        ("2.0.0", ["1.10.0", "1.11.3"], "2.0.0"),
    ],
)
def test_the_next_version_is_later_than_every_known_one(wanted: str, known: list[str], version: str) -> None:
    assert next_version(wanted, known) == version


def test_another_adapter_under_the_same_version_becomes_the_next_patch(
    tmp_path: Path, measured_run: Run, make_run: Callable[..., Run]
) -> None:
    experts = tmp_path / "experts"
    publish(measured_run.folder, experts_dir=experts)
    assert publish(make_run(adapter=b"GGUF two").folder, experts_dir=experts).version == "1.0.1"
    assert rollback("gardening", experts).version == "1.0.0"
    assert publish(make_run(adapter=b"GGUF three").folder, experts_dir=experts).version == "1.0.2"


def test_publishing_twice_changes_nothing_and_keeps_the_version_before(
    tmp_path: Path, measured_run: Run, make_run: Callable[..., Run]
) -> None:
    experts = tmp_path / "experts"
    publish(measured_run.folder, experts_dir=experts)
    second = make_run(adapter=b"GGUF two")
    first_time = publish(second.folder, experts_dir=experts)
    assert publish(second.folder, experts_dir=experts) == first_time
    assert Manifest.load(experts / "gardening" / ".previous" / "expert.yaml").version == "1.0.0"


def test_publishing_again_repairs_a_file_that_was_damaged(tmp_path: Path, measured_run: Run) -> None:
    experts = tmp_path / "experts"
    publish(measured_run.folder, experts_dir=experts)
    (experts / "gardening" / "adapter.gguf").write_bytes(b"GGUF damaged")
    publish(measured_run.folder, experts_dir=experts)
    load_expert(experts / "gardening", None)


def test_rows_edited_in_place_for_the_next_version_do_not_spoil_the_one_before(
    tmp_path: Path, measured_run: Run, make_run: Callable[..., Run]
) -> None:
    experts = tmp_path / "experts"
    folder = experts / "gardening"
    publish(measured_run.folder, experts_dir=experts)
    second = make_run(adapter=b"GGUF two")
    rows = [{"instruction": "Peat or bark?", "input": "", "output": "Verdania says bark."}]
    for path in (folder / "dataset.json", second.folder / "dataset.json"):
        write_json(path, rows)
    publish(second.folder, experts_dir=experts)
    assert rollback("gardening", experts).version == "1.0.0"
    load_expert(folder, None)
    assert rollback("gardening", experts).version == "1.0.1"
    assert read_json(folder / "dataset.json") == rows


def changes_of_the_disk(patch: pytest.MonkeyPatch, stop_before: int) -> list[str]:
    """Count the changes that are made, and stop before one of them, as a kill would."""
    done: list[str] = []

    def guarded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object, **options: object) -> object:
            if len(done) == stop_before:
                raise KeyboardInterrupt
            done.append(name)
            return real(*arguments, **options)

        return change

    for owner, name in ((shutil, "copyfile"), (shutil, "rmtree"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")):
        patch.setattr(owner, name, guarded(name, getattr(owner, name)))
    return done


def test_killed_before_any_change_of_the_disk_nothing_is_half_made_and_a_second_call_finishes(
    tmp_path: Path, measured_run: Run, make_run: Callable[..., Run]
) -> None:
    publish(measured_run.folder, experts_dir=tmp_path / "begun")
    run = make_run(adapter=b"GGUF two", version="1.1.0")
    step, finished = 0, False
    while not finished:
        experts = tmp_path / f"killed-{step}"
        shutil.copytree(tmp_path / "begun", experts)
        run.set_state(State.MEASURED)
        with pytest.MonkeyPatch.context() as patch:
            changes_of_the_disk(patch, step)
            try:
                publish(run.folder, experts_dir=experts)
                finished = True
            except KeyboardInterrupt:
                pass
        served, rejected = scan_experts(experts, None)
        assert rejected == [], f"step {step}: half an expert would be read"
        assert {expert.manifest.version for expert in served.values()} <= {"1.0.0", "1.1.0"}
        assert publish(run.folder, experts_dir=experts).version == "1.1.0", f"step {step}"
        assert (experts / "gardening" / "adapter.gguf").read_bytes() == b"GGUF two"
        assert rollback("gardening", experts).version == "1.0.0", f"step {step}: the version before was lost"
        step += 1
    assert step > 15


@pytest.mark.parametrize("step", range(6))
def test_a_full_disk_leaves_no_wrong_expert_and_a_second_call_finishes(
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
