from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from router.batching import Batcher
from router.errors import EmbeddingError, RouterError


class Work:
    """Upper-cases texts on the worker thread; can be held back, and fails on texts that contain "bad"."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.open = threading.Event()
        self.open.set()
        self.started = threading.Event()

    def __call__(self, texts: Sequence[str]) -> list[str]:
        self.batches.append(list(texts))
        self.threads.add(threading.current_thread().name)
        self.started.set()
        assert self.open.wait(timeout=10)
        if any("bad" in text for text in texts):
            raise ValueError("cannot do bad")
        return [text.upper() for text in texts]

    async def wait_until_started(self) -> None:
        assert await asyncio.to_thread(self.started.wait, 10)
        self.started.clear()


@pytest.fixture
def work() -> Work:
    return Work()


def make(work: Work, max_batch: int = 8, cache_size: int = 100) -> Batcher[str]:
    return Batcher(work, max_batch=max_batch, cache_size=cache_size)


async def settle() -> None:
    """Let every ready task run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_values_come_back_in_the_order_of_the_texts_and_repeats_are_worked_on_once(work: Work) -> None:
    batcher = make(work)
    assert await batcher.get(["b", "a", "b"]) == (["B", "A", "B"], False)
    assert work.batches == [["b", "a"]]
    await batcher.aclose()


async def test_a_remembered_text_never_reaches_the_thread(work: Work) -> None:
    batcher = make(work)
    await batcher.get(["a"])
    work.open.clear()  # the thread would hang
    assert await asyncio.wait_for(batcher.get(["a"]), 1) == (["A"], True)
    assert work.batches == [["a"]]
    work.open.set()
    await batcher.aclose()


async def test_the_least_recently_used_value_is_forgotten_first(work: Work) -> None:
    batcher = make(work, cache_size=2)
    for text in ("a", "b", "a", "c"):
        await batcher.get([text])
    assert (await batcher.get(["a"]))[1] is True
    assert (await batcher.get(["c"]))[1] is True
    assert (await batcher.get(["b"]))[1] is False
    await batcher.aclose()


async def test_a_cache_of_size_zero_remembers_nothing(work: Work) -> None:
    batcher = make(work, cache_size=0)
    assert [(await batcher.get(["a"]))[1] for _ in range(2)] == [False, False]
    await batcher.aclose()


async def test_texts_that_arrive_while_a_batch_runs_form_the_next_one(work: Work) -> None:
    batcher = make(work, max_batch=3)
    work.open.clear()
    calls = [asyncio.create_task(batcher.get(["first"]))]
    await work.wait_until_started()
    calls += [asyncio.create_task(batcher.get([text])) for text in ("a", "b", "c", "d")]
    await settle()
    work.open.set()
    assert [values for values, _ in await asyncio.gather(*calls)] == [["FIRST"], ["A"], ["B"], ["C"], ["D"]]
    assert work.batches == [["first"], ["a", "b", "c"], ["d"]]
    assert len(work.threads) == 1
    await batcher.aclose()


async def test_a_text_wanted_by_several_callers_is_worked_on_once(work: Work) -> None:
    batcher = make(work)
    work.open.clear()
    calls = [asyncio.create_task(batcher.get(["same"])) for _ in range(5)]
    await work.wait_until_started()
    calls.append(asyncio.create_task(batcher.get(["same"])))  # joins the running batch
    await settle()
    work.open.set()
    assert [values for values, _ in await asyncio.gather(*calls)] == [["SAME"]] * 6
    assert work.batches == [["same"]]
    await batcher.aclose()


async def test_a_cancelled_caller_disturbs_nobody_else(work: Work) -> None:
    batcher = make(work)
    work.open.clear()
    leaving, staying = (asyncio.create_task(batcher.get(["a"])) for _ in range(2))
    await work.wait_until_started()
    leaving.cancel()
    await settle()
    assert leaving.cancelled()
    work.open.set()
    assert (await staying)[0] == ["A"]
    await batcher.aclose()


async def test_a_text_nobody_wants_any_more_is_not_started(work: Work) -> None:
    batcher = make(work)
    work.open.clear()
    running = asyncio.create_task(batcher.get(["running"]))
    await work.wait_until_started()
    unwanted, wanted = (asyncio.create_task(batcher.get([text])) for text in ("unwanted", "wanted"))
    await settle()
    unwanted.cancel()
    await settle()
    work.open.set()
    await asyncio.gather(running, wanted)
    assert work.batches == [["running"], ["wanted"]]
    assert (await batcher.get(["unwanted"]))[0] == ["UNWANTED"]
    await batcher.aclose()


