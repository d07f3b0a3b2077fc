"""Which HTTP client should carry the streams from the engine? Ours, aiohttp, httpx, httpx over aiohttp, httpx2.

Each client runs in a process of its own, on uvloop, and reads streamed answers of a mock engine to their end, piece by
piece, as fast as so many at once allow. Like the gateway they say ``Connection: close``: llama-server closes after
a stream. The last column is the client's own CPU time for an answer of 20 chunks, connecting included.

    python benchmarks/http_clients.py [--seconds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

PEERS = ("aiohttp==3.14.5", "httpx==0.28.1", "httpx-aiohttp==0.2.0", "httpx2==2.16.2", "uvloop==0.23.0")
_CLIENTS = ("ours", "aiohttp", "httpx-aiohttp", "httpx", "httpx2")
_HEADERS = {"Content-Type": "application/json", "Connection": "close"}
_BODY = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}, separators=(",", ":")).encode()

Ask = Callable[[], Awaitable[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--client", choices=_CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--at-once", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        measure(given.client, given.port, given.at_once, given.seconds)
    else:
        compare(given.seconds)


def compare(seconds: float) -> None:
    import peers
    import proxies
    import serving

    python = peers.peer_python("http-clients", PEERS)
    results: dict[str, dict[int, dict[str, float]]] = {}
    with proxies.mock(serving.ROOT / "experts") as port:
        for client in _CLIENTS:
            for at_once in (1, 16):
                command = [sys.executable if client == "ours" else str(python), __file__, "--client", client]
                options = ["--port", str(port), "--at-once", str(at_once), "--seconds", str(seconds)]
                done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
                results.setdefault(client, {})[at_once] = json.loads(done.stdout)
    rows = [
        [client, at_once, one["p50_ms"], round(one["per_s"]), round(one["cpu_us"])]
        for client, row in results.items()
        for at_once, one in row.items()
    ]
    serving.print_table(["client", "at once", "p50 ms", "answers/s", "CPU us an answer"], rows)
    best = max(row[16]["per_s"] for client, row in results.items() if client != "ours")
    serving.finish("http_clients", results=results, ratio=round(results["ours"][16]["per_s"] / best, 2))


# -- in the child: no import of ours but for our client -----------------------------------------------------------


def measure(client: str, port: int, at_once: int, seconds: float) -> None:
    import uvloop

    print(json.dumps(uvloop.run(run(client, f"http://127.0.0.1:{port}/v1/chat/completions", at_once, seconds))))


async def run(client: str, url: str, at_once: int, seconds: float) -> dict[str, float]:
    opened = {
        "ours": open_ours,
        "aiohttp": open_aiohttp,
        "httpx": open_httpx,
        "httpx-aiohttp": open_httpx_aiohttp,
        "httpx2": open_httpx2,
    }[client](url)
    await load(opened, at_once, seconds / 5)
    cpu = time.process_time()
    times = await load(opened, at_once, seconds)
    cpu = time.process_time() - cpu
    return {
        "p50_ms": sorted(times)[len(times) // 2] * 1000,
        "per_s": len(times) / seconds,
        "cpu_us": cpu / len(times) * 1e6,
    }


async def load(ask: Ask, at_once: int, seconds: float) -> list[float]:
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def worker() -> None:
        while (begun := time.perf_counter()) < until:
            if await ask() < 1000:
                raise RuntimeError("an answer is too short")
            times.append(time.perf_counter() - begun)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return times


def open_ours(url: str) -> Ask:
    from gateway.http1 import HttpClient

    client = HttpClient()

    async def ask() -> int:
        response = await client.request("POST", url, headers={}, body=_BODY, silence_s=60, keep=False)
        size = 0
        try:
            while piece := await response.read():
                size += len(piece)
        finally:
            response.close()
        return size

    return ask


def open_aiohttp(url: str) -> Ask:
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True), auto_decompress=False)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)

    async def ask() -> int:
        async with session.post(url, data=_BODY, headers=_HEADERS, timeout=timeout) as response:
            return sum([len(piece) async for piece in response.content.iter_any()])

    return ask


def open_httpx(url: str) -> Ask:
    import httpx

    return _through(httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60), url)


def open_httpx2(url: str) -> Ask:
    import httpx2

    return _through(httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), timeout=60), url)


def open_httpx_aiohttp(url: str) -> Ask:
    import aiohttp
    import httpx
    from httpx_aiohttp import AiohttpTransport

    def session() -> Any:  # unless told so, aiohttp keeps a connection although the request said close
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))

    return _through(httpx.AsyncClient(transport=AiohttpTransport(client=session), timeout=60), url)


def _through(client: Any, url: str) -> Ask:
    async def ask() -> int:
        async with client.stream("POST", url, content=_BODY, headers=_HEADERS) as response:
            return sum([len(piece) async for piece in response.aiter_raw()])

    return ask


if __name__ == "__main__":
    main()
