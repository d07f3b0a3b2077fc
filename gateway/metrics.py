"""Every Prometheus metric, declared once.

Labels are bounded: experts by the registry, everything else by our own enums; never a client's string.
Bucket sources: OpenTelemetry GenAI semantic conventions for durations and TTFT; .5 ms to 100 ms for routing.
"""

from __future__ import annotations

import functools
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

__all__ = ["Metrics"]

_DURATION = tuple(0.01 * 2**n for n in range(14))
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20, 40, 80, 160)
_ROUTE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
_QUEUE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
_SWAP = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5)
_SCORE = tuple(n / 20 for n in range(1, 21))


_Metric = TypeVar("_Metric", Counter, Histogram)


def _cached(metric: _Metric) -> _Metric:
    """Have it remember its children: looking one up costs more than counting. Not for what is ever cleared."""
    metric.labels = functools.cache(metric.labels)  # type: ignore[method-assign]
    return metric


class Metrics:
    """The gateway's metrics in a registry of their own, so that two apps in one process do not collide."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU time and file descriptors of the gateway, on Linux

        def counter(name: str, text: str, *labels: str) -> Counter:
            return _cached(Counter(f"pointsman_{name}", text, labels, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"pointsman_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return _cached(Histogram(f"pointsman_{name}", text, labels, buckets=buckets, registry=registry))

        self.requests = counter("requests_total", "Requests answered.", "endpoint", "expert", "status")
        self.errors = counter("errors_total", "Errors sent, before or inside an answer.", "endpoint", "code")
        self.answering = 0
        gauge("requests_in_flight", "Requests being answered.").set_function(lambda: self.answering)
        self.decisions = counter("decisions_total", "Selections of an expert.", "expert", "reason")
        self.scores = histogram("route_score", "Best score of the last turn, by its expert.", _SCORE, "expert")
        self.abstentions = counter("route_abstentions_total", "Best scores that did not suffice.", "expert")
        self.second = counter("second_readings_total", "Decisions of the second router, the first being in doubt.")
        self.has_second = gauge("second_router", "1 while there is a second router.")
        self.threshold = gauge("route_threshold", "Score that a text must reach.")
        self.route_seconds = histogram("route_seconds", "Time to select an expert.", _ROUTE)
        self.router_failures = counter("router_failures_total", "Routing failures answered by the fallback.")
        self.queue_seconds = histogram("queue_wait_seconds", "Wait for a lease.", _QUEUE, "expert")
        self.rejected = counter("queue_rejected_total", "Requests that got no lease.", "expert", "reason")
        self.queued = gauge("queue_length", "Requests waiting for a lease.", "expert")
        self.leases = gauge("leases_held", "Slots at work.", "backend")
        self.active = gauge("active_expert", "1 for the expert active on a backend.", "backend", "expert")
        self.backend_up = gauge("backend_up", "1 while a backend is in service.", "backend")
        self.swaps = counter("swaps_total", "Swaps of the active expert.", "backend", "expert")
        self.swap_seconds = histogram("swap_seconds", "Time a swap took.", _SWAP, "backend")
        self.restarts = gauge("engine_restarts", "Restarts of engine processes since the start.")
        self.first_token = histogram("time_to_first_token_seconds", "Request to first token.", _TTFT, "expert")
        self.per_token = histogram("time_per_output_token_seconds", "Mean time a token.", _PER_TOKEN, "expert")
        self.duration = histogram("request_duration_seconds", "Request to last byte.", _DURATION, "endpoint", "expert")
        self.tokens = counter("tokens_total", "Tokens, by type: prompt, cached, completion.", "expert", "type")
        self.tasks = gauge("event_loop_tasks", "Tasks on the event loop.")
        self.experts = gauge("experts", "Experts, by state: enabled, disabled, rejected.", "state")

    # -- LeaseObserver --------------------------------------------------------------------------------------------

    def swapped(self, backend: str, expert: str, seconds: float) -> None:
        self.swaps.labels(backend, expert).inc()
        self.swap_seconds.labels(backend).observe(seconds)

    def queue_waited(self, expert: str, seconds: float) -> None:
        self.queue_seconds.labels(expert).observe(seconds)

    def lease_rejected(self, expert: str, reason: str) -> None:
        self.rejected.labels(expert, reason).inc()

    def render(self) -> bytes:
        """Prometheus text exposition format 0.0.4."""
        return generate_latest(self.registry)
