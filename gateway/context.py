"""What an endpoint works with: the open parts of the gateway, and one request's record for metrics and the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from .auth import Keyring, RateLimiter
from .engine import Engine
from .errors import GatewayError
from .experts import BASE, ExpertRegistry
from .label_log import LabelLog
from .leases import LeasePool
from .logs import FactsRecord
from .metrics import Metrics
from .relay import Outcome, Relay
from .selection import Selection, Selector

__all__ = ["Gateway", "Record", "gateway_of"]

log = logging.getLogger("pointsman.access")


@dataclass(slots=True)
class Gateway:
    """The open parts. Built and closed by ``app.open_gateway``."""

    registry: ExpertRegistry
    selector: Selector
    relay: Relay
    pool: LeasePool
    engine: Engine
    metrics: Metrics
    keyring: Keyring
    limiter: RateLimiter
    reload: Callable[[], Awaitable[dict[str, Any]]]
    add_backend: Callable[[Mapping[str, Any]], Awaitable[str]]
    encoder: str
    max_body_bytes: int
    max_tokens: int
    default_tokens: int
    keep_alive_s: float
    client_stall_s: float
    thinking_off: bool
    log_prompts: bool
    label_log: LabelLog | None = None
    started: float = field(default_factory=time.time)


def gateway_of(scope: Scope) -> Gateway:
    gateway: Gateway = scope["app"].state.gateway
    return gateway


class Record:
    """One request's facts; ``finish`` counts and logs them, once."""

    def __init__(self, gateway: Gateway, scope: Scope, endpoint: str) -> None:
        self.gateway = gateway
        self._metrics = gateway.metrics
        self._endpoint = endpoint
        self._started = time.monotonic()
        self._finished = False
        self.request_id: str = scope.get("state", {}).get("request_id", "")
        self.client = ""
        self.selection: Selection | None = None
        self.outcome = Outcome()
        self.extra: dict[str, Any] = {}
        self._metrics.answering += 1

    def selected(self, selection: Selection) -> None:
        self.selection = selection
        metrics = self._metrics
        metrics.decisions.labels(selection.expert, selection.reason).inc()
        if selection.reason != "named":
            metrics.route_seconds.observe(selection.route_s)
        if selection.scores:
            # Of the last turn alone, whatever the conversation made of it: the distribution that drifts with the texts.
            best = max(selection.scores, key=lambda name: selection.scores[name])
            metrics.scores.labels(best).observe(selection.scores[best])
            if selection.reason == "fallback":
                metrics.abstentions.labels(best).inc()
            if selection.second:
                metrics.second.inc()
        if selection.note and selection.note.startswith("router failed"):
            metrics.router_failures.inc()

    def failed(self, error: GatewayError) -> None:
        self.outcome.error = error.code
        self.finish(error.status)

    def finish(self, status: int) -> None:
        """Count and log. ``status``: 499 says that the client left first."""
        if self._finished:
            return
        self._finished = True
        metrics, outcome, now = self._metrics, self.outcome, time.monotonic()
        expert = self.selection.expert if self.selection else BASE if status < 400 else "none"
        metrics.answering -= 1
        metrics.requests.labels(self._endpoint, expert, str(status)).inc()
        metrics.duration.labels(self._endpoint, expert).observe(now - self._started)
        if outcome.error is not None:
            metrics.errors.labels(self._endpoint, outcome.error).inc()
        if outcome.first_token_s is not None:
            metrics.first_token.labels(expert).observe(outcome.first_token_s - self._started)
        if outcome.completion_tokens > 1:
            metrics.per_token.labels(expert).observe(outcome.decode_s / outcome.completion_tokens)
        counts = (
            ("prompt", outcome.prompt_tokens),
            ("cached", outcome.cached_tokens),
            ("completion", outcome.completion_tokens),
        )
        for type_, count in counts:
            if count:
                metrics.tokens.labels(expert, type_).inc(count)
        self._log(status, expert, now)

    def _log(self, status: int, expert: str, now: float) -> None:
        if not log.isEnabledFor(logging.INFO):
            return
        outcome, selection = self.outcome, self.selection
        facts: dict[str, Any] = {
            "request_id": self.request_id,
            "endpoint": self._endpoint,
            "status": status,
            "client": self.client,
            "expert": expert,
            "seconds": round(now - self._started, 4),
            **self.extra,
        }
        if selection is not None:
            facts["requested"], facts["reason"], facts["score"] = selection.requested, selection.reason, selection.score
        if outcome.completion_tokens:
            facts["prompt_tokens"], facts["completion_tokens"] = outcome.prompt_tokens, outcome.completion_tokens
        if outcome.first_token_s is not None:
            facts["first_token_s"] = round(outcome.first_token_s - self._started, 4)
        if outcome.error is not None:
            facts["error"] = outcome.error
        log.handle(FactsRecord(log.name, "request", facts))
