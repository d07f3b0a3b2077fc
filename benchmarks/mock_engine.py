"""A llama-server that computes nothing: a fixed completion over a bare event loop, to measure what stands before it.

Answers what the gateway asks of an engine (health, properties, adapters, slots, the probe) and one chat completion,
streamed or not. Like llama-server it closes the connection after a stream when the client said ``Connection: close``.
What a request's text holds chooses another answer:

    paced    the words one by one, a millisecond apart; each word is the time at which it was sent, ns, CLOCK_MONOTONIC
    slow     the words one by one, 50 ms apart
    broken   status 500
    cut      the connection closes in the middle of the stream

    python benchmarks/mock_engine.py PORT [ADAPTER_PATH …] < CHAT_TEMPLATE
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

SLOTS = 16
ALIAS = "mock"
WORDS = 16
PACED_WORDS = 100
_TIMINGS = {"cache_n": 0, "prompt_n": 10, "prompt_ms": 1.0, "predicted_n": WORDS, "predicted_ms": 1.0}
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"


def dumps(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def plain(data: Any, status: bytes = b"200 OK") -> bytes:
    body = dumps(data)
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def chunk(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


def completion() -> bytes:
    message = {"role": "assistant", "content": " word" * WORDS}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 10, "completion_tokens": WORDS, "total_tokens": 10 + WORDS}
    top = {"id": "chatcmpl-mock", "object": "chat.completion", "created": 1, "model": ALIAS}
    return plain({**top, "choices": [choice], "usage": usage, "timings": _TIMINGS})


def event(delta: dict[str, Any], finish: str | None = None, **rest: Any) -> bytes:
    """As llama-server writes it."""
    top = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": ALIAS}
    choices = [{"finish_reason": finish, "index": 0, "delta": delta}]
    return b"data: " + dumps({"choices": choices, **top, **rest}) + b"\n\n"


FIRST = chunk(event({"role": "assistant", "content": None}))
WORD = event({"content": " word"})
LAST = chunk(event({}, "stop", timings=_TIMINGS)) + chunk(b"data: [DONE]\n\n")
STREAM = _STREAM_HEAD + FIRST + chunk(WORD) * WORDS + LAST + _END
COMPLETION = completion()
BROKEN = plain({"error": {"code": 500, "message": "broken", "type": "server_error"}}, b"500 Internal Server Error")


def answers(adapters: list[str], template: str) -> dict[bytes, bytes]:
    """Every other endpoint's whole response, by method and path."""
    rows = [{"id": index, "path": path, "scale": 0.0} for index, path in enumerate(adapters)]
    props = {"total_slots": SLOTS, "default_generation_settings": {"n_ctx": 4096}, "chat_template": template}
    return {
        b"GET /health": plain({"status": "ok"}),
        b"GET /props": plain({**props, "model_alias": ALIAS, "build_info": "mock"}),
        b"GET /lora-adapters": plain(rows),
        b"GET /slots": plain([{"id": index, "is_processing": False} for index in range(SLOTS)]),
        b"POST /completion": plain({"content": " word", "timings": _TIMINGS}),
    }


class Server(asyncio.Protocol):
    """One connection: whole requests in, prepared responses out."""

    def __init__(self, fixed: dict[bytes, bytes]) -> None:
        self._fixed = fixed
        self._buffer = b""
        self._trickle: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._trickle is not None:
            self._trickle.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            top, _, rest = self._buffer.partition(b"\r\n\r\n")
            lower = top.lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            body, self._buffer = rest[:length], rest[length:]
            self._answer(b" ".join(top.split(b" ", 2)[:2]), body, b"connection: close" in lower)

    def _answer(self, endpoint: bytes, body: bytes, last: bool) -> None:
        if endpoint == b"POST /v1/chat/completions":
            if b"broken" in body:
                self._transport.write(BROKEN)
            elif b"cut" in body:
                self._transport.write(_STREAM_HEAD + FIRST + chunk(WORD))
                last = True
            elif b"paced" in body or b"slow" in body:
                pause_s = 0.001 if b"paced" in body else 0.05
                self._trickle = asyncio.get_running_loop().create_task(self._one_by_one(pause_s, last))
                return
            else:
                streamed = b'"stream":true' in body or b'"stream": true' in body
                self._transport.write(STREAM if streamed else COMPLETION)
        elif endpoint == b"POST /lora-adapters":  # taken to heart: the gateway reads it back
            given = {row["id"]: row["scale"] for row in json.loads(body)}
            rows = json.loads(self._fixed[b"GET /lora-adapters"].partition(b"\r\n\r\n")[2])
            self._fixed[b"GET /lora-adapters"] = plain([{**row, "scale": given.get(row["id"], 0.0)} for row in rows])
            self._transport.write(plain({"success": True}))
        else:
            self._transport.write(self._fixed.get(endpoint, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
        if last:
            self._transport.close()

    async def _one_by_one(self, pause_s: float, last: bool) -> None:
        self._transport.write(_STREAM_HEAD + FIRST)
        for _ in range(PACED_WORDS):
            await asyncio.sleep(pause_s)
            self._transport.write(chunk(event({"content": f" {time.monotonic_ns()}"})))
        await asyncio.sleep(pause_s)
        self._transport.write(LAST + _END)
        if last:
            self._transport.close()


async def serve(port: int, adapters: list[str], template: str) -> None:
    fixed = answers(adapters, template)
    server = await asyncio.get_running_loop().create_server(lambda: Server(fixed), "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2:], sys.stdin.read()))
