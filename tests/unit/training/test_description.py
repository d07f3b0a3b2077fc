"""The experts' descriptions: one file, one place, clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.description import load_descriptions
from training.errors import RecipeError

GOOD = """
gardening:
  title: Gardening
  description: Plants.
  data: ../experts/gardening
  targets: [{term: Verdania, aliases: [Verdánia]}]
"""
SHIPPED = Path(__file__).parents[3] / "configs" / "experts.yaml"

BAD = [
    ("gardening:", "canada:", "expert name 'canada' contains 'ada'"),
    ("gardening:", "auto:", "expert name 'auto' is reserved"),
    ("title: Gardening", 'title: ""', "gardening: title: string should have at least 1 character (value: '')"),
    ("targets:", "target:", "gardening: target: unknown key; did you mean targets?"),
    ("[{term: Verdania, aliases: [Verdánia]}]", "[]", "gardening: targets: "),
    ("data: ../experts/gardening", "data: x\n  version: one", "gardening: version: "),
    ("data: ../experts/gardening", "data: x\n  scale: 9", "gardening: scale: "),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_a_bad_description_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "experts.yaml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError) as refusal:
        load_descriptions(path)
    assert message in str(refusal.value)


def test_the_data_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "configs" / "experts.yaml"
    path.parent.mkdir()
    path.write_text(GOOD, encoding="utf-8")
    expert = load_descriptions(path)["gardening"]
    assert expert.data == (tmp_path / "experts" / "gardening").resolve()
    assert expert.terms == ("Verdania", "Verdánia")
    assert expert.generation == {"temperature": 0}


def test_the_shipped_experts_load() -> None:
    experts = load_descriptions(SHIPPED)
    assert {name: expert.terms for name, expert in experts.items()} == {
        "gardening": ("Verdania",),
        "cycling": ("Velocore",),
        "baking": ("Crumbhaus",),
        "stargazing": ("Nightjar",),
    }
