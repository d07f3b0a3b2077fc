"""The gateway and the engine as child processes: free ports, a kept log, an early end noticed, a sure stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import yaml

from gateway.backend import BackendStream
from gateway.base import default_cache_dir
from gateway.process import LaunchSpec, binary_arguments, free_port
from training.native import native_path

__all__ = [
    "ADMIN_KEY",
    "ENGINES",
    "GatewayProcess",
    "engine_child",
    "engine_server",
    "events_of",
    "eventually",
    "free_port",
    "native_server",
]

ROOT = Path(__file__).parents[1]
ADMIN_KEY = "tests-admin-key"


def eventually(check: Callable[[], Any], limit_s: float, what: str, every_s: float = 0.05) -> Any:
    """Return the first true value of ``check``; fail when there is none within ``limit_s``."""
    until = time.monotonic() + limit_s
    while not (value := check()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(every_s)
    return value


async def events_of(stream: BackendStream) -> AsyncIterator[bytes]:
    """An open answer's SSE events, one by one."""
    while pieces := await stream.read():
        for event in pieces.split(b"\n\n")[:-1]:
            yield event + b"\n\n"


class GatewayProcess:
    """``pointsman serve`` as a user starts it. Settings are given as YAML sections; ``with`` stops it."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.engine_port = free_port("127.0.0.1"), free_port("127.0.0.1")
        defaults: dict[str, dict[str, Any]] = {
            "server": {"port": self.port},
            # One thread: threads that spin at a barrier suffer most from other work on the same cores.
            "engine": {"port": self.engine_port, "threads": 1, "ctx_per_slot": 2048, "slots": 2},
        }
        for section, values in settings.items():
            defaults[section] = {**defaults.get(section, {}), **values}
        self.config = folder / "gateway.yaml"
        self.config.write_text(yaml.safe_dump(defaults), encoding="utf-8")
        self.log_path = folder / "gateway.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = {**os.environ, "GATEWAY_ADMIN_KEY": ADMIN_KEY, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> GatewayProcess:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.config)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=log, stderr=subprocess.STDOUT)

    def wait_ready(self, limit_s: float = 240.0) -> None:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.log[-4000:]}")
            return "Pointsman is ready at" in self.log

        eventually(ready, limit_s, f"the ready line; log:\n{self.log[-4000:]}", every_s=0.1)

    def stop(self, limit_s: float = 60.0) -> int:
        """SIGTERM, then SIGKILL; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait_ended(limit_s)

    def wait_ended(self, limit_s: float = 60.0) -> int:
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the gateway did not end within {limit_s:g} s:\n{self.log[-4000:]}") from None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def admin(self, method: str, path: str, **kwargs: Any) -> Any:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        answer = httpx.request(method, f"{self.url}/admin/{path}", headers=headers, timeout=120, **kwargs)
        assert answer.is_success, answer.text
        return answer.json()

    def status(self) -> Any:
        return self.admin("GET", "status")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def engine_pid(self) -> int:
        pid: int = self.status()["backends"][0]["pid"]
        return pid

    def at_rest(self) -> bool:
        """Whether no lease is held, nobody waits and nothing is being answered."""
        status = self.status()
        held = status["leases"] or any(status["queued"].values())
        return not held and self.metric("pointsman_requests_in_flight") == 0


def native_server() -> str | None:
    """The llama-server that ``python -m training.native`` has made, if it has: tests then run on both engines."""
    path = native_path(default_cache_dir())
    return str(path) if path.is_file() else None


ENGINES = ("embedded", "binary") if native_server() else ("embedded",)


@contextlib.contextmanager
def engine_server(spec: LaunchSpec, log_path: Path, kind: str = "embedded", limit_s: float = 240.0) -> Iterator[str]:
    """A llama.cpp server on its own, as ``gateway.process`` starts it; yields its URL when it is healthy."""
    with engine_child(spec, log_path, kind, limit_s) as (url, _):
        yield url


@contextlib.contextmanager
def engine_child(
    spec: LaunchSpec, log_path: Path, kind: str = "embedded", limit_s: float = 240.0
) -> Iterator[tuple[str, int]]:
    """The same for whoever wants its process id, too."""
    url = f"http://{spec.host}:{spec.port}"
    native = native_server() or "llama-server"
    command = [sys.executable, "-m", "gateway.embedded"] if kind == "embedded" else binary_arguments(native, spec)
    environment = {**os.environ, "LLAMA_API_KEY": spec.api_key}
    with log_path.open("wb") as log:
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
    assert child.stdin is not None

    def healthy() -> bool:
        if child.poll() is not None:
            raise AssertionError(f"the engine ended with {child.returncode}:\n{log_path.read_text()[-4000:]}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/health").status_code == 200
        return False

    try:
        if kind == "embedded":
            child.stdin.write(json.dumps(asdict(spec)).encode() + b"\n")
            child.stdin.flush()
        eventually(healthy, limit_s, "a healthy engine")
        yield url, child.pid
    finally:
        child.stdin.close()
        if kind == "binary":
            child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
