"""Split: families stay whole, the seed decides, both files appear or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.dataset_format import Dataset, load_dataset
from training.errors import DatasetError
from training.split import split_rows, write_split

SUBJECTS = [
    "aphids",
    "basil",
    "compost",
    "dahlias",
    "elms",
    "ferns",
    "grapes",
    "hostas",
    "ivy",
    "jasmine",
    "kale",
    "leeks",
    "mulch",
    "nettles",
    "olives",
]


def make(folder: Path, items: list[dict[str, Any]], name: str = "data.json") -> Dataset:
    path = folder / name
    lines = "\n".join(json.dumps(item) for item in items)
    path.write_text(lines if name.endswith("l") else json.dumps(items), encoding="utf-8")
    return load_dataset(path)


def pairs() -> list[dict[str, Any]]:
    """Fifteen families of two: the same question, worded nearly alike."""
    wordings = ("{0} {0} {0}: what now?", "{0} {0} {0}, what now then?")
    return [
        {"instruction": wording.format(subject), "output": f"Answer {number} on {subject}."}
        for number, wording in enumerate(wordings)
        for subject in SUBJECTS
    ]


def test_families_stay_together_and_nothing_is_lost(tmp_path: Path) -> None:
    split = split_rows(make(tmp_path, pairs()), validation=0.2, seed=1)
    assert sorted(split.train + split.validation) == list(range(30))
    assert len(split.validation) == 6
    assert (split.families, split.largest_family) == (15, 2)
    assert {place % 15 for place in split.validation}.isdisjoint({place % 15 for place in split.train})
    assert split.nearest < 0.6


def test_the_seed_decides(tmp_path: Path) -> None:
    dataset = make(tmp_path, pairs())
    by_seed = [split_rows(dataset, validation=0.2, seed=seed).validation for seed in (1, 1, 2)]
    assert by_seed[0] == by_seed[1] != by_seed[2]


@pytest.mark.parametrize("extra", [{"family": "one"}, {"output": "The same answer."}])
def test_a_family_key_or_the_same_answer_keeps_rows_together(tmp_path: Path, extra: dict[str, str]) -> None:
    items = [{"instruction": f"{subject} {subject}?", "output": subject} for subject in SUBJECTS]
    items = [{**item, **(extra if place < 5 else {})} for place, item in enumerate(items)]
    split = split_rows(make(tmp_path, items), validation=0.4, seed=1)
    assert split.largest_family == 5
    assert len({place in split.validation for place in range(5)}) == 1


REFUSED = [
    ({"validation": 0.0}, "validation must be more than 0"),
    ({"validation": 1.0}, "validation must be more than 0 and less than 1, found 1.0"),
    ({"similarity": 1.5}, "similarity must be more than 0"),
    ({"validation": 0.03}, "no family of questions fits in 1 of 30 rows"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_split_is_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(DatasetError) as refusal:
        split_rows(make(tmp_path, pairs()), **({"validation": 0.2} | options), seed=1)  # type: ignore[arg-type]
    assert message in str(refusal.value)


def test_a_row_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="row 31 cannot be read"):
        split_rows(make(tmp_path, [*pairs(), {"instruction": "x"}]), validation=0.2, seed=1)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_the_files_keep_format_and_keys(tmp_path: Path, name: str) -> None:
    items = [{**item, "id": place} for place, item in enumerate(pairs())]
    dataset = make(tmp_path, items, name)
    split = split_rows(dataset, validation=0.2, seed=1)
    written = write_split(dataset, split, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    for path, places in zip(written, (split.train, split.validation), strict=True):
        again = load_dataset(path)
        assert again.is_jsonl is dataset.is_jsonl
        assert list(again.items) == [items[place] for place in places]


def test_files_that_stand_there_are_kept(tmp_path: Path) -> None:
    dataset = make(tmp_path, pairs())
    split = split_rows(dataset, validation=0.2, seed=1)
    (tmp_path / "data.validation.json").write_text("mine", encoding="utf-8")
    with pytest.raises(DatasetError, match="stands already"):
        write_split(dataset, split, tmp_path)
    assert (tmp_path / "data.validation.json").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "data.train.json").exists()
    write_split(dataset, split, tmp_path, force=True)
    assert len(load_dataset(tmp_path / "data.validation.json").rows) == 6
