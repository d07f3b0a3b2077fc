"""The subcommands that need no running gateway: route, experts, pull. ``router_command`` has those of the router.

Each prints for a person, or JSON for a script, and returns the exit code.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from router import Router

from .app import router_factory
from .base import Kind, gguf_identity, resolve
from .experts import Expert, ExpertRegistry, Rejected, scan_experts
from .selection import Selector
from .settings import Settings

__all__ = ["list_experts", "pull", "route_text", "scan"]


def pull(settings: Settings, source: str | None, *, sha256: str | None, as_json: bool) -> int:
    """Bring a base model, or without a source the configured base and encoders, into the cache."""
    cache_dir = settings.cache
    if source is None:
        found = [resolve(settings.engine.base, cache_dir=cache_dir, kind=Kind.GGUF, sha256=settings.engine.base_sha256)]
        encoders = [settings.router.encoder, settings.router.second_encoder]
        # A Hub id is fetched by sentence-transformers, when the encoder is exported.
        found += [resolve(name, cache_dir=cache_dir, kind=Kind.DIRECTORY) for name in encoders if name and ":" in name]
    else:
        found = [resolve(source, cache_dir=cache_dir, kind=Kind.GGUF, sha256=sha256)]
    for row in found:
        facts = {"name": row.name, "revision": row.revision, "path": str(row.path), "sha256": row.sha256}
        print(json.dumps(facts) if as_json else f"{row.name} {row.revision}\n  {row.path}\n  sha256 {row.sha256}")
    return 0


def list_experts(settings: Settings, *, as_json: bool) -> int:
    experts, rejected = scan(settings)
    if as_json:
        rows = [expert.manifest.model_dump(mode="json") for expert in experts.values()]
        refused = [{"name": row.name, "reason": row.reason} for row in rejected]
        print(json.dumps({"experts": rows, "rejected": refused}))
        return 0
    for expert in experts.values():
        manifest = expert.manifest
        targets = ", ".join(target.term for target in manifest.targets)
        print(f"{manifest.name:16} {manifest.version:8} mentions {targets}: {manifest.description}")
    for row in rejected:
        print(f"{row.name:16} REFUSED  {row.reason}")
    return 0


def route_text(settings: Settings, turns: list[str], *, as_json: bool) -> int:
    """Show the decision for a conversation's user turns."""
    experts, rejected = scan(settings)
    selection = asyncio.run(_select(settings, experts, rejected, turns))
    if as_json:
        more = {"scores": dict(selection.scores), "threshold": selection.threshold, "second": selection.second}
        print(json.dumps({**selection.facts(), **more}))
        return 0
    by = ", by the second router" if selection.second else ""
    score = "" if selection.score is None else f", score {selection.score:.3f}, threshold {selection.threshold:.3f}"
    print(f"{selection.expert} ({selection.reason}{by}{score})")
    for name, value in sorted(selection.scores.items(), key=lambda item: -item[1]):
        print(f"  {name:16} {value:.3f}")
    return 0


async def _select(settings: Settings, experts: dict[str, Expert], rejected: list[Rejected], turns: list[str]) -> Any:
    router: Router | None = await asyncio.to_thread(router_factory(settings).build, list(experts.values()))
    try:
        registry = ExpertRegistry(experts, rejected)
        return await Selector(registry, router, fallback=settings.router.fallback).select(None, turns)
    finally:
        if router is not None:
            await router.aclose()


def scan(settings: Settings) -> tuple[dict[str, Expert], list[Rejected]]:
    """The experts on disk that fit the base, and those that are refused."""
    base = None
    if settings.engine.kind != "url":
        cache_dir = settings.cache
        found = resolve(settings.engine.base, cache_dir=cache_dir, kind=Kind.GGUF, sha256=settings.engine.base_sha256)
        base = gguf_identity(found, cache_dir)
    return scan_experts(settings.experts.dir.resolve(), base)
