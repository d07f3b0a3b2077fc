"""One backend of ours: its client, its child process, the experts it carries; and what went wrong with them.

Owns no task and decides nothing: ``engine.py`` brings members up, watches and replaces them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .backend import Backend
from .errors import ManifestError
from .experts import BASE, Expert, check_adapter
from .process import EngineProcess, LaunchSpec

__all__ = ["EngineConfig", "Member", "changed", "expected_adapters", "last_words", "not_loaded"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One backend: ``kind`` is embedded, binary or url; ``launch`` (without adapters) serves the first two, ``url`` the
    third. ``at_once``: how many of its slots may be busy, None for all. ``experts``: names, None for all."""

    kind: str
    launch: LaunchSpec | None
    executable: str | None = None
    extra_arguments: tuple[str, ...] = ()
    url: str | None = None
    api_key: str | None = None
    strategy: str = "scale_api"
    start_s: float = 120.0
    stall_s: float = 120.0
    health_every_s: float = 1.0
    health_timeout_s: float = 1.2
    """For one answer to ``/health``, which llama-server gives from a thread of its own, however busy it is."""
    start_timeout_s: float = 3.0
    """The same until it serves, when it may be loading a large model, beside another engine and a fit."""
    probe_every_s: float = 60.0
    """An idle backend must generate a token so often; 0: never asked."""
    allow_unsafe_cache: bool = False
    at_once: int | None = None
    experts: frozenset[str] | None = None

    @property
    def address(self) -> str:
        """Where it listens, for our children until they are replaced."""
        return f"http://{self.launch.host}:{self.launch.port}" if self.launch is not None else str(self.url)

    def chosen(self, experts: Sequence[Expert]) -> tuple[Expert, ...]:
        """Those of the experts that this backend serves."""
        return tuple(e for e in experts if self.experts is None or e.name in self.experts)


@dataclass(slots=True)
class Member:
    """One backend of ours, and its process if it is our child."""

    config: EngineConfig
    backend: Backend
    process: EngineProcess | None
    experts: tuple[Expert, ...]
    missing: dict[str, str] = field(default_factory=dict)
    """Experts that it should serve and cannot, with the reason."""
    up: bool = False
    retiring: bool = False
    lives: int = 0
    failures: int = 0
    """Requests that failed on it one after another, with no event of any answer between."""
    failed_s: float = float("-inf")

    @property
    def names(self) -> set[str]:
        """What it serves, or is to serve when it comes up."""
        return set(self.backend.experts) if self.up else {BASE, *(expert.name for expert in self.experts)}

    def count_failure(self) -> int:
        """A request has failed on it before its first byte; returns how many have in a row."""
        if self.backend.last_event_s > self.failed_s:
            self.failures = 0
        self.failures += 1
        self.failed_s = time.monotonic()
        return self.failures

    def status(self) -> dict[str, object]:
        backend, props = self.backend, self.backend.props
        return {
            "name": backend.name,
            "url": backend.url,
            "up": self.up,
            "retiring": self.retiring,
            "pid": self.process.pid if self.process else None,
            "slots": props.slots if props else None,
            "at_once": min(self.config.at_once or props.slots, props.slots) if props else None,
            "ctx_per_slot": props.n_ctx if props else None,
            "experts": sorted(backend.experts),
            "build": props.build if props else None,
            "cache_prompt": backend.cache_prompt,
        }

    def carry(self, experts: tuple[Expert, ...]) -> None:
        """Say which experts it serves from its next start on."""
        self.experts = experts
        self.backend.expect(*expected_adapters(experts))
        if self.process is not None:
            self.process.spec = replace(self.process.spec, adapters=tuple(str(e.adapter_path) for e in experts))


def expected_adapters(experts: Sequence[Expert]) -> tuple[dict[str, Path], dict[str, float]]:
    """Each expert's adapter file and scale, as ``Backend.expect`` takes them."""
    paths = {expert.name: expert.adapter_path for expert in experts}
    return paths, {expert.name: expert.manifest.scale for expert in experts}


def changed(experts: Sequence[Expert]) -> dict[str, str]:
    """The experts whose adapter files are no longer those of their manifests, and what is wrong; blocking."""
    reasons: dict[str, str] = {}
    for expert in experts:
        try:
            check_adapter(expert)
        except ManifestError as error:
            reasons[expert.name] = f"{error.message}; reload to serve what is there now"
    return reasons


def not_loaded(member: Member) -> dict[str, str]:
    """The experts whose adapter files llama.cpp complained of as it ended, with its reason."""
    reasons: dict[str, str] = {}
    process = member.process
    for expert in member.experts if process is not None else ():
        path = expert.adapter_path
        if process is not None and (why := process.why_not_loaded(str(path))) is not None:
            reasons[expert.name] = f"{path}: llama.cpp cannot load this adapter: {why}"
    return reasons


def last_words(member: Member) -> str:
    return member.process.last_words() if member.process else "not our process"
