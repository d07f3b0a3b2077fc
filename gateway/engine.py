"""Brings backends up, keeps them up, replaces them: what stands between a child process and the lease pool.

Owns the life of every backend: start, checks before it may serve, restart with back-off, rolling replacement when the
set of adapters changes (llama-server cannot load one at run time). Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from .backend import Backend
from .errors import BackendError, BackendStartError, ConfigError
from .experts import BASE, Expert
from .leases import LeasePool
from .process import EngineProcess, LaunchSpec, free_port

__all__ = ["Engine", "EngineConfig", "kv_is_safe"]

log = logging.getLogger("pointsman.engine")

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_S = 60.0  # up for this long: the next crash starts again at the shortest back-off


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """``kind`` is embedded, binary or url; ``launch`` (without adapters) serves the first two, ``url`` the third."""

    kind: str
    launch: LaunchSpec | None
    executable: str | None = None
    extra_arguments: tuple[str, ...] = ()
    url: str | None = None
    api_key: str | None = None
    strategy: str = "scale_api"
    start_s: float = 120.0
    stall_s: float = 120.0
    health_every_s: float = 5.0
    allow_unsafe_cache: bool = False


@dataclass(slots=True)
class _Member:
    """One backend of ours, its process if it is our child, and the task that watches it."""

    backend: Backend
    process: EngineProcess | None
    experts: tuple[Expert, ...]
    task: asyncio.Task[None] | None = None
    failed: asyncio.Event | None = None
    up: bool = False


class Engine:
    """Use from one event loop. ``start`` before the first request, ``aclose`` at the end."""

    def __init__(self, config: EngineConfig, session: aiohttp.ClientSession) -> None:
        self._config = config
        self._session = session
        self._pool: LeasePool | None = None
        self._members: dict[str, _Member] = {}
        self._numbers = 0
        self._stopping: set[asyncio.Task[None]] = set()
        self.restarts = 0

    # -- what is so -----------------------------------------------------------------------------------------------

    def backend(self, name: str) -> Backend | None:
        """The backend of a lease; None when it has been taken away since."""
        member = self._members.get(name)
        return member.backend if member else None

    def status(self) -> list[dict[str, object]]:
        return [
            {
                "name": name,
                "url": member.backend.url,
                "up": member.up,
                "pid": member.process.pid if member.process else None,
                "slots": member.backend.props.slots if member.backend.props else None,
                "ctx_per_slot": member.backend.props.n_ctx if member.backend.props else None,
                "experts": sorted(member.backend.experts),
                "build": member.backend.props.build if member.backend.props else None,
                "cache_prompt": member.backend.cache_prompt,
            }
            for name, member in self._members.items()
        ]

    @property
    def any_up(self) -> bool:
        return any(member.up for member in self._members.values())

    async def generates(self, idle_s: float = 60.0, timeout_s: float = 5.0) -> bool:
        """Whether every backend really generates: it sent tokens lately, or it answers a one-token probe now."""
        if not self._members or not self.any_up:
            return False
        for member in list(self._members.values()):
            if not member.up:
                return False
            if time.monotonic() - member.backend.last_event_s < idle_s:
                continue
            try:
                await member.backend.probe(timeout_s)
            except BackendError:
                return False
        return True

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self, pool: LeasePool, experts: Sequence[Expert]) -> dict[str, str]:
        """Bring the first backend up; returns the experts that it cannot serve, with the reason.

        Raises:
            ConfigError, BackendStartError: it cannot be started, or cannot be made safe.
        """
        self._pool = pool
        return await self._add(tuple(experts), first=True)

    async def replace(self, experts: Sequence[Expert]) -> dict[str, str]:
        """Serve another set of adapters without dropping a stream: a second child comes up, the first drains.

        Raises:
            BackendStartError: the new child does not come up; the old one goes on serving.
        """
        assert self._pool is not None
        old = list(self._members)
        if self._config.kind == "url":
            member = self._members[old[0]]
            member.experts = tuple(experts)
            member.backend.expect(*_expected(member.experts))
            missing = await self._check(member, first=False)
            self._pool.set_experts(member.backend.name, member.backend.experts)
            return missing
        unserved = await self._add(tuple(experts), first=False)
        for name in old:
            self._pool.retire(name)
        return unserved

    def report_failure(self, name: str) -> None:
        """A request met a broken backend: no more grants until it has proved itself again."""
        member = self._members.get(name)
        if member is not None and member.up:
            self._drop(member)
            if member.failed is not None:
                member.failed.set()

    def retired(self, name: str) -> None:
        """The pool has drained a replaced backend: stop it."""
        member = self._members.pop(name, None)
        if member is not None:
            task = asyncio.get_running_loop().create_task(self._stop(member))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*(self._stop(member) for member in self._members.values()))
        await asyncio.gather(*self._stopping, return_exceptions=True)
        self._members.clear()

    # -- bringing up ----------------------------------------------------------------------------------------------

    async def _add(self, experts: tuple[Expert, ...], *, first: bool) -> dict[str, str]:
        rejected: dict[str, str] = {}
        while True:
            member = self._member(experts, first=first)
            try:
                missing = await self._bring_up(member)
                break
            except BackendStartError:
                await self._stop(member)
                refused = _not_loaded(member)
                if not refused:
                    raise
                log.error("adapter refused by the engine", extra={"experts": list(refused)})
                rejected |= refused
                experts = tuple(e for e in experts if e.name not in refused)
            except BaseException:
                await self._stop(member)
                raise
        self._members[member.backend.name] = member
        self._enlist(member)
        member.failed = asyncio.Event()
        member.task = asyncio.get_running_loop().create_task(self._watch(member))
        return rejected | missing

    def _member(self, experts: tuple[Expert, ...], *, first: bool) -> _Member:
        self._numbers += 1
        config = self._config
        process: EngineProcess | None = None
        url, api_key = config.url or "", config.api_key
        if config.launch is not None:
            adapters = tuple(str(expert.adapter_path) for expert in experts)
            port = config.launch.port if first else free_port(config.launch.host)
            spec = replace(config.launch, adapters=adapters, port=port)
            process = EngineProcess(spec, executable=config.executable, extra=config.extra_arguments)
            url, api_key = process.url, spec.api_key
        backend = Backend(
            f"{config.kind}-{self._numbers}",
            url.rstrip("/"),
            self._session,
            strategy=config.strategy,
            api_key=api_key,
            stall_s=config.stall_s,
        )
        backend.expect(*_expected(experts))
        return _Member(backend, process, experts)

    async def _bring_up(self, member: _Member) -> dict[str, str]:
        if member.process is not None:
            await member.process.start()
        await self._until_healthy(member)
        return await self._check(member, first=True)

    async def _until_healthy(self, member: _Member) -> None:
        until = time.monotonic() + self._config.start_s
        while not await member.backend.is_healthy():
            if member.process is not None and not member.process.running:
                await member.process.wait()
                raise BackendStartError(f"the engine ended while starting: {member.process.last_words()}")
            if time.monotonic() > until:
                raise BackendStartError(
                    f"{member.backend.url}: no healthy llama-server within {self._config.start_s:g} s"
                )
            await asyncio.sleep(0.05)

    async def _check(self, member: _Member, *, first: bool) -> dict[str, str]:
        """Everything that must hold before a backend may serve; returns the experts it cannot serve, and why."""
        backend = member.backend
        props = await backend.load_props()
        missing = dict.fromkeys(await backend.load_adapters(), f"{backend.url} has not loaded this adapter")
        template = hashlib.sha256(props.chat_template.encode()).hexdigest()
        if self._config.kind == "url":
            for expert in member.experts:
                trained = expert.manifest.base.chat_template_sha256
                if trained != template:
                    missing[expert.name] = f"trained with chat template sha256 {trained}, {backend.url} has {template}"
        for name in missing:
            backend.forget(name)
        await backend.probe()
        if first and len(backend.experts) > 1 and not await kv_is_safe(backend):
            advice = "start llama-server with --cache-ram 0"
            if not self._config.allow_unsafe_cache:
                raise ConfigError(
                    f"{backend.url} reuses one expert's KV cache for another (its RAM prompt cache is on): {advice}, "
                    "or set engine.allow_unsafe_cache to go on with prompt caching forbidden for every request"
                )
            backend.cache_prompt = False
            log.warning("UNSAFE RAM prompt cache: %s; prompt caching is now off for every request", advice)
        return missing

    def _enlist(self, member: _Member) -> None:
        assert self._pool is not None
        assert member.backend.props is not None
        member.up = True
        self._pool.backend_up(
            member.backend.name, member.backend, slots=member.backend.props.slots, experts=member.backend.experts
        )

    def _drop(self, member: _Member) -> None:
        member.up = False
        if self._pool is not None:
            self._pool.backend_down(member.backend.name)

    # -- keeping up -----------------------------------------------------------------------------------------------

    async def _watch(self, member: _Member) -> None:
        """Notice an end or a hang, restart with back-off; runs until the member is stopped."""
        failures, up_since = 0, time.monotonic()
        while True:
            await self._until_trouble(member)
            self._drop(member)
            failures = 0 if time.monotonic() - up_since > _HEALTHY_S else failures
            log.error("backend down", extra={"backend": member.backend.name, "last_words": _last_words(member)})
            while True:
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
                try:
                    if member.process is not None:
                        await member.process.stop()
                        self.restarts += 1
                    await self._bring_up(member)
                    break
                except (BackendError, ConfigError) as error:
                    log.error("backend restart failed", extra={"backend": member.backend.name, "error": error.message})
            if member.failed is not None:
                member.failed.clear()
            self._enlist(member)
            up_since = time.monotonic()
            log.info("backend up again", extra={"backend": member.backend.name})

    async def _until_trouble(self, member: _Member) -> None:
        """Return when the child has ended, a request has met a failure, or two health checks in a row failed."""
        assert member.failed is not None
        waits: list[Callable[[], Awaitable[object]]] = [member.failed.wait, lambda: self._until_unhealthy(member)]
        if member.process is not None:
            waits.append(member.process.wait)
        tasks = [asyncio.ensure_future(wait()) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_unhealthy(self, member: _Member) -> None:
        misses = 0
        while misses < 2:
            await asyncio.sleep(self._config.health_every_s)
            misses = 0 if await member.backend.is_healthy(timeout_s=self._config.health_every_s) else misses + 1

    async def _stop(self, member: _Member) -> None:
        member.up = False
        if member.task is not None:
            member.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await member.task
        if member.process is not None:
            await member.process.stop()


def _expected(experts: Sequence[Expert]) -> tuple[dict[str, Path], dict[str, float]]:
    paths = {expert.name: expert.adapter_path for expert in experts}
    return paths, {expert.name: expert.manifest.scale for expert in experts}


def _not_loaded(member: _Member) -> dict[str, str]:
    """The experts whose adapter files llama.cpp complained of as it ended, with its reason."""
    reasons: dict[str, str] = {}
    process = member.process
    for expert in member.experts if process is not None else ():
        path = expert.adapter_path
        if process is not None and (why := process.why_not_loaded(str(path))) is not None:
            reasons[expert.name] = f"{path}: llama.cpp cannot load this adapter: {why}"
    return reasons


def _last_words(member: _Member) -> str:
    return member.process.last_words() if member.process else "not our process"


async def kv_is_safe(backend: Backend) -> bool:
    """Ask for one text under an expert, then, with other texts between, under the base: was the expert's KV used?

    llama-server's RAM prompt cache is keyed by tokens alone and restores an evicted prompt whatever adapter computed
    it (llama.cpp issue 26207). With one filler more than there are slots the first prompt has left every slot, so any
    KV reused for it at the end is the expert's.
    """
    expert = next(name for name in sorted(backend.experts) if name != BASE)
    slots = backend.props.slots if backend.props else 1
    nonce = f"{time.time_ns():x}"
    text = f"{nonce} " + " ".join(f"{nonce[i % 8 :]} item {i} of the probe list;" for i in range(4))
    await backend.timings(text, expert)
    for filler in range(slots + 1):
        other = " ".join(f"filler {filler} line {i * 7 + filler} {nonce[filler % 8 :]}." for i in range(4))
        await backend.timings(f"{filler} {other}", BASE)
    last = await backend.timings(text, BASE)
    reused, read = int(last["cache_n"]), int(last["prompt_n"])
    if reused > read:
        log.error("the engine reused another expert's KV", extra={"cache_n": reused, "prompt_n": read})
        return False
    return True
