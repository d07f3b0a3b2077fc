"""Opens the gateway's parts in order, closes them in reverse, and renders every error as OpenAI's envelope.

The only module, with ``__main__``, that sees ``Settings``; what is below receives plain values.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import __version__
from .admin import admin
from .api import api, completions
from .auth import Keyring, RateLimiter, admin_key_file, is_loopback, load_keys
from .base import BaseIdentity, Kind, gguf_identity, gguf_info, resolve
from .context import Gateway
from .engine import Engine, EngineConfig
from .errors import ConfigError, GatewayError, InvalidRequest, error_body
from .experts import BASE, ExpertRegistry, scan_experts
from .http1 import HttpClient
from .kv_probe import Proofs
from .label_log import LabelLog
from .leases import LeasePool
from .metrics import Metrics
from .pace import Pace
from .process import LaunchSpec, free_port
from .relay import Limits, Relay
from .reload import Reloader, Scanned
from .routing import RouterFactory
from .scheduler import Scheduler
from .selection import Selector
from .settings import EngineSettings, Settings
from .sizing import answers_at_once, kv_slots, memory_bytes, threads_each, usable_cores

__all__ = ["create_app", "open_gateway", "router_factory"]

log = logging.getLogger("pointsman")

_VARY = (b"vary", b"Origin")
"""For caches between: a page's answer has other headers. CORSMiddleware says so of what passes through it."""

_EXPOSED_HEADERS = (
    "x-request-id",
    "retry-after",
    *(f"x-pointsman-{n}" for n in ("requested-model", "expert", "reason", "score", "backend", "queue-ms", "route-ms")),
)


@contextlib.asynccontextmanager
async def open_gateway(settings: Settings, *, progress: bool = True) -> AsyncIterator[Gateway]:
    """Open everything: base, experts, engine, router. Slow the first time, seconds afterwards.

    Raises:
        ConfigError, BackendStartError, DownloadError: in one line, what is wrong and what is allowed.
    """
    keyring = _keyring(settings)
    metrics = Metrics()
    label_log = _label_log(settings)
    registry = ExpertRegistry({})
    async with contextlib.AsyncExitStack() as stack:
        if label_log is not None:
            stack.callback(label_log.close)
        base = await asyncio.to_thread(_resolve_base, settings, progress)
        routers = router_factory(settings)
        stack.callback(routers.close)
        sections = settings.engine.each()
        reloader = Reloader(
            lambda: _scan(settings, base),
            routers,
            registry,
            retry_refused=any(own.kind == "url" for own in settings.engine.each()),
        )
        client = HttpClient()
        stack.push_async_callback(client.aclose)
        configs = [_engine_config(settings, own, base, children=len(sections)) for own in sections]
        proofs = Proofs(settings.cache / "kv-apart")
        engine = Engine(configs, client, on_refused=reloader.refuse, proofs=proofs)
        pool = LeasePool(
            Scheduler(
                pace=Pace(settings.scheduler.quantum_s, settings.scheduler.quantum_answers),
                max_queue=settings.scheduler.max_queue,
                max_queue_per_client=settings.scheduler.max_queue_per_client,
            ),
            observer=metrics,
            on_down=engine.report_failure,
            on_retired=engine.retired,
        )

        async def add_backend(own: Mapping[str, Any]) -> str:
            section = _own_section(settings, own, base)
            return await engine.add(_engine_config(settings, section, base, children=len(engine.status()) + 1))

        stack.push_async_callback(pool.aclose)
        stack.push_async_callback(engine.aclose)
        stack.push_async_callback(reloader.aclose)
        router = await reloader.open(engine, pool)
        selector = Selector(registry, router, fallback=_fallback(settings, registry))
        stack.push_async_callback(_close_router, selector)
        yield Gateway(
            registry=registry,
            selector=selector,
            relay=Relay(pool, engine, Limits(settings.limits.request_timeout_s, settings.scheduler.queue_timeout_s)),
            pool=pool,
            engine=engine,
            metrics=metrics,
            keyring=keyring,
            limiter=RateLimiter(settings.auth.rate_limit_per_minute),
            reload=lambda: reloader.reload(engine, selector),
            add_backend=add_backend,
            encoder=settings.router.encoder,
            max_body_bytes=settings.server.max_body_bytes,
            max_tokens=settings.limits.max_tokens,
            default_tokens=settings.limits.default_tokens,
            keep_alive_s=settings.limits.keep_alive_s,
            client_stall_s=settings.limits.client_stall_s,
            thinking_off=settings.engine.thinking == "off",
            log_prompts=settings.log.prompts,
            label_log=label_log,
        )


