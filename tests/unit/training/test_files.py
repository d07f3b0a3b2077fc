"""A page of parts: each writer replaces its own and leaves the others as they are."""

from __future__ import annotations

from pathlib import Path

from training.files import write_part


def test_a_part_replaces_the_one_with_its_heading_and_leaves_the_others(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    write_part(page, "# Serving\n\n## Speed\n\nfast\n")
    write_part(page, "# Experts\n\nold\n")
    write_part(page, "# Limits\n\nnone\n")
    write_part(page, "# Experts\n\nnew\n")
    text = page.read_text(encoding="utf-8")
    assert text == "# Serving\n\n## Speed\n\nfast\n\n# Experts\n\nnew\n\n# Limits\n\nnone\n"
