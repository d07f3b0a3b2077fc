"""The set of backends: which there are, which serve, how one is added, replaced or drained at run time.

Stands between the backends (``keeper`` keeps each one up) and the lease pool. Replaces children one by one when the set
of adapters changes, since llama-server cannot load one at run time. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from .backend import Backend
from .errors import BackendError, BackendStartError, InvalidRequest
from .experts import Expert
from .http1 import HttpClient
from .keeper import Keeper, Listener
from .kv_probe import Proofs
from .leases import LeasePool
from .member import EngineConfig, Member, not_loaded
from .process import EngineProcess, free_port

__all__ = ["Engine", "EngineConfig"]

log = logging.getLogger("pointsman.engine")

_FAILURES = 3  # requests failed in a row, with no answer between them, though /health says that all is well


class Engine:
    """Use from one event loop. ``start`` before the first request, ``aclose`` at the end.

    Args:
        configs: one for each backend to start with.
        on_refused: called with an expert's name and the reason when no backend can serve it any more.
    """

    def __init__(
        self,
        configs: Sequence[EngineConfig],
        session: HttpClient,
        *,
        on_refused: Callable[[str, str], None] = lambda name, reason: None,
        proofs: Proofs | None = None,
    ) -> None:
        self._configs = tuple(configs)
        self._session = session
        self._on_refused = on_refused
        self._pool: LeasePool | None = None
        self._experts: tuple[Expert, ...] = ()
        self._keepers: dict[str, Keeper] = {}
        self._proofs = Proofs() if proofs is None else proofs
        self._numbers = 0
        self._changing = asyncio.Lock()  # one that comes up during a replacement would carry what is being replaced
        self._stopping: set[asyncio.Task[None]] = set()
        self._restarts = 0

    # -- what is so -----------------------------------------------------------------------------------------------

    def backend(self, name: str) -> Backend | None:
        """The backend of a lease; None when it has been taken away since."""
        keeper = self._keepers.get(name)
        return keeper.member.backend if keeper else None

    def status(self) -> list[dict[str, object]]:
        return [keeper.member.status() for keeper in self._keepers.values()]

    @property
    def restarts(self) -> int:
        return self._restarts + sum(keeper.restarts for keeper in self._keepers.values())

    @property
    def any_up(self) -> bool:
        return any(member.up for member in self._members())

    async def generates(self, idle_s: float = 60.0, timeout_s: float = 5.0) -> bool:
        """Whether every expert has a backend that really generates: it sent tokens lately, or answers a probe now."""
        members = [member for member in self._members() if not member.retiring]

        async def proves(member: Member) -> bool:
            if member.up and time.monotonic() - member.backend.last_event_s >= idle_s:
                try:
                    await member.backend.probe(timeout_s)
                except BackendError:
                    return False
            return member.up

        proved = await asyncio.gather(*(proves(member) for member in members))
        served = {name for member, good in zip(members, proved, strict=True) if good for name in member.names}
        return bool(served) and served == {name for member in members for name in member.names}

    def _members(self) -> list[Member]:
        return [keeper.member for keeper in self._keepers.values()]

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self, pool: LeasePool, experts: Sequence[Expert]) -> dict[str, str]:
        """Bring the backends up; returns the experts that none can serve, with the reason.

        One of several that does not come up is tried again and again while the others serve.

        Raises:
            ConfigError: one cannot be started, or cannot be made safe.
            BackendStartError: none came up.
        """
        self._pool, self._experts = pool, tuple(experts)
        tries = (self._add(config, first=True, patient=len(self._configs) > 1) for config in self._configs)
        results = await asyncio.gather(*tries, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise errors[0]
        if not self.any_up:
            raise BackendStartError("none of the backends came up: the log says why of each")
        return self._unserved()

    async def add(self, config: EngineConfig) -> str:
        """Bring one more backend up, at run time; returns its name.

        Raises:
            ConfigError, BackendStartError: it cannot be started, or cannot be made safe.
        """
        async with self._changing:
            return (await self._add(config, first=True)).member.backend.name

    def drain(self, name: str) -> None:
        """Let a backend finish what runs on it, then stop and forget it.

        Raises:
            InvalidRequest: there is none of that name (404), or nobody else would be left to serve its experts (409).
        """
        keeper = self._keepers.get(name)
        if keeper is None or keeper.member.retiring:
            allowed = ", ".join(member.backend.name for member in self._members() if not member.retiring)
            message = f"There is no backend {name[:100]!r}; there are: {allowed}."
            raise InvalidRequest(message, status=404, code="backend_not_found", param="name")
        others = [member for member in self._members() if member.up and not member.retiring]
        served = {served for member in others if member is not keeper.member for served in member.names}
        if left := sorted(keeper.member.names - served):
            message = f"{name} is the last backend that serves {', '.join(left)}: add another first."
            raise InvalidRequest(message, status=409, code="last_backend", param="name")
        self._retire(keeper)

    async def replace(self, experts: Sequence[Expert]) -> dict[str, str]:
        """Serve another set of adapters without dropping a stream: for each child a new one comes up, the old drains.

        Raises:
            BackendStartError: a new child does not come up; the old one goes on serving.
        """
        async with self._changing:
            before, self._experts = self._experts, tuple(experts)
            try:
                for keeper in [k for k in self._keepers.values() if not k.member.retiring]:
                    await self._replace_one(keeper)
            except BaseException:
                self._experts = before
                raise
            return self._unserved()

    async def _replace_one(self, keeper: Keeper) -> None:
        member = keeper.member
        if member.process is not None:
            await self._add(member.config, first=False)
            self._retire(keeper)
            return
        before = member.experts
        member.carry(member.config.chosen(self._experts))
        if not member.up:
            return
        try:
            await keeper.check(first=False)
        except BaseException:
            member.carry(before)
            raise
        assert self._pool is not None
        self._pool.set_experts(member.backend.name, member.backend.experts)

    async def suspect(self, name: str) -> None:
        """A request met a broken connection, which can happen without harm (an idle one, closed as it was reused): only
        a sick backend goes down, and only if it is not a new one by now. One that looks healthy goes down when three
        requests in a row have failed on it."""
        keeper = self._keepers.get(name)
        if keeper is None or not keeper.member.up:
            return
        member = keeper.member
        life = member.lives
        broken = not await member.backend.is_healthy() or member.count_failure() >= _FAILURES
        if broken and member.lives == life:
            keeper.fail()

    def report_failure(self, name: str) -> None:
        """A backend is broken: no more grants until it has proved itself again."""
        keeper = self._keepers.get(name)
        if keeper is not None:
            keeper.fail()

    def retired(self, name: str) -> None:
        """The pool has drained a backend: stop it."""
        keeper = self._keepers.pop(name, None)
        if keeper is not None:
            self._restarts += keeper.restarts
            keeper.give_up()
            task = asyncio.get_running_loop().create_task(keeper.stop())
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))
        await asyncio.gather(*self._stopping, return_exceptions=True)
        self._keepers.clear()

    # -- members --------------------------------------------------------------------------------------------------

    async def _add(self, config: EngineConfig, *, first: bool, patient: bool = False) -> Keeper:
        """``patient``: one that does not come up now is a member all the same, and tried again."""
        experts = config.chosen(self._experts)
        refused: dict[str, str] = {}
        while True:
            member = self._member(config, experts, first=first)
            keeper, came_up = Keeper(member, self._listener(), self._proofs), False
            try:
                await keeper.bring_up()
                came_up = True
                break
            except BackendStartError as error:
                await keeper.stop()
                found = not_loaded(keeper.member)
                if not found and not patient:
                    raise
                if not found:
                    log.error("backend did not start", extra={"url": config.address, "error": error.message})
                    break
                log.error("adapter refused by the engine", extra={"experts": list(found)})
                refused |= found
                experts = tuple(e for e in experts if e.name not in found)
            except BaseException:
                await keeper.stop()
                raise
        member = keeper.member
        member.missing |= refused
        self._keepers[member.backend.name] = keeper
        if came_up:
            keeper.enlist()
        keeper.watch()
        return keeper

    def _member(self, config: EngineConfig, experts: tuple[Expert, ...], *, first: bool) -> Member:
        self._numbers += 1
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
        member = Member(config, backend, process, experts)
        member.carry(experts)
        return member

    def _retire(self, keeper: Keeper) -> None:
        assert self._pool is not None
        member = keeper.member
        member.retiring = True
        self._pool.retire(member.backend.name)
        if not member.up:  # one that never came up is unknown to the pool
            self.retired(member.backend.name)

    def _unserved(self) -> dict[str, str]:
        """The experts that no backend serves, or may serve when it comes up, with the reason of one of them."""
        members = [member for member in self._members() if not member.retiring]
        served = {name for member in members for name in member.names}
        reasons = {name: reason for member in members for name, reason in member.missing.items()}
        unserved = [expert.name for expert in self._experts if expert.name not in served]
        return {name: reasons.get(name, f"{name}: no backend is configured to serve it") for name in unserved}

    # -- what keepers tell ----------------------------------------------------------------------------------------

    def _listener(self) -> Listener:
        return Listener(up=self._up, down=self._down, refused=self._refused, running=self._running)

    def _up(self, member: Member) -> None:
        assert self._pool is not None
        assert member.backend.props is not None
        self._pool.backend_up(
            member.backend.name,
            member.backend,
            slots=member.backend.props.slots,
            experts=member.backend.experts,
            at_once=member.config.at_once,
        )

    def _down(self, member: Member) -> None:
        if self._pool is not None:
            self._pool.backend_down(member.backend.name)

    def _refused(self, member: Member, name: str, reason: str) -> None:
        member.missing[name] = reason
        if not any(name in other.names for other in self._members() if not other.retiring):
            self._on_refused(name, reason)

    def _running(self, member: Member) -> int:
        return self._pool.running(member.backend.name) if self._pool is not None else 0
