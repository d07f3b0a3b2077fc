"""What stands between client and engine in the overhead benchmark: nothing, nginx, a bare relay, one on FastAPI,
LiteLLM, Pointsman; over one mock.

Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import peers
import serving
import yaml

from gateway.base import Kind, default_cache_dir, gguf_info, resolve
from gateway.settings import Settings

LITELLM = "litellm[proxy]==1.106.12"

__all__ = [
    "bare_relay",
    "fastapi_relay",
    "gateway_over_mock",
    "keep_apart",
    "litellm",
    "metric",
    "mock",
    "nginx",
    "on_first_core",
    "pinned",
    "settings_over_mock",
]


_CORES = sorted(os.sched_getaffinity(0))
_Opened = TypeVar("_Opened")


def keep_apart() -> None:
    """Stay on the second core from now on, with all children but the pinned ones; where there is only one, share it."""
    os.sched_setaffinity(0, _CORES[1:2] or _CORES)


@contextlib.contextmanager
def on_first_core() -> Iterator[None]:
    """Run the block, and what it starts, on the first core alone."""
    os.sched_setaffinity(0, _CORES[:1])
    try:
        yield
    finally:
        keep_apart()


def pinned(stack: contextlib.ExitStack, opening: contextlib.AbstractContextManager[_Opened]) -> _Opened:
    """Open something whose children then run on the first core alone."""
    with on_first_core():
        return stack.enter_context(opening)


@contextlib.contextmanager
def mock(experts: Path) -> Iterator[int]:
    """The mock engine with these experts' adapters."""
    loaded = serving.load_experts(experts, at_least=1)
    base = resolve(Settings().engine.base, cache_dir=default_cache_dir(), kind=Kind.GGUF).path
    template = gguf_info(base, default_cache_dir()).chat_template
    port = serving.free_port("127.0.0.1")
    script = str(Path(__file__).with_name("mock_engine.py"))
    command = [sys.executable, script, str(port), *(str(expert.adapter_path) for expert in loaded)]
    with running(command, f"http://127.0.0.1:{port}/health", template.encode()):
        yield port


@contextlib.contextmanager
def nginx(upstream: int) -> Iterator[int | None]:
    """One worker with keep-alive to the upstream; None where nginx is not installed."""
    if (executable := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")) is None:
        yield None
        return
    port = serving.free_port("127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        config.write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log {folder}/access.log; keepalive_requests 100000000;\n"
            + "".join(f"{name}_temp_path {folder};\n" for name in temporary)
            + f"upstream u {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n"
            'proxy_set_header Connection ""; proxy_buffering off; } } }\n'
        )
        with running([executable, "-c", str(config)], f"http://127.0.0.1:{port}/health"):
            yield port


def bare_relay(upstream: int, encoder: Path | None = None) -> contextlib.AbstractContextManager[int]:
    """See bare_relay.py."""
    return _relay("bare_relay.py", upstream, *([str(encoder)] if encoder else []))


def fastapi_relay(upstream: int) -> contextlib.AbstractContextManager[int]:
    """See fastapi_relay.py."""
    return _relay("fastapi_relay.py", upstream)


@contextlib.contextmanager
def _relay(name: str, upstream: int, *rest: str) -> Iterator[int]:
    port = serving.free_port("127.0.0.1")
    script = str(Path(__file__).with_name(name))
    with running([sys.executable, script, str(port), str(upstream), *rest], f"http://127.0.0.1:{port}/health"):
        yield port


@contextlib.contextmanager
def litellm(upstream: int) -> Iterator[int]:
    """LiteLLM's proxy, one worker, in an environment of its own that is made the first time (minutes)."""
    python = peers.peer_python("litellm", [LITELLM])
    port = serving.free_port("127.0.0.1")
    served = {"model": "openai/base", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "any"}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "litellm.yaml"
        settings = {
            "model_list": [{"model_name": "base", "litellm_params": served}],
            "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},  # open, as we are without keys
        }
        config.write_text(yaml.safe_dump(settings))
        command = [str(python.with_name("litellm")), "--config", str(config), "--port", str(port)]
        environment = {**peers.child_environment(), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        url = f"http://127.0.0.1:{port}/health/liveliness"
        with running([*command, "--host", "127.0.0.1"], url, env=environment, limit_s=120):
            yield port


@contextlib.contextmanager
def gateway_over_mock(upstream: int, experts: Path, **sections: Mapping[str, Any]) -> Iterator[int]:
    """Pointsman, as ``pointsman serve`` starts it, logging every request."""
    with serving.gateway(settings_over_mock(upstream, experts, **sections)) as url:
        yield int(url.rsplit(":", 1)[1])


def settings_over_mock(upstream: int, experts: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The gateway's settings."""
    return {
        "engine": {"kind": "url", "url": f"http://127.0.0.1:{upstream}"},
        "experts": {"dir": str(experts)},
        "log": {"level": "info"},
        **sections,
    }


def metric(port: int, name: str) -> float:
    """One unlabelled metric of the gateway on that port."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


@contextlib.contextmanager
def running(
    command: Sequence[str],
    health: str,
    given: bytes = b"",
    env: Mapping[str, str] | None = None,
    limit_s: float = 30.0,
) -> Iterator[None]:
    """A child that has answered 200 at ``health``; ``given`` is its standard input."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env)
        assert child.stdin is not None
        child.stdin.write(given)
        child.stdin.close()
        try:
            until = time.monotonic() + limit_s
            while not _answers(health):
                if child.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    words = log.read()[-2000:].decode(errors="replace")
                    raise RuntimeError(f"{command[0]} did not start: {words}")
                time.sleep(0.1)
            yield
        finally:
            child.terminate()
            child.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code == 200
    return False
