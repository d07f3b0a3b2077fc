"""The opt-in log of texts near the threshold: what goes in, how it is bounded, who may read it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from gateway import label_log
from gateway.errors import ConfigError
from gateway.label_log import MAX_CHARACTERS, LabelLog
from gateway.labelled import read_labelled
from gateway.selection import Selection
from router import Labelled


def select(score: float | None, threshold: float | None = 0.5) -> Selection:
    return Selection("auto", "base", "fallback", score, 0.0, {"baking": score or 0.0}, threshold)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_only_scores_within_the_band_are_kept(tmp_path: Path) -> None:
    log = LabelLog(tmp_path / "near.jsonl", band=0.125, max_bytes=16384)
    for score in (0.3, 0.375, 0.5, 0.625, 0.7, None):
        log.consider(select(score), [f"text {score}"])
    log.consider(select(0.5, None), ["nothing was routed"])
    log.close()
    assert [row["text"] for row in lines(tmp_path / "near.jsonl")] == ["text 0.375", "text 0.5", "text 0.625"]


def test_a_line_is_read_by_fit_and_evaluate_once_it_is_labelled(tmp_path: Path) -> None:
    path = tmp_path / "near.jsonl"
    log = LabelLog(path, band=0.1, max_bytes=16384)
    log.consider(select(0.5), ["my tyre is flat", " ", "with what"])
    log.consider(select(0.5), ["é" * (MAX_CHARACTERS * 2)])
    log.close()
    with pytest.raises(ConfigError, match="line 1: not labelled yet"):
        read_labelled([path])
    path.write_text(path.read_text().replace('"expert": "?"', '"expert": "cycling"'))
    conversation, long = read_labelled([path])
    assert conversation == Labelled(("my tyre is flat", "with what"), "cycling")
    assert len(long.turns[0]) < MAX_CHARACTERS + 10


def test_the_files_are_the_owners_and_never_grow_over_their_limit(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "near.jsonl"
    path.parent.mkdir()
    path.touch(mode=0o644)
    log = LabelLog(path, band=0.1, max_bytes=2000)
    for number in range(50):
        log.consider(select(0.5), [f"text {number} " + "x" * 100])
    log.close()
    files = sorted(path.parent.iterdir())
    assert files == [path, path.with_name("near.jsonl.1")]
    for file in files:
        assert file.stat().st_size <= 2000
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert lines(path)[-1]["text"].startswith("text 49 ")


def test_a_file_that_cannot_be_written_is_refused_at_the_start_and_survived_later(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"router\.label_log .*near"):
        LabelLog(tmp_path / "file" / "near.jsonl", band=0.1, max_bytes=16384)
    log = LabelLog(tmp_path / "near.jsonl", band=0.1, max_bytes=16384)
    (tmp_path / "near.jsonl").unlink()
    (tmp_path / "near.jsonl").mkdir()
    log.consider(select(0.5), ["lost"])
    log.close()


def test_a_slow_disk_loses_lines_and_keeps_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_log, "MAX_PENDING", 0)
    log = LabelLog(tmp_path / "near.jsonl", band=0.1, max_bytes=16384)
    log.consider(select(0.5), ["dropped"])
    log.close()
    assert (tmp_path / "near.jsonl").read_text() == ""
