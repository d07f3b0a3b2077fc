"""One backend of ours: its client, its child process, the experts it carries; and what went wrong with them.

Owns no task and decides nothing: ``engine.py`` brings members up, watches and replaces them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .backend import Backend
from .errors import ManifestError
from .experts import Expert, check_adapter
from .process import EngineProcess, LaunchSpec

__all__ = ["EngineConfig", "Member", "changed", "expected_adapters", "last_words", "not_loaded"]


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
    health_every_s: float = 1.0
    health_timeout_s: float = 3.0
    """For one answer to ``/health``, which llama-server gives from a thread of its own, however busy it is."""
    allow_unsafe_cache: bool = False


@dataclass(slots=True)
class Member:
    """One backend of ours, its process if it is our child, and the task that watches it."""

    backend: Backend
    process: EngineProcess | None
    experts: tuple[Expert, ...]
    task: asyncio.Task[None] | None = None
    failed: asyncio.Event | None = None
    up: bool = False
    lives: int = 0

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
