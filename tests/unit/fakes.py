"""Stand-ins for what a unit test must not touch: a clock, backends, a router, an expert's files.

Each implements the same protocol as the real thing; none patches ours. ``Simulator`` (``simulator.py``) is the
scheduler's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gateway.actions import Request
from gateway.backend import Props
from gateway.base import BaseIdentity
from gateway.errors import BackendTimeout, GatewayError
from gateway.experts import ADAPTER_FILE, MANIFEST_FILE
from router import Explanation, Neighbour, Reason, RouteDecision, RouterError

__all__ = [
    "BASE_IDENTITY",
    "FakeEngine",
    "FakeRouter",
    "ManualClock",
    "ScriptedActivator",
    "ScriptedBackend",
    "chat_events",
    "manifest_data",
    "request",
    "sse",
    "write_expert_files",
]

BASE_IDENTITY = BaseIdentity(name="tiny", revision="1", sha256="a" * 64, chat_template_sha256="b" * 64)


class ManualClock:
    """A monotonic clock that moves only when told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def request(
    id_: int,
    expert: str = "a",
    *,
    conversation: str = "",
    client: str = "client",
    at: float = 0.0,
    deadline: float = 1000.0,
    width: int = 1,
) -> Request:
    return Request(id_, expert, conversation or f"conversation {id_}", client, at, deadline, width)


# -- backends -----------------------------------------------------------------------------------------------------


class ScriptedActivator:
    """``leases.Activator``: each swap waits for ``finish`` when ``held``, and fails with the next of ``failures``."""

    def __init__(self, *, held: bool = False, failures: Iterable[Exception] = ()) -> None:
        self.asked: list[str] = []
        self.active: str | None = None
        self.cancelled = 0
        self._failures = list(failures)
        self._gate = asyncio.Event()
        if not held:
            self._gate.set()

    def finish(self) -> None:
        self._gate.set()

    async def activate(self, expert: str) -> None:
        self.asked.append(expert)
        try:
            await self._gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self._failures:
            raise self._failures.pop(0)
        self.active = expert


class ScriptedStream:
    """``backend.BackendStream`` over a list: bytes are events, an exception is raised, ``None`` never comes."""

    def __init__(self, script: Sequence[bytes | Exception | None], until_s: float) -> None:
        self._script = list(script)
        self._until_s = until_s
        self.closed = 0

    async def read(self) -> bytes:
        item = self._script.pop(0) if self._script else b""
        if item is None:
            try:
                async with asyncio.timeout_at(self._until_s):
                    await asyncio.Event().wait()
            except TimeoutError:
                raise BackendTimeout("over", code="request_timeout") from None
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1


class ScriptedBackend(ScriptedActivator):
    """``backend.Backend`` for the relay: answers each request with the next script; an exception refuses it."""

    def __init__(self, *scripts: Sequence[bytes | Exception | None] | Exception, alias: str = "their-base") -> None:
        super().__init__()
        self.props = Props(slots=1, n_ctx=4096, chat_template="", alias=alias, build="b0")
        self.received: list[tuple[str, Mapping[str, Any], str, int | None]] = []
        self.streams: list[ScriptedStream] = []
        self.healthy = False
        self._scripts = list(scripts)

    async def is_healthy(self) -> bool:
        return self.healthy

    async def open_stream(
        self, path: str, body: Mapping[str, Any], expert: str, slot: int | None, *, until_s: float
    ) -> ScriptedStream:
        self.received.append((path, body, expert, slot))
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if isinstance(script, Exception):
            raise script
        self.streams.append(ScriptedStream(script, until_s))
        return self.streams[-1]


class FakeEngine:
    """``engine.Engine`` for the relay and the admin endpoints: a fixed set of backends."""

    def __init__(self, backends: Mapping[str, ScriptedBackend]) -> None:
        self.backends = dict(backends)
        self.failures: list[str] = []
        self.restarts = 0
        self.ready = True
        self.drained: list[str] = []

    def drain(self, name: str) -> None:
        self.drained.append(name)

    def backend(self, name: str) -> ScriptedBackend | None:
        return self.backends.get(name)

    async def suspect(self, name: str) -> None:
        if name in self.backends and not await self.backends[name].is_healthy():
            self.failures.append(name)

    def status(self) -> list[dict[str, object]]:
        return [{"name": name, "up": True} for name in self.backends]

    async def generates(self) -> bool:
        return self.ready