async def test_an_error_reaches_exactly_the_callers_of_the_failing_text(work: Work) -> None:
    batcher = make(work)
    work.open.clear()
    first = asyncio.create_task(batcher.get(["first"]))
    await work.wait_until_started()
    calls = [asyncio.create_task(batcher.get(texts)) for texts in (["good"], ["bad"], ["good", "bad too"], ["fine"])]
    await settle()
    work.open.set()
    await first
    good, bad, mixed, fine = await asyncio.gather(*calls, return_exceptions=True)
    assert good == (["GOOD"], False)
    assert fine == (["FINE"], False)
    assert isinstance(bad, EmbeddingError)
    assert "cannot do bad" in str(bad)
    assert isinstance(mixed, EmbeddingError)
    assert (await batcher.get(["after"]))[0] == ["AFTER"]
    await batcher.aclose()


async def test_an_error_is_not_remembered(work: Work) -> None:
    batcher = make(work)
    for _ in range(2):
        with pytest.raises(EmbeddingError):
            await batcher.get(["bad"])
    assert len(work.batches) == 2
    await batcher.aclose()


async def test_an_error_after_its_caller_left_is_dropped(work: Work) -> None:
    batcher = make(work)
    work.open.clear()
    leaving = asyncio.create_task(batcher.get(["bad"]))
    await work.wait_until_started()
    leaving.cancel()
    await settle()
    work.open.set()
    assert (await batcher.get(["after"]))[0] == ["AFTER"]
    await batcher.aclose()


async def test_a_wrong_number_of_values_is_an_error() -> None:
    batcher: Batcher[str] = Batcher(lambda texts: ["one too many", *texts], max_batch=8, cache_size=8)
    with pytest.raises(EmbeddingError):
        await batcher.get(["a"])
    await batcher.aclose()


async def test_closing_finishes_the_running_batch_and_fails_the_queued_texts(work: Work) -> None:
    batcher = make(work)
    work.open.clear()
    running = asyncio.create_task(batcher.get(["running"]))
    await work.wait_until_started()
    queued = asyncio.create_task(batcher.get(["queued"]))
    await settle()
    closing = asyncio.create_task(batcher.aclose())
    await settle()
    work.open.set()
    await closing
    assert (await running)[0] == ["RUNNING"]
    with pytest.raises(EmbeddingError, match="closed"):
        await queued
    with pytest.raises(EmbeddingError, match="closed"):
        await batcher.get(["late"])
    assert (await batcher.get(["running"]))[1] is True


async def test_run_uses_the_same_thread_and_turns_failures_into_embedding_errors(work: Work) -> None:
    batcher = make(work)
    await batcher.get(["a"])
    assert await batcher.run(work, ["b"]) == ["B"]
    assert len(work.threads) == 1
    with pytest.raises(EmbeddingError, match="cannot do bad"):
        await batcher.run(work, ["bad"])
    await batcher.aclose()


@pytest.mark.parametrize(("max_batch", "cache_size"), [(0, 1), (1, -1)])
def test_impossible_sizes_are_refused(work: Work, max_batch: int, cache_size: int) -> None:
    with pytest.raises(RouterError):
        make(work, max_batch, cache_size)


async def test_several_workers_share_what_waits_evenly(work: Work) -> None:
    batcher = Batcher(work, max_batch=8, cache_size=100, workers=2)
    work.open.clear()
    calls = []
    for text in ("a", "b"):
        calls.append(asyncio.create_task(batcher.get([text])))
        await work.wait_until_started()
    calls += [asyncio.create_task(batcher.get([text])) for text in "cdefgh"]
    await settle()
    assert work.batches == [["a"], ["b"]]  # both threads are at work
    work.open.set()
    assert [values for values, _ in await asyncio.gather(*calls)] == [[text] for text in "ABCDEFGH"]
    assert max(map(len, work.batches)) == 3  # half of the six, not all of them
    assert len(work.threads) == 2
    await batcher.aclose()


async def test_a_batch_that_fails_while_the_batcher_closes_is_not_tried_again(work: Work) -> None:
    batcher = make(work)
    work.open.clear()
    call = asyncio.create_task(batcher.get(["good", "bad"]))
    await work.wait_until_started()
    closing = asyncio.create_task(batcher.aclose())
    await settle()
    work.open.set()
    await closing
    with pytest.raises(EmbeddingError, match="cannot do bad"):
        await call
    assert work.batches == [["good", "bad"]]
