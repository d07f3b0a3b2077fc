"""Threads, answers at once and slots, from cores and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.sizing import answers_at_once, kv_slots, memory_bytes, threads_each, usable_cores

GIB = 1024**3


@pytest.mark.parametrize(
    ("cores", "engines", "threads"), [(1, 1, 1), (2, 1, 2), (4, 1, 3), (16, 1, 15), (2, 2, 1), (1, 4, 1), (16, 2, 7)]
)
def test_threads_leave_a_core_where_there_are_enough(cores: int, engines: int, threads: int) -> None:
    assert threads_each(cores, engines) == threads


@pytest.mark.parametrize(("threads", "at_once"), [(1, 4), (2, 4), (7, 7), (64, 16)])
def test_answers_at_once_follow_the_threads(threads: int, at_once: int) -> None:
    assert answers_at_once(threads) == at_once


@pytest.mark.parametrize(
    ("slot_bytes", "memory", "slots"),
    [
        (GIB // 10, 24 * GIB, 15),  # as many as a sixteenth of 24 GiB holds
        (GIB // 100, 24 * GIB, 16),  # never more than four for each answer
        (GIB, 8 * GIB, 4),  # never fewer than answers at once
        (None, 8 * GIB, 4),
        (GIB, None, 4),
    ],
)
def test_slots_are_as_many_as_fit(slot_bytes: int | None, memory: int | None, slots: int) -> None:
    assert kv_slots(4, slot_bytes, memory) == slots


def test_memory_is_the_containers_if_it_is_in_one(tmp_path: Path) -> None:
    whole = memory_bytes(tmp_path)
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("1000000\n")
    assert memory_bytes(tmp_path) == 1_000_000
    limit.write_text("max\n")
    assert memory_bytes(tmp_path) == whole


def test_there_is_a_core() -> None:
    assert usable_cores() >= 1
