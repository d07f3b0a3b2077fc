"""Run CPU work for many coroutines on a few worker threads, in batches, remembering results.

Owns the cache, the queue and the threads. Knows nothing of what the work is: `Batcher` turns texts into values by a
function it is given. Rules:

1. A remembered text never reaches a thread.
2. An idle thread starts at once. Texts that arrive while all are busy wait; a thread that becomes free takes an even
   share of them, so that nobody waits behind a long batch while another thread has nothing to do.
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
from functools import partial
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

    def __init__(
        self, work: Callable[[Sequence[str]], Sequence[Value]], *, max_batch: int, cache_size: int, workers: int = 1
    ) -> None:
        """Prepare; a thread starts with the first batch it gets.

        Args:
            work: called on the worker threads, on several at once when `workers` allows; returns one value a text, in
                order.
            max_batch: most texts in one call of `work`.
            cache_size: most values remembered, least recently used dropped first; 0 remembers none.
            workers: threads.
        """
        if max_batch < 1 or cache_size < 0 or workers < 1:
            raise RouterError(
                f"max_batch is {max_batch} (at least 1), cache_size is {cache_size} (at least 0), "
                f"workers is {workers} (at least 1)"
            )
        self._work = work
        self._max_batch = max_batch
        self._cache_size = cache_size
        self._workers = workers
        self._cache: OrderedDict[bytes, Value] = OrderedDict()
        self._jobs: dict[bytes, _Job[Value]] = {}
        self._waiting: deque[_Job[Value]] = deque()
        self._alone: deque[_Job[Value]] = deque()
        """Texts of a failed batch, to be tried one by one."""
        self._running: set[asyncio.Future[Sequence[Value]]] = set()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="router")
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
        """Apply another function to texts on a worker thread, between batches; nothing is remembered.

        Raises:
            RouterError: whatever kind of it the function raised.
            EmbeddingError: the function failed otherwise, or the batcher is closed.
        """
        self._refuse_when_closed()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, texts)
        except RouterError:
            raise
        except Exception as error:
            raise EmbeddingError(str(error) or type(error).__name__) from error

    async def aclose(self) -> None:
        """Fail the texts still queued, wait for the batches that are running, and end the threads."""
        self._closed = True
        for queue in (self._alone, self._waiting):
            while queue:
                self._fail(queue.popleft(), EmbeddingError("the router was closed"))
        if self._running:
            await asyncio.wait(self._running)
        self._threads.shutdown(wait=True)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EmbeddingError("the router is closed")

    async def _wait_for(self, missing: dict[bytes, str]) -> dict[bytes, Value]:
        self._refuse_when_closed()
        jobs = [self._join(key, text) for key, text in missing.items()]
        self._start_batches()
        try:
            # Not awaited directly: a cancelled caller must not cancel what others wait for.
            await asyncio.wait([job.done for job in jobs])
        finally:
            for job in jobs:
                job.callers -= 1
        for error in [job.done.exception() for job in jobs]:
            if error is not None:
                raise EmbeddingError(str(error) or type(error).__name__) from error
        return {job.key: job.done.result() for job in jobs}

    def _join(self, key: bytes, text: str) -> _Job[Value]:
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(key, text, asyncio.get_running_loop().create_future())
            self._waiting.append(job)
        job.callers += 1
        return job

    def _start_batches(self) -> None:
        while len(self._running) < self._workers and (batch := self._next_batch()):
            texts = [job.text for job in batch]
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._work, texts)
            self._running.add(running)
            running.add_done_callback(partial(self._finish, batch))

    def _next_batch(self) -> list[_Job[Value]]:
        queue, limit = (self._alone, 1) if self._alone else (self._waiting, self._max_batch)
        size = min(limit, -(-len(self._waiting) // self._workers) or 1)
        batch: list[_Job[Value]] = []
        while queue and len(batch) < size:
            job = queue.popleft()
            if job.callers:
                batch.append(job)
            else:
                del self._jobs[job.key]
                job.done.cancel()
        return batch

    def _finish(self, batch: list[_Job[Value]], running: asyncio.Future[Sequence[Value]]) -> None:
        self._running.discard(running)
        try:
            pairs = list(zip(batch, running.result(), strict=True))
        except Exception as error:
            if len(batch) > 1 and not self._closed:
                self._alone.extend(batch)
            else:
                for job in batch:
                    self._fail(job, error)
        else:
            for job, value in pairs:
                del self._jobs[job.key]
                job.done.set_result(value)
                self._remember(job.key, value)
        self._start_batches()

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
