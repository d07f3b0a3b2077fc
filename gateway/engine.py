"""Brings backends up, keeps them up, replaces them: what stands between a child process and the lease pool.

Owns the life of every backend: start, checks before it may serve, restart with back-off, rolling replacement when the
set of adapters changes (llama-server cannot load one at run time). Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import aiohttp

from .backend import Backend
from .errors import BackendError, BackendStartError, ConfigError
from .experts import Expert
from .kv_probe import kv_is_safe
from .leases import LeasePool
from .member import EngineConfig, Member, changed, last_words, not_loaded
from .process import EngineProcess, free_port

__all__ = ["Engine", "EngineConfig"]

log = logging.getLogger("pointsman.engine")

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_S = 10.0  # up for this long: the next crash starts again at the shortest back-off
_MISSES = 2  # health checks in a row that tell a hang from a hiccup
_START_MISSES = 5  # the same while it starts: it may be loading a large model on a busy machine


class Engine:
    """Use from one event loop. ``start`` before the first request, ``aclose`` at the end.

    Args:
        on_refused: called with an expert's name and the reason when a restart could not bring it back.
    """

    def __init__(
        self,
        config: EngineConfig,
        session: aiohttp.ClientSession,
        *,
        on_refused: Callable[[str, str], None] = lambda name, reason: None,
    ) -> None:
        self._config = config
        self._session = session
        self._on_refused = on_refused
        self._pool: LeasePool | None = None
        self._members: dict[str, Member] = {}
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
            member.carry(tuple(experts))
            missing = await self._check(member, first=False)
            self._pool.set_experts(member.backend.name, member.backend.experts)
            return missing
        unserved = await self._add(tuple(experts), first=False)
        for name in old:
            self._pool.retire(name)
        return unserved

    async def suspect(self, name: str) -> None:
        """A request met a broken connection, which can happen without harm (an idle one, closed as it was reused): only
        a sick backend goes down, and only if it is not a new one by now."""
        member = self._members.get(name)
        if member is None or not member.up:
            return
        life = member.lives
        if not await member.backend.is_healthy() and member.lives == life:
            self.report_failure(name)

    def report_failure(self, name: str) -> None:
        """A backend is broken: no more grants until it has proved itself again."""
        member = self._members.get(name)
        if member is not None and member.up:
            self._drop(member)
            if member.failed is not None:
                member.failed.set()

    def retired(self, name: str) -> None:
        """The pool has drained a replaced backend: stop it."""
        member = self._members.pop(name, None)
        if member is not None:
            if member.task is not None:
                member.task.cancel()  # at once: a restart about to be complete must not enlist it again
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
                refused = not_loaded(member)
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

    def _member(self, experts: tuple[Expert, ...], *, first: bool) -> Member:
        self._numbers += 1
        config = self._config
        process: EngineProcess | None = None
        url, api_key = config.url or "", config.api_key
        if config.launch is not None:
            port = config.launch.port if first else free_port(config.launch.host)
            spec = replace(config.launch, port=port)
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
        member = Member(backend, process, experts)
        member.carry(experts)
        return member

    async def _bring_up(self, member: Member) -> dict[str, str]:
        if member.process is not None:
            await member.process.start()
        await self._until_healthy(member)
        checks = asyncio.ensure_future(self._check(member, first=True))
        await _first_of(checks, self._until_unhealthy(member))
        if checks.cancelled():
            raise BackendStartError(f"{member.backend.url}: the engine stopped answering while it was checked")
        return checks.result()

    async def _until_healthy(self, member: Member) -> None:
        timeout_s, silences = self._config.health_timeout_s, 0
        until = time.monotonic() + self._config.start_s
        while True:
            asked = time.monotonic()
            if await member.backend.is_healthy(timeout_s):
                return
            silences = silences + 1 if time.monotonic() - asked >= timeout_s else 0  # else: refused, or still loading
            if member.process is not None and not member.process.running:
                await member.process.wait()
                raise BackendStartError(f"the engine ended while starting: {member.process.last_words()}")
            if member.process is not None and silences == _START_MISSES:
                raise BackendStartError(f"{member.backend.url}: the engine accepts connections and does not answer")
            if time.monotonic() > until:
                raise BackendStartError(
                    f"{member.backend.url}: no healthy llama-server within {self._config.start_s:g} s"
                )
            await asyncio.sleep(0.05)

    async def _check(self, member: Member, *, first: bool) -> dict[str, str]:
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

    def _enlist(self, member: Member) -> None:
        assert self._pool is not None
        assert member.backend.props is not None
        member.up = True
        member.lives += 1
        self._pool.backend_up(
            member.backend.name, member.backend, slots=member.backend.props.slots, experts=member.backend.experts
        )

    def _drop(self, member: Member) -> None:
        member.up = False
        if self._pool is not None:
            self._pool.backend_down(member.backend.name)

    # -- keeping up -----------------------------------------------------------------------------------------------

    async def _watch(self, member: Member) -> None:
        """Notice an end or a hang, restart with back-off; runs until the member is stopped."""
        failures, up_since = 0, time.monotonic()
        while True:
            await self._until_trouble(member)
            self._drop(member)
            failures = 0 if time.monotonic() - up_since > _HEALTHY_S else failures
            log.error("backend down", extra={"backend": member.backend.name, "last_words": last_words(member)})
            if member.process is not None:
                # At once and without asking: it may hang, and its clients wait for their connections to break.
                await member.process.stop(limit_s=0)
            while True:
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
                if await self._revive(member):
                    break
            if member.failed is not None:
                member.failed.clear()
            self._enlist(member)
            up_since = time.monotonic()
            log.info("backend up again", extra={"backend": member.backend.name})

    async def _revive(self, member: Member) -> bool:
        """Start it once more; without the experts whose adapters are not what they were, or do not load any more."""
        facts = {"backend": member.backend.name}
        try:
            if member.process is not None:
                await member.process.stop(limit_s=0)
                self.restarts += 1
                self._refuse(member, await asyncio.to_thread(changed, member.experts))
            await self._bring_up(member)
            return True
        except BackendStartError as error:
            log.error("backend restart failed", extra={**facts, "error": error.message})
            self._refuse(member, not_loaded(member))
        except (BackendError, ConfigError) as error:
            log.error("backend restart failed", extra={**facts, "error": error.message})
        except Exception:  # whatever it was: nobody else would try again
            log.exception("backend restart failed", extra=facts)
        return False

    def _refuse(self, member: Member, reasons: Mapping[str, str]) -> None:
        """Go on without these experts, until a reload."""
        for name, reason in reasons.items():
            log.error("expert refused: %s", reason, extra={"expert": name})
            self._on_refused(name, reason)
        if reasons:
            member.carry(tuple(expert for expert in member.experts if expert.name not in reasons))

    async def _until_trouble(self, member: Member) -> None:
        """Return when the child has ended, a request has met a failure, or health checks in a row have failed."""
        assert member.failed is not None
        ended = [member.process.wait()] if member.process is not None else []
        await _first_of(member.failed.wait(), self._until_unhealthy(member), *ended)

    async def _until_unhealthy(self, member: Member) -> None:
        config, misses = self._config, 0
        while misses < _MISSES:
            await asyncio.sleep(config.health_every_s)
            misses = 0 if await member.backend.is_healthy(timeout_s=config.health_timeout_s) else misses + 1

    async def _stop(self, member: Member) -> None:
        member.up = False
        if member.task is not None:
            member.task.cancel()
            await asyncio.wait({member.task})
        if member.process is not None:
            await member.process.stop()


async def _first_of(*work: Awaitable[object]) -> None:
    """Wait until one of them ends, then cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