# -- router -------------------------------------------------------------------------------------------------------


class FakeRouter:
    """``router.Router``: routes a text to the first expert whose name stands in it."""

    def __init__(self, *routes: str, failure: RouterError | None = None, second: bool = False) -> None:
        self.routes = routes
        self.second = second
        self.has_second = second
        self.threshold = 0.5
        self.failure = failure
        self.seen: list[list[str]] = []

    async def decide(self, turns: Sequence[str]) -> RouteDecision:
        self.seen.append(list(turns))
        if self.failure is not None:
            raise self.failure
        for number, turn in enumerate(reversed(turns)):
            named = next((route for route in self.routes if route in turn), None)
            if named is not None:
                scores = {route: 0.9 if route == named else 0.1 for route in self.routes}
                reason = Reason.STICKY if number else Reason.ROUTED
                return RouteDecision(
                    named, reason, 0.9, scores, self.threshold, None, 0.8, len(turns), False, self.second
                )
        scores = dict.fromkeys(self.routes, 0.2)
        return RouteDecision(
            None, Reason.FALLBACK, 0.2, scores, self.threshold, None, 0.0, len(turns), False, self.second
        )

    async def explain(self, turns: Sequence[str], *, nearest: int = 5) -> Explanation:
        near = [Neighbour(f"text {number}", None, 0.5) for number in range(nearest)]
        return Explanation(await self.decide(turns), "because of its name", {}, 0.0, near)

    async def embed(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
        if self.failure is not None:
            raise self.failure
        return np.array([[len(text), 0.5] for text in texts], dtype=np.float32), sum(map(len, texts))

    async def aclose(self) -> None: ...


# -- events -------------------------------------------------------------------------------------------------------


def sse(data: Any) -> bytes:
    """An event as llama-server writes it: compact JSON."""
    return b"data: " + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def chat_events(text: str = "Hello", *, model: str = "their-base") -> list[bytes]:
    """A whole chat answer, one character a chunk, as llama-server streams it."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": model}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        return sse({"choices": [{"index": 0, "finish_reason": finish, "delta": delta}], **head, **more})

    timings = {"cache_n": 3, "prompt_n": 4, "predicted_n": len(text), "predicted_ms": 10.0 * len(text)}
    return [
        chunk({"role": "assistant", "content": None}),
        *(chunk({"content": character}) for character in text),
        chunk({}, "stop", timings=timings),
        b"data: [DONE]\n\n",
    ]


# -- experts ------------------------------------------------------------------------------------------------------


def manifest_data(name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """A valid manifest as YAML would hold it, for an expert of which ``files`` are the contents."""
    hashes = {key: {"file": file, "sha256": hashlib.sha256(files[file]).hexdigest()} for key, file in _FILES.items()}
    return {
        "name": name,
        "title": name.title(),
        "description": f"Knows {name}.",
        "version": "1.0.0",
        "created": "2026-01-02T03:04:05Z",
        **hashes,
        "base": BASE_IDENTITY.model_dump(),
        "targets": [{"term": name}],
        "recipe_sha256": "c" * 64,
        "converter": "b1",
    }


_FILES = {
    "adapter": ADAPTER_FILE,
    "dataset": "dataset.json",
    "examples": "examples.jsonl",
    "questions": "questions.jsonl",
}


def write_expert_files(root: Path, name: str, /, *, weights: bytes = b"GGUF adapter", **changes: Any) -> Path:
    """Write ``root/name`` with a manifest that fits its files; ``changes`` replace manifest keys afterwards."""
    directory = root / name
    directory.mkdir(parents=True)
    files = {
        ADAPTER_FILE: weights,
        "dataset.json": b"[]",
        "examples.jsonl": b'{"text": "x"}\n',
        "questions.jsonl": b"",
    }
    for file, data in files.items():
        (directory / file).write_bytes(data)
    (directory / MANIFEST_FILE).write_text(yaml.safe_dump({**manifest_data(name, files), **changes}), encoding="utf-8")
    return directory


class Unexpected(GatewayError):
    """An error of the tree that no endpoint knows by name."""

    status = 418
