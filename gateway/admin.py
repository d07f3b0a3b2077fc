"""Health for machines, status and switches for the person who runs the gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from . import __version__
from .context import Gateway, gateway_of
from .errors import ConfigError, ExpertNotFound, InvalidRequest
from .experts import BASE

__all__ = ["admin"]


async def _admin_only(request: Request) -> None:
    gateway_of(request.scope).keyring.admin(request.headers.get("authorization"), request.headers.get("x-api-key"))


admin = APIRouter()
guarded = APIRouter(prefix="/admin", dependencies=[Depends(_admin_only)])


@admin.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok", "version": __version__}


@admin.get("/ready")
async def ready(request: Request) -> Response:
    """200 when every expert has a backend that really generates: tokens came lately, or it answers a probe now."""
    generates = await gateway_of(request.scope).engine.generates()
    return JSONResponse({"status": "ready" if generates else "not ready"}, status_code=200 if generates else 503)


@admin.get("/metrics")
async def metrics(request: Request) -> Response:
    gateway = gateway_of(request.scope)
    _refresh(gateway)
    return PlainTextResponse(gateway.metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@guarded.get("/status")
async def status(request: Request) -> dict[str, Any]:
    gateway = gateway_of(request.scope)
    scheduler = gateway.pool.scheduler
    return {
        "version": __version__,
        "backends": gateway.engine.status(),
        "restarts": gateway.engine.restarts,
        "queued": scheduler.queued_by_expert(),
        "leases": [
            {"id": lease.id, "backend": lease.backend, "slots": lease.slots, "expert": lease.request.expert}
            for lease in scheduler.leases.values()
        ],
        "tasks": len(asyncio.all_tasks()),
        "active": {name: backend.active for name, backend in scheduler.backends.items()},
        "router": {
            "routes": sorted(gateway.selector.router.routes) if gateway.selector.router else [],
            "threshold": gateway.selector.router.threshold if gateway.selector.router else None,
            "encoder": gateway.encoder,
        },
    }


@guarded.get("/experts")
async def experts(request: Request) -> dict[str, Any]:
    registry = gateway_of(request.scope).registry
    return {
        "experts": [
            {**expert.manifest.model_dump(mode="json"), "enabled": registry.is_enabled(expert.name)}
            for expert in registry
        ],
        "rejected": [{"name": row.name, "reason": row.reason} for row in registry.rejected],
    }


@guarded.post("/experts/{name}/enable")
async def enable(request: Request, name: str) -> dict[str, Any]:
    return _switch(request, name, True)


@guarded.post("/experts/{name}/disable")
async def disable(request: Request, name: str) -> dict[str, Any]:
    return _switch(request, name, False)


@guarded.post("/reload")
async def reload(request: Request) -> dict[str, Any]:
    """Pick up published experts: new adapters, refitted router; running streams go on to their end."""
    return await gateway_of(request.scope).reload()


@guarded.get("/backends")
async def backends(request: Request) -> dict[str, Any]:
    return {"backends": gateway_of(request.scope).engine.status()}


@guarded.post("/backends")
async def add_backend(request: Request) -> Response:
    """Bring one more backend up; the body has what the ``engine.backends`` entries of the settings have.

    Answers when it serves, which takes a child some seconds: 201 and its name.
    """
    try:
        own = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error
    if not isinstance(own, dict):
        raise InvalidRequest(f"The body must be an object of options, found {type(own).__name__}.")
    try:
        name = await gateway_of(request.scope).add_backend(own)
    except ConfigError as error:
        raise InvalidRequest(f"{error.message}.", code=error.code) from error
    return JSONResponse({"name": name}, status_code=201)


@guarded.post("/backends/{name}/drain")
async def drain_backend(request: Request, name: str) -> dict[str, Any]:
    """No new requests for this backend; what runs on it ends by itself, then it is stopped and forgotten."""
    gateway_of(request.scope).engine.drain(name)
    return {"name": name, "retiring": True}


def _switch(request: Request, name: str, enabled: bool) -> dict[str, Any]:
    registry = gateway_of(request.scope).registry
    if name not in registry:
        raise ExpertNotFound(f"The expert {name[:100]!r} does not exist.", param="name")
    registry.set_enabled(name, enabled)
    return {"name": name, "enabled": enabled}


def _refresh(gateway: Gateway) -> None:
    """Set the gauges that are read off, not counted."""
    metrics, scheduler, registry = gateway.metrics, gateway.pool.scheduler, gateway.registry
    for gauge in (metrics.queued, metrics.leases, metrics.active, metrics.backend_up):
        gauge.clear()
    for expert, count in scheduler.queued_by_expert().items():
        metrics.queued.labels(expert).set(count)
    names = [BASE, *(expert.name for expert in registry)]
    for row in gateway.engine.status():
        name = str(row["name"])
        metrics.backend_up.labels(name).set(1 if row["up"] else 0)
        backend = scheduler.backends.get(name)
        if backend is not None:
            metrics.leases.labels(name).set(backend.running)
            for expert in names:
                metrics.active.labels(name, expert).set(1 if backend.active == expert else 0)
    metrics.tasks.set(len(asyncio.all_tasks()))
    metrics.restarts.set(gateway.engine.restarts)
    router = gateway.selector.router
    metrics.threshold.set(router.threshold if router else 0)
    metrics.has_second.set(router.has_second if router else 0)
    enabled = sum(registry.is_enabled(expert.name) for expert in registry)
    metrics.experts.labels("enabled").set(enabled)
    metrics.experts.labels("disabled").set(len(registry) - enabled)
    metrics.experts.labels("rejected").set(len(registry.rejected))


admin.include_router(guarded)
