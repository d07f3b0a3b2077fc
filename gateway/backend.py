"""One llama-server over HTTP: health, properties, adapters, completions as a stream of SSE events.

Owns everything that is particular to llama-server: its adapter ids, its fields, its errors, its timeouts; translates
what it answers into the tree of ``errors.py``. Knows nothing of scheduling, or of who asked.

Source: llama.cpp ``tools/server``, build b11549; docs/ARCHITECTURE.md lists the behaviours relied on.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from .errors import BackendError, BackendRefused, BackendTimeout, BackendUnavailable
from .experts import BASE
from .http1 import HttpClient, Response

__all__ = ["Backend", "BackendStream", "Props", "refusal"]

_SCALE_TOLERANCE = 1e-4  # scales travel as float32 in llama-server
_MAX_ERROR_BYTES = 64 * 1024
_MAX_EVENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Props:
    """What ``GET /props`` says; ``n_ctx`` is per slot."""

    slots: int
    n_ctx: int
    chat_template: str
    alias: str
    build: str


def refusal(status: int, body: bytes) -> BackendError:
    """Turn llama-server's error body into ours: string codes, and OpenAI's words where clients look for them.

    LangChain and others recognise an overlong prompt only by ``context_length_exceeded`` in the message.
    """
    try:
        error = json.loads(body)["error"]
        message, kind = str(error["message"]), str(error.get("type", ""))
    except (ValueError, KeyError, TypeError):
        message, kind, error = body[:500].decode("utf-8", "replace") or f"status {status}", "", {}
    if kind == "exceed_context_size_error":
        text = (
            f"context_length_exceeded: the prompt has {error.get('n_prompt_tokens')} tokens, "
            f"this model's context is {error.get('n_ctx')} tokens (prompt is too long)."
        )
        return BackendRefused(text, status=400, code="context_length_exceeded", param="messages")
    if 400 <= status < 500 and status not in (401, 403):
        return BackendRefused(message, status=status, code=kind or None)
    if status == 501:
        return BackendRefused(message, status=501, code=kind or "not_supported")
    if status == 503:
        return BackendUnavailable(f"The backend is not ready: {message}", status=503, retry_after_s=1)
    return BackendError(f"The backend answered {status}: {message}")


class BackendStream:
    """An open answer of a backend: SSE events, to be closed whatever happens; closing early stops the generation."""

    def __init__(self, backend: Backend, response: Response) -> None:
        self._backend = backend
        self._response = response
        self._rest = b""

    async def read(self) -> bytes:
        """All the whole SSE events that have arrived, comments too, each with its blank line; ``b""`` at the end.

        Raises:
            BackendUnavailable: the connection broke, or ended inside an event.
            BackendTimeout: nothing came for the stall timeout, or the request's time is over.
        """
        while piece := await self._response.read():
            self._backend.last_event_s = time.monotonic()
            data = self._rest + piece
            whole = len(data) if data.endswith(b"\n\n") else data.rfind(b"\n\n") + 2
            if whole > 1:
                self._rest = data[whole:]
                return data[:whole]
            self._rest = data
            if len(data) > _MAX_EVENT_BYTES:
                raise BackendError(f"The backend sent an event of more than {_MAX_EVENT_BYTES} bytes.")
        if self._rest.strip():
            raise BackendUnavailable("The backend's answer ended inside an event.")
        return b""

    def close(self) -> None:
        self._response.close()


class Backend:
    """A client of one llama-server.

    Args:
        url: without a trailing slash.
        client: shared; closed by its owner.
        strategy: ``scale_api`` posts the active expert; ``per_request`` relies on each request's ``lora`` alone.
        api_key: sent as a bearer token.
        stall_s: the longest silence inside an answer; llama-server pings every 30 s while it works on a stream.
        cache_prompt: False forbids the server to reuse KV at all: the safe way with a server whose RAM prompt cache
            is on (it restores another adapter's KV: llama.cpp issue 26207).
    """

    def __init__(
        self,
        name: str,
        url: str,
        client: HttpClient,
        *,
        strategy: str = "scale_api",
        api_key: str | None = None,
        stall_s: float = 120.0,
        cache_prompt: bool = True,
    ) -> None:
        self.name = name
        self.url = url
        self.cache_prompt = cache_prompt
        self.props: Props | None = None
        self.last_event_s = float("-inf")
        """When an answer last sent something, monotonic seconds."""
        self._client = client
        self._adapters: dict[str, Path] = {}
        self._scales: dict[str, float] = {}
        self._strategy = strategy
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._stall_s = stall_s
        self._ids: dict[str, int] = {}
        self._all_ids: list[int] = []

    @property
    def experts(self) -> frozenset[str]:
        """What this backend can serve: ``base``, and the experts whose adapters it has loaded."""
        return frozenset(self._ids) | {BASE}

    # -- state of the server --------------------------------------------------------------------------------------

    async def is_healthy(self, timeout_s: float = 2.0) -> bool:
        """Whether ``/health`` answers 200: alive and the model loaded."""
        try:
            status, _ = await self._call("GET", "/health", timeout_s=timeout_s)
        except BackendError:
            return False
        return status == 200

    async def load_props(self) -> Props:
        """Read ``/props``; kept in ``self.props``."""
        data = await self._json("GET", "/props")
        try:
            self.props = Props(
                slots=int(data["total_slots"]),
                n_ctx=int(data["default_generation_settings"]["n_ctx"]),
                chat_template=str(data.get("chat_template", "")),
                alias=str(data.get("model_alias", "")),
                build=str(data.get("build_info", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError(f"{self.name}: /props is not llama-server's: {error!r}") from error
        return self.props

    def expect(self, adapters: Mapping[str, Path], scales: Mapping[str, float]) -> None:
        """Say which adapter file and scale each expert has; ``load_adapters`` then finds their ids."""
        self._adapters = dict(adapters)
        self._scales = dict(scales)

    async def load_adapters(self) -> list[str]:
        """Learn each expert's adapter id from ``GET /lora-adapters``, by file; returns the experts not loaded there.

        Ids are load order and shift from start to start. A remote server names its own paths: there the expert's
        directory and file name must agree.
        """
        rows = await self._adapter_rows()
        by_path = {str(row.get("path")): int(row["id"]) for row in rows}
        by_tail = {"/".join(Path(path).parts[-2:]): id_ for path, id_ in by_path.items()}
        self._all_ids = sorted(by_path.values())
        self._ids = {}
        for expert, path in self._adapters.items():
            found = by_path.get(str(path), by_tail.get("/".join(path.parts[-2:])))
            if found is not None:
                self._ids[expert] = found
        return sorted(set(self._adapters) - set(self._ids))

    def forget(self, expert: str) -> None:
        """Never serve this expert here, though its adapter may be loaded; its scale stays 0."""
        self._ids.pop(expert, None)

    async def activate(self, expert: str) -> None:
        """Make ``expert`` the only one with a scale above zero, and read it back.

        llama-server answers 200 to unknown ids and malformed scales, so only the reading back proves the swap.

        Raises:
            BackendError: the server does not say afterwards what was asked.
        """
        if self._strategy == "per_request":
            return
        wanted = self.lora_field(expert)
        await self._json("POST", "/lora-adapters", wanted)
        scales = {int(row["id"]): float(row["scale"]) for row in await self._adapter_rows()}
        for row in wanted:
            if abs(scales.get(row["id"], -1.0) - row["scale"]) > _SCALE_TOLERANCE:
                raise BackendError(f"{self.name}: swap to {expert!r} was not applied: asked {wanted}, found {scales}")

    def lora_field(self, expert: str) -> list[dict[str, Any]]:
        """Every adapter id with its canonical scale: only the expert's own is above zero.

        llama-server takes an absent or empty list for "whatever is active globally", so all ids are always named.
        """
        chosen = None if expert == BASE else self._ids[expert]
        return [{"id": id_, "scale": self._scales[expert] if id_ == chosen else 0.0} for id_ in self._all_ids]

    async def probe(self, timeout_s: float = 30.0) -> None:
        """Generate one token on the base model.

        Raises:
            BackendError: it did not.
        """
        body = {"prompt": "Hello", "n_predict": 1, "cache_prompt": False, "lora": self.lora_field(BASE)}
        status, data = await self._call("POST", "/completion", body, timeout_s=timeout_s)
        if status != 200:
            raise refusal(status, data)

    async def timings(self, prompt: str, expert: str, **fields: Any) -> dict[str, Any]:
        """Complete ``prompt`` with one token and return the server's ``timings`` (``cache_n``: KV reused, tokens)."""
        body = {"prompt": prompt, "n_predict": 1, "temperature": 0, "lora": self.lora_field(expert), **fields}
        timings = (await self._json("POST", "/completion", body, timeout_s=60))["timings"]
        return dict(timings)

    # -- completions ----------------------------------------------------------------------------------------------

    async def open_stream(
        self, path: str, body: Mapping[str, Any], expert: str, slot: int | None, *, until_s: float = math.inf
    ) -> BackendStream:
        """Start a completion; ``stream`` is always true, so that closing the connection frees the slot at once.

        Args:
            until_s: the event loop's time at which the answer is broken off, wherever it is.

        Raises:
            BackendRefused: the server's own 4xx.
            BackendError: anything else before the answer begins.
        """
        sent = {**body, "stream": True, "lora": self.lora_field(expert)}
        if slot is not None:
            sent["id_slot"] = slot
        if not self.cache_prompt:
            sent["cache_prompt"] = False
        # llama-server promises keep-alive but closes after a stream: a pooled connection would break the next request.
        response = await self._client.request(
            "POST",
            self.url + path,
            headers=self._headers,
            body=_encoded(sent),
            silence_s=self._stall_s,
            until_s=until_s,
            keep=False,
        )
        try:
            if response.status == 200 and response.content_type == "text/event-stream":
                return BackendStream(self, response)
            data = await response.read_all(_MAX_ERROR_BYTES)
            raise refusal(response.status if response.status != 200 else 502, data)
        except BaseException:
            response.close()
            raise

    # -- plumbing -------------------------------------------------------------------------------------------------

    async def _adapter_rows(self) -> list[dict[str, Any]]:
        rows = await self._json("GET", "/lora-adapters")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
            raise BackendError(f"{self.name}: /lora-adapters answered {str(rows)[:200]}")
        return rows

    async def _json(self, method: str, path: str, body: Any = None, timeout_s: float = 10.0) -> Any:
        status, data = await self._call(method, path, body, timeout_s=timeout_s)
        if status != 200:
            raise refusal(status, data)
        try:
            return json.loads(data)
        except ValueError as error:
            raise BackendError(f"{self.name}: {path} did not answer JSON: {data[:200]!r}") from error

    async def _call(self, method: str, path: str, body: Any = None, *, timeout_s: float) -> tuple[int, bytes]:
        sent = None if body is None else _encoded(body)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.request(
                    method, self.url + path, headers=self._headers, body=sent, silence_s=timeout_s
                )
                try:
                    return response.status, await response.read_all()
                finally:
                    response.close()
        except TimeoutError as error:
            raise BackendTimeout(f"{self.name}: {path} did not answer within {timeout_s:g} s.") from error


def _encoded(body: Any) -> bytes:
    try:
        return to_json(body)  # a fifth of json's time
    except PydanticSerializationError:  # half of a surrogate pair in a field that only the backend reads
        return json.dumps(body, separators=(",", ":")).encode()
