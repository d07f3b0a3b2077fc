"""What does the gateway add to a request? The same client, straight to a mock engine and through the gateway to it.

The mock (mock_engine.py) answers a fixed completion of 16 tokens at once, so all that is measured is passing it on:
authentication, selection, lease, relay, metrics, log. ``auto`` has the router choose, with its cache warm. Where nginx
is installed its ``proxy_pass`` stands beside us as the floor of what a proxy costs.

    python benchmarks/overhead.py [--requests 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import serving

from gateway.base import Kind, default_cache_dir, gguf_info, resolve
from gateway.settings import Settings

_CLIENTS = (1, 16)


@dataclass(frozen=True)
class Measured:
    way: str
    clients: int
    p50_ms: float
    p99_ms: float
    per_s: float


def main() -> None:
    parser = serving.arguments(__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="for each way and number of clients (default: 2000)")
    given = parser.parse_args()
    experts = serving.load_experts(given.experts, at_least=1)
    base = resolve(Settings().engine.base, cache_dir=default_cache_dir(), kind=Kind.GGUF).path
    template = gguf_info(base, default_cache_dir()).chat_template
    results: list[Measured] = []
    with mock([str(expert.adapter_path) for expert in experts], template) as port:
        settings = {
            "engine": {"kind": "url", "url": f"http://127.0.0.1:{port}"},
            "experts": {"dir": str(given.experts)},
            "log": {"level": "info"},
        }
        ways = [("mock", port, "base")]
        with contextlib.ExitStack() as stack:
            if (proxy := stack.enter_context(nginx(port))) is not None:
                ways.append(("nginx", proxy, "base"))
            url = stack.enter_context(serving.gateway(settings))
            ours = int(url.rsplit(":", 1)[1])
            ways += [("gateway, base", ours, "base"), ("gateway, auto", ours, "auto")]
            for way, to, model in ways:
                for stream in (False, True):
                    label = f"{way}, {'streamed' if stream else 'plain'}"
                    results += [measure(label, to, model, stream, clients, given) for clients in _CLIENTS]
    report(results)


@contextlib.contextmanager
def mock(adapters: Sequence[str], template: str) -> Iterator[int]:
    port = serving.free_port("127.0.0.1")
    command = [sys.executable, str(Path(__file__).with_name("mock_engine.py")), str(port), *adapters]
    with running(command, f"http://127.0.0.1:{port}/health", template.encode()):
        yield port


@contextlib.contextmanager
def nginx(upstream: int) -> Iterator[int | None]:
    """One worker with keep-alive to the upstream; None where nginx is not installed."""
    if (executable := shutil.which("nginx")) is None:
        yield None
        return
    port = serving.free_port("127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log {folder}/access.log; client_body_temp_path {folder}; proxy_temp_path {folder};\n"
            f"fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n"
            f"upstream u {{ server 127.0.0.1:{upstream}; keepalive 64; }}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n"
            f'proxy_set_header Connection ""; proxy_buffering off; }} }} }}\n'
        )
        with running([executable, "-c", str(config)], f"http://127.0.0.1:{port}/health", b""):
            yield port


@contextlib.contextmanager
def running(command: Sequence[str], health: str, given: bytes) -> Iterator[None]:
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stdin is not None
    child.stdin.write(given)
    child.stdin.close()
    try:
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(health).status_code == 200:
                    break
            if child.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.1)
        yield
    finally:
        child.terminate()
        child.wait()


# -- the client: bare sockets, so that it costs as little as can be ----------------------------------------------


def measure(way: str, port: int, model: str, stream: bool, clients: int, given: argparse.Namespace) -> Measured:
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": "Why did my sourdough bread not rise?"}],
            "max_tokens": 16,
            "stream": stream,
        }
    ).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    asyncio.run(load(port, request, clients, min(200, given.requests)))
    begun = time.perf_counter()
    seconds = asyncio.run(load(port, request, clients, given.requests))
    per_s = len(seconds) / (time.perf_counter() - begun)
    return Measured(
        way, clients, serving.percentile(seconds, 0.5) * 1000, serving.percentile(seconds, 0.99) * 1000, per_s
    )


async def load(port: int, request: bytes, clients: int, requests: int) -> list[float]:
    """Seconds of every request; each client keeps its connection."""
    seconds: list[float] = []
    left = iter(range(requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            started = time.perf_counter()
            writer.write(request)
            await read_response(reader)
            seconds.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


async def read_response(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(head.decode())
    if b"transfer-encoding: chunked" in head:
        await reader.readuntil(b"\r\n0\r\n\r\n")
    else:
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))


def report(results: Sequence[Measured]) -> None:
    rows = [[m.way, m.clients, m.p50_ms, m.p99_ms, round(m.per_s)] for m in results]
    serving.print_table(["way", "clients", "p50 ms", "p99 ms", "requests/s"], rows)
    by_way = {(m.way, m.clients): m for m in results}
    ours, floor = by_way["gateway, base, plain", 1], by_way["mock, plain", 1]
    peer = by_way.get(("nginx, plain", 16))
    serving.finish(
        "overhead",
        added_p50_ms=round(ours.p50_ms - floor.p50_ms, 3),
        requests_per_s={f"{m.way}, {m.clients}": round(m.per_s) for m in results},
        floor=round(by_way["mock, plain", 16].per_s),
        nginx=round(peer.per_s) if peer else None,
        ratio=round(by_way["gateway, base, plain", 16].per_s / by_way["mock, plain", 16].per_s, 4),
    )


if __name__ == "__main__":
    main()
