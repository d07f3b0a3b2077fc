"""A real engine for measuring: the gateway's embedded llama.cpp server in a child, asked with explicit scales.

Owns the child's life and the form of a request that no other adapter's KV can spoil. Knows nothing of hits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from gateway.process import LaunchSpec, free_port
from training.errors import MeasureError

__all__ = ["NO_THINKING", "Answer", "Engine"]

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 600.0
HOST = "127.0.0.1"
# Experts are trained without a thinking block and served so; templates that know no such switch ignore it.
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}


@dataclass(frozen=True)
class Answer:
    """One completion and the engine's own counts."""

    text: str
    finish_reason: str
    completion_tokens: int
    tokens_per_s: float
    prompt_tokens: int = 0
    prompt_tokens_per_s: float = 0.0


class Engine:
    """Start the server on a free port, ask it, stop it; a context manager.

    One slot and greedy decoding: the same question gets the same answer. llama.cpp's threads spin: give it fewer
    `threads` than cores when something else computes meanwhile, or it will crawl. Several `slots` let threads ask at
    once; answers may then differ between repeats.
    """

    def __init__(
        self,
        model: Path,
        adapters: tuple[Path, ...],
        *,
        context_tokens: int = 2048,
        threads: int | None = None,
        slots: int = 1,
        port: int | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._start_timeout_s = start_timeout_s
        self._log = tempfile.TemporaryFile(prefix="pointsman-engine-")  # noqa: SIM115 - closed by __exit__
        self._spec = LaunchSpec(
            model=str(model),
            adapters=tuple(str(adapter) for adapter in adapters),
            host=HOST,
            port=port or free_port(HOST),
            slots=slots,
            ctx_per_slot=context_tokens,
            threads=threads or os.cpu_count() or 1,
            gpu_layers=-1,
            alias="base",
        )
        self._child: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(
            base_url=f"http://{HOST}:{self._spec.port}",
            headers={"Authorization": f"Bearer {self._spec.api_key}"},
            timeout=ANSWER_TIMEOUT_S,
        )

    def __enter__(self) -> Engine:
        command = [sys.executable, "-m", "gateway.embedded"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log)
        try:
            if self._child.stdin is not None:
                self._child.stdin.write(json.dumps(asdict(self._spec)).encode() + b"\n")
                self._child.stdin.flush()
            self._wait_ready()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def ask(
        self, question: str, *, scale: float, max_tokens: int = 300, system_prompt: str | None = None, **fields: Any
    ) -> Answer:
        """Answer one question greedily, without thinking, with the adapter at `scale` (0 is the base alone).

        Raises:
            MeasureError: the engine died, answered with an error, or took too long.
        """
        messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
        body = {
            "messages": [*messages, {"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": max_tokens,
            "cache_prompt": False,
            "lora": [{"id": number, "scale": scale} for number in range(len(self._spec.adapters))],
            **NO_THINKING,
            **fields,
        }
        data = self._post("/v1/chat/completions", body)
        choice = data["choices"][0]
        return Answer(
            text=choice["message"]["content"] or "",
            finish_reason=choice["finish_reason"],
            completion_tokens=data["usage"]["completion_tokens"],
            tokens_per_s=data["timings"]["predicted_per_second"],
            prompt_tokens=data["usage"]["prompt_tokens"],
            prompt_tokens_per_s=data["timings"]["prompt_per_second"],
        )

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            response = self._client.post(path, json=body)
            response.raise_for_status()
            return response.json()
        except httpx.HTTPStatusError as error:
            raise MeasureError(f"the engine answered {error.response.status_code}: {error.response.text}") from error
        except httpx.HTTPError as error:
            raise MeasureError(f"the engine did not answer ({error!r}); its last lines: {self._log_tail()}") from error

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if self._child is None or self._child.poll() is not None:
                raise MeasureError(f"the engine did not start; its last lines: {self._log_tail()}")
            try:
                if self._client.get("/health", timeout=2).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise MeasureError(f"the engine was not ready after {self._start_timeout_s:.0f} s: {self._log_tail()}")

    def _log_tail(self) -> str:
        self._log.seek(0)
        return " | ".join(self._log.read().decode(errors="replace").splitlines()[-5:])

    def _close(self) -> None:
        """The child ends when its standard input closes."""
        self._client.close()
        if self._child is not None:
            if self._child.stdin is not None:
                self._child.stdin.close()
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._log.close()
