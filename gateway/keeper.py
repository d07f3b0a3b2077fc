"""Keeps one backend up: start, checks before it may serve, a watch on its life, restarts with back-off.

A backend that fails is out of service at once (the circuit is open), is tried again after 0.2 s and then ever longer,
up to 30 s, and serves only after it has passed every check again. Knows nothing of the other backends, or of leases.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from .errors import BackendError, BackendStartError, ConfigError
from .kv_probe import Proofs, kv_is_safe, server_identity
from .member import Member, changed, last_words, not_loaded

__all__ = ["Keeper", "Listener"]

log = logging.getLogger("pointsman.engine")

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_HEALTHY_S = 10.0  # up for this long: the next crash starts again at the shortest back-off
_MISSES = 2  # health checks in a row that tell a hang from a hiccup
_START_MISSES = 5  # the same while it starts: it may be loading a large model on a busy machine


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told that a member serves, that it does not, that it goes on without an expert; and who knows its load."""

    up: Callable[[Member], None]
    down: Callable[[Member], None]
    refused: Callable[[Member, str, str], None]
    running: Callable[[Member], int]


class Keeper:
    """``bring_up`` and then ``watch``, or ``watch`` alone for one that did not come up; ``stop`` at the end.

    Args:
        proofs: the servers that have shown that they keep experts' KV apart; added to. A child of ours that starts
            again as such need not show it again: that would take longer than its start. Somebody else's server may
            have been restarted with other options, and must.
    """

    def __init__(self, member: Member, listener: Listener, proofs: Proofs | None = None) -> None:
        self.member = member
        self._proofs = Proofs() if proofs is None else proofs
        self._listener = listener
        self._failed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0

    async def bring_up(self) -> None:
        """Start it and check it; ``member.missing`` then says which of its experts it cannot serve, and why.

        Raises:
            BackendStartError: it did not come up.
            ConfigError: it must not serve, or its port is taken.
        """
        member = self.member
        if member.process is not None:
            await member.process.start()
        await self._until_healthy()
        checks = asyncio.ensure_future(self.check(first=True))
        await _first_of(checks, self._until_unhealthy(serving=False))
        if checks.cancelled():
            raise BackendStartError(f"{member.backend.url}: the engine stopped answering while it was checked")
        checks.result()

    def watch(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def fail(self) -> None:
        """It is broken: out of service until it has proved itself again."""
        if self.member.up:
            self._down()
            self._failed.set()

    def give_up(self) -> None:
        """No restart any more: one about to be complete must not enlist it again."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        self.member.up = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self.member.process is not None:
            await self.member.process.stop()

    # -- bringing up ----------------------------------------------------------------------------------------------

    async def _until_healthy(self) -> None:
        member, silences = self.member, 0
        start_s, timeout_s = member.config.start_s, member.config.start_timeout_s
        until = time.monotonic() + start_s
        while True:
            asked = time.monotonic()
            if await member.backend.is_healthy(timeout_s=timeout_s):
                return
            silences = silences + 1 if time.monotonic() - asked >= timeout_s else 0  # else: refused, or still loading
            if member.process is not None and not member.process.running:
                how = _signal(await member.process.wait())
                raise BackendStartError(f"the engine ended while starting{how}: {member.process.last_words()}")
            if member.process is not None and silences == _START_MISSES:
                raise BackendStartError(f"{member.backend.url}: the engine accepts connections and does not answer")
            if time.monotonic() > until:
                raise BackendStartError(f"{member.backend.url}: no healthy llama-server within {start_s:g} s")
            await asyncio.sleep(0.05)

    async def check(self, *, first: bool) -> None:
        """Everything that must hold before a backend may serve; fills ``member.missing``."""
        member, backend = self.member, self.member.backend
        props = await backend.load_props()
        missing = dict.fromkeys(await backend.load_adapters(), f"{backend.url} has not loaded this adapter")
        template = hashlib.sha256(props.chat_template.encode()).hexdigest()
        if member.config.kind == "url":
            for expert in member.experts:
                trained = expert.manifest.base.chat_template_sha256
                if trained != template:
                    missing[expert.name] = f"trained with chat template sha256 {trained}, {backend.url} has {template}"
        for name in missing:
            backend.forget(name)
        await backend.probe()
        if first and len(backend.experts) > 1 and not await self._keeps_kv_apart(props.build):
            advice = "start llama-server with --cache-ram 0"
            if not member.config.allow_unsafe_cache:
                raise ConfigError(
                    f"{backend.url} reuses one expert's KV cache for another (its RAM prompt cache is on): {advice}, "
                    "or set engine.allow_unsafe_cache to go on with prompt caching forbidden for every request"
                )
            backend.cache_prompt = False
            log.warning("UNSAFE RAM prompt cache: %s; prompt caching is now off for every request", advice)
        member.missing = missing

    async def _keeps_kv_apart(self, build: str) -> bool:
        if self.member.process is None:
            return await kv_is_safe(self.member.backend)
        identity = await asyncio.to_thread(server_identity, self.member.config, build)
        if identity not in self._proofs:
            if not await kv_is_safe(self.member.backend):
                return False
            self._proofs.add(identity)
        return True

    def enlist(self) -> None:
        """It may serve from now on."""
        member = self.member
        member.up, member.failures = True, 0
        member.lives += 1
        self._failed.clear()
        self._listener.up(member)

    def _down(self) -> None:
        self.member.up = False
        self._listener.down(self.member)

    # -- keeping up -----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Notice an end or a hang, restart with back-off; runs until the member is stopped."""
        member, failures = self.member, 0
        while True:
            if member.up:
                up_since = time.monotonic()
                await self._until_trouble()
                self._down()
                failures = 0 if time.monotonic() - up_since > _HEALTHY_S else failures
                log.error("backend down", extra={"backend": member.backend.name, "last_words": last_words(member)})
            if member.process is not None:
                # At once and without asking: it may hang, and its clients wait for their connections to break.
                await member.process.stop(limit_s=0)
            while True:
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
                if await self._revive():
                    break
            self.enlist()
            log.info("backend up", extra={"backend": member.backend.name})

    async def _revive(self) -> bool:
        """Start it once more; without the experts whose adapters are not what they were, or do not load any more."""
        member = self.member
        facts = {"backend": member.backend.name}
        try:
            if member.process is not None:
                await member.process.stop(limit_s=0)
                self.restarts += 1
                self._refuse(await asyncio.to_thread(changed, member.experts))
            await self.bring_up()
            return True
        except BackendStartError as error:
            log.error("backend restart failed", extra={**facts, "error": error.message})
            self._refuse(not_loaded(member))
        except (BackendError, ConfigError) as error:
            log.error("backend restart failed", extra={**facts, "error": error.message})
        except Exception:  # whatever it was: nobody else would try again
            log.exception("backend restart failed", extra=facts)
        return False

    def _refuse(self, reasons: Mapping[str, str]) -> None:
        """Go on without these experts, until a reload."""
        member = self.member
        if reasons:
            member.carry(tuple(expert for expert in member.experts if expert.name not in reasons))
        for name, reason in reasons.items():
            log.error("expert refused: %s", reason, extra={"expert": name, "backend": member.backend.name})
            self._listener.refused(member, name, reason)

    async def _until_trouble(self) -> None:
        """Return when the child has ended, a request has met a failure, or health checks in a row have failed."""
        process = self.member.process
        ended = [process.wait()] if process is not None else []
        await _first_of(self._failed.wait(), self._until_unhealthy(serving=True), *ended)

    async def _until_unhealthy(self, *, serving: bool) -> None:
        config, backend, misses, probed_s = self.member.config, self.member.backend, 0, time.monotonic()
        timeout_s, rest_s = config.health_timeout_s if serving else config.start_timeout_s, config.health_every_s
        while misses < _MISSES:
            await asyncio.sleep(rest_s)
            asked_s = time.monotonic()
            healthy = await backend.is_healthy(timeout_s=timeout_s)
            now = time.monotonic()
            rest_s = max(0.0, asked_s + config.health_every_s - now)
            # What sends an answer meanwhile does not hang, on a machine where all is late.
            misses = 0 if healthy or backend.last_event_s > asked_s else misses + 1
            if serving and healthy and 0 < config.probe_every_s <= now - max(probed_s, backend.last_event_s):
                probed_s = now
                if not await self._generates():
                    log.error("backend generates nothing", extra={"backend": backend.name})
                    return

    async def _generates(self) -> bool:
        """Whether an idle backend generates a token; a busy one shows it by its answers."""
        if self._listener.running(self.member):
            return True
        try:
            await self.member.backend.probe()
        except BackendError:
            # A request that came meanwhile may hold the probe up: then its own answer tells.
            return bool(self._listener.running(self.member))
        return True


def _signal(status: int) -> str:
    """Which signal ended a child, for a sentence."""
    if status == -signal.SIGILL:
        return " (SIGILL: it was compiled for instructions that this machine does not allow)"
    return f" ({signal.Signals(-status).name})" if status < 0 else ""


async def _first_of(*work: Awaitable[object]) -> None:
    """Wait until one of them ends, then cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
