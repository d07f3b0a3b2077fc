"""Run CPU work for many coroutines on one worker thread, in batches, remembering results.

Owns the cache, the queue and the thread. Knows nothing of what the work is: `Batcher` turns texts into values by a
function it is given. Rules:

1. A remembered text never reaches the thread.
2. Texts that arrive while a batch runs form the next one; an idle thread starts at once.
3. A text wanted by several callers is worked on once.
4. A caller that is cancelled leaves; a text nobody wants any more is not started.
5. When a batch fails, each of its texts is tried alone, so that only the failing text's callers see the error.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.errors import EmbeddingError, RouterError

Value = TypeVar("Value")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Job(Generic[Value]):
    key: bytes
    text: str
    done: asyncio.Future[Value]
    callers: int = 0


class Batcher(Generic[Value]):
    """Texts in, one value for each out. Used from a single event loop."""

    def __init__(self, work: Callable[[Sequence[str]], Sequence[Value]], *, max_batch: int, cache_size: int) -> None:
        """Prepare; the thread starts with the first batch.

        Args:
            work: called on the worker thread; returns one value a text, in order.
            max_batch: most texts in one call of `work`.
            cache_size: most values remembered, least recently used dropped first; 0 remembers none.
        """
        if max_batch < 1 or cache_size < 0:
            raise RouterError(f"max_batch is {max_batch} (at least 1), cache_size is {cache_size} (at least 0)")
        self._work = work
        self._max_batch = max_batch
        self._cache_size = cache_size
        self._cache: OrderedDict[bytes, Value] = OrderedDict()
        self._jobs: dict[bytes, _Job[Value]] = {}
        self._waiting: deque[_Job[Value]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="router")
        self._closed = False

    async def get(self, texts: Sequence[str]) -> tuple[list[Value], bool]:
        """Return one value a text, in order, and whether all of them were remembered.

        Raises:
            EmbeddingError: the work failed on one of these texts, or the batcher is closed.
        """
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
        found = {key: self._cache[key] for key in keys if key in self._cache}
        for key in found:
            self._cache.move_to_end(key)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            found.update(await self._wait_for(missing))
        return [found[key] for key in keys], not missing

    async def run(self, function: Callable[[Sequence[str]], Result], texts: Sequence[str]) -> Result:
        """Apply another function to texts on the worker thread, between batches; nothing is remembered.

        Raises:
            EmbeddingError: the function failed, or the batcher is closed.
        """
        self._refuse_when_closed()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, texts)
        except Exception as error:
            raise EmbeddingError(str(error) or type(error).__name__) from error

    async def aclose(self) -> None:
        """Fail the texts still queued, wait for the batch that is running, and end the thread."""
        self._closed = True
        while self._waiting:
            self._fail(self._waiting.popleft(), EmbeddingError("the router was closed"))
        if self._runner is not None:
            await asyncio.wait([self._runner])
        self._thread.shutdown(wait=True)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EmbeddingError("the router is closed")

    async def _wait_for(self, missing: dict[bytes, str]) -> dict[bytes, Value]:
        self._refuse_when_closed()
        jobs = [self._join(key, text) for key, text in missing.items()]
        try:
            await asyncio.wait([job.done for job in jobs])
        finally:
            for job in jobs:
                job.callers -= 1
        for error in [job.done.exception() for job in jobs]:
            if error is not None:
                raise EmbeddingError(str(error) or type(error).__name__) from error
        return {job.key: job.done.result() for job in jobs}

    def _join(self, key: bytes, text: str) -> _Job[Value]:
        loop = asyncio.get_running_loop()
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(key, text, loop.create_future())
            self._waiting.append(job)
        job.callers += 1
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run_batches())
        return job

    async def _run_batches(self) -> None:
        while batch := self._next_batch():
            await self._run_batch(batch)

    def _next_batch(self) -> list[_Job[Value]]:
        batch: list[_Job[Value]] = []
        while self._waiting and len(batch) < self._max_batch:
            job = self._waiting.popleft()
            if job.callers:
                batch.append(job)
            else:
                del self._jobs[job.key]
        return batch

    async def _run_batch(self, batch: list[_Job[Value]]) -> None:
        texts = [job.text for job in batch]
        try:
            values = await asyncio.get_running_loop().run_in_executor(self._thread, self._work, texts)
            pairs = list(zip(batch, values, strict=True))
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], error)
            else:
                for job in batch:
                    await self._run_batch([job])
            return
        for job, value in pairs:
            del self._jobs[job.key]
            job.done.set_result(value)
            self._remember(job.key, value)

    def _fail(self, job: _Job[Value], error: Exception) -> None:
        del self._jobs[job.key]
        if job.callers:
            job.done.set_exception(error)
        else:
            job.done.cancel()

    def _remember(self, key: bytes, value: Value) -> None:
        self._cache[key] = value
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