def create_app(gateway: Gateway, *, cors_origins: Sequence[str] = ("*",)) -> ASGIApp:
    """The ASGI application over an open gateway.

    OpenAI's endpoints are plain routes: they read their bodies themselves and pass on what they do not know.
    """
    app = FastAPI(
        title="Pointsman",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        routes=[*api],
        middleware=[Middleware(_Errors)],
        exception_handlers={HTTPException: _render_http_error, RequestValidationError: _render_validation_error},
    )
    app.include_router(admin)
    app.state.gateway = gateway
    answering = _Completions(app)
    for_pages = CORSMiddleware(
        answering,
        allow_origins=list(cors_origins),
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=list(_EXPOSED_HEADERS),
        max_age=600,
    )
    return _RequestId(answering, for_pages)


def router_factory(settings: Settings) -> RouterFactory:
    """The factory that live traffic and the offline commands share."""
    return RouterFactory(
        settings.router.encoder,
        settings.experts.out_of_scope,
        settings.cache,
        second_encoder=settings.router.second_encoder,
        artifact=settings.router.artifact,
        threads=settings.router.threads,
        cache_size=settings.router.cache_size,
        max_batch=settings.router.max_batch,
        false_abstain=settings.router.false_abstain,
    )


# -- opening ------------------------------------------------------------------------------------------------------


def _label_log(settings: Settings) -> LabelLog | None:
    options = settings.router
    if options.label_log is None:
        return None
    return LabelLog(options.label_log, band=options.label_log_band, max_bytes=options.label_log_max_bytes)


def _keyring(settings: Settings) -> Keyring:
    plain = settings.api_keys.get_secret_value() if settings.api_keys else None
    keys = load_keys(settings.auth.keys_file, plain)
    host = settings.server.host
    if not keys and not is_loopback(host) and not settings.auth.allow_open:
        raise ConfigError(
            f"server.host {host} can be reached by others and no API key is set: set GATEWAY_API_KEYS or "
            "auth.keys_file, or auth.allow_open: true to serve anyone"
        )
    if settings.admin_key is not None:
        return Keyring(keys, settings.admin_key.get_secret_value())
    return Keyring(keys, admin_key_file(settings.cache).read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class _Base:
    path: str
    identity: BaseIdentity
    kv_token_bytes: int | None


def _resolve_base(settings: Settings, progress: bool) -> _Base | None:
    """None when every backend is somebody else's."""
    if all(engine.kind == "url" for engine in settings.engine.each()):
        return None
    cache_dir = settings.cache
    found = resolve(
        settings.engine.base, cache_dir=cache_dir, kind=Kind.GGUF, sha256=settings.engine.base_sha256, progress=progress
    )
    info = gguf_info(found.path, cache_dir)
    return _Base(str(found.path), gguf_identity(found, cache_dir), info.kv_token_bytes)


def _scan(settings: Settings, base: _Base | None) -> Scanned:
    return Scanned(*scan_experts(settings.experts.dir.resolve(), base.identity if base else None))


def _fallback(settings: Settings, registry: ExpertRegistry) -> str:
    name = settings.router.fallback
    if name != BASE and name not in registry:
        allowed = ", ".join([BASE, *(expert.name for expert in registry)])
        raise ConfigError(f"router.fallback {name!r} is not served; allowed: {allowed}")
    return name


def _own_section(settings: Settings, own: Mapping[str, Any], base: _Base | None) -> EngineSettings:
    """The engine section of a backend added at run time; a child gets a free port unless it names one."""
    try:
        section = settings.engine.with_own({"port": free_port(settings.engine.host), **own})
    except ValueError as error:
        raise InvalidRequest(f"{error}.") from error
    if section.kind != "url" and base is None:
        raise InvalidRequest("This gateway has no base model of its own: add a backend of kind 'url'.", param="kind")
    return section


def _engine_config(settings: Settings, engine: EngineSettings, base: _Base | None, *, children: int) -> EngineConfig:
    """One backend's configuration; what the settings leave open follows from the machine."""
    key = settings.engine_api_key.get_secret_value() if settings.engine_api_key else None
    threads = engine.threads or threads_each(usable_cores(), children)
    at_once = engine.at_once or min(answers_at_once(threads), engine.slots or 256)
    launch = None
    if engine.kind != "url":
        assert base is not None
        slot_bytes = base.kv_token_bytes * engine.ctx_per_slot if base.kv_token_bytes else None
        launch = LaunchSpec(
            model=base.path,
            adapters=(),
            host=engine.host,
            port=engine.port,
            slots=engine.slots or kv_slots(at_once, slot_bytes, memory_bytes()),
            ctx_per_slot=engine.ctx_per_slot,
            threads=threads,
            gpu_layers=engine.gpu_layers,
            alias="pointsman-base",
        )
    return EngineConfig(
        kind=engine.kind,
        launch=launch,
        executable=engine.binary if engine.kind == "binary" else None,
        extra_arguments=engine.binary_args,
        url=engine.url,
        api_key=key,
        strategy=settings.scheduler.strategy,
        start_s=engine.start_s,
        stall_s=settings.limits.stall_s,
        probe_every_s=engine.probe_every_s,
        health_timeout_s=engine.health_timeout_s,
        allow_unsafe_cache=engine.allow_unsafe_cache,
        at_once=at_once if launch is not None else engine.at_once or None,
        experts=frozenset(engine.experts) if engine.experts is not None else None,
    )


async def _close_router(selector: Selector) -> None:
    if selector.router is not None:
        await selector.router.aclose()


# -- errors and request ids ---------------------------------------------------------------------------------------


def _envelope(status: int, body: dict[str, Any], retry_after_s: float | None = None) -> JSONResponse:
    headers = {}
    if retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    return JSONResponse(body, status_code=status, headers=headers)


def _rendered(error: Exception) -> JSONResponse:
    if not isinstance(error, GatewayError):
        return _envelope(500, error_body("The gateway failed; its log says why.", "server_error", "internal_error"))
    response = _envelope(error.status, error.body(), error.retry_after_s)
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


async def _render_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    messages = {
        404: f"There is no endpoint {request.method} {request.url.path}.",
        405: f"{request.method} is not allowed on {request.url.path}.",
    }
    message = messages.get(error.status_code, str(error.detail))
    body = error_body(message, "invalid_request_error", codes.get(error.status_code, f"http_{error.status_code}"))
    response = _envelope(error.status_code, body)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def _render_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    return _envelope(400, error_body(str(first["msg"]), "invalid_request_error", "invalid_request", param))


class _Errors:
    """Renders what an endpoint raised: a gateway error, or what nobody foresaw."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http" or scope["state"]["begun"]:
                raise
            if not isinstance(error, GatewayError):
                log.exception("unexpected failure", extra={"request_id": scope["state"]["request_id"]})
            await _rendered(error)(scope, receive, send)


class _Completions:
    """Answers the completion endpoints itself: passing through FastAPI costs a request a tenth of its time with us.

    So what is hooked into FastAPI, such as its own OpenTelemetry, does not see completions.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._endpoints = {path: _Errors(endpoint) for path, endpoint in completions.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        await endpoint(scope, receive, send)


class _RequestId:
    """Gives every request an id, the client's own if it is short and plain, and sends it back with every answer.

    In the request's state stand ``request_id``, and ``begun`` once an answer has begun.

    Args:
        for_pages: answers what a browser's page asks, which names its origin.
    """

    _PLAIN = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")

    def __init__(self, app: ASGIApp, for_pages: ASGIApp) -> None:
        self._app = app
        self._for_pages = for_pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given, app, more = b"", self._app, [_VARY]
        for name, value in scope["headers"]:
            if name == b"x-request-id" and not given:
                given = value
            elif name == b"origin":
                app, more = self._for_pages, []
        request_id = given if self._PLAIN.fullmatch(given) else b"req_%032x" % random.getrandbits(128)
        more.append((b"x-request-id", request_id))
        state = scope.setdefault("state", {})
        state.update(request_id=request_id.decode(), begun=False)

        def send_with_id(message: Message) -> Awaitable[None]:  # awaits nothing itself: an event passes through faster
            if message["type"] == "http.response.start":
                state["begun"] = True
                message = {**message, "headers": [*message["headers"], *more]}
            return send(message)

        await app(scope, receive, send_with_id)
