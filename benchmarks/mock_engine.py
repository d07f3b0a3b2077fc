"""A llama-server that computes nothing: a fixed completion over bare asyncio, to measure what stands before it.

Answers what the gateway asks of an engine (health, properties, adapters, slots, the probe) and one chat completion,
streamed or not. Run by overhead.py; by hand:

    python benchmarks/mock_engine.py PORT [ADAPTER_PATH …] < CHAT_TEMPLATE
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

SLOTS = 16
ALIAS = "mock"
_WORDS = 16
_TIMINGS = {"cache_n": 0, "prompt_n": 10, "prompt_ms": 1.0, "predicted_n": _WORDS, "predicted_ms": 1.0}


def dumps(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def head(content_type: str, *rest: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {content_type}", *rest, "\r\n"]).encode()


def plain(data: Any) -> bytes:
    body = dumps(data)
    return head("application/json", f"Content-Length: {len(body)}") + body


def chunked(events: list[bytes]) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
    return head("text/event-stream", "Transfer-Encoding: chunked") + framed + b"0\r\n\r\n"


def completion() -> bytes:
    message = {"role": "assistant", "content": " word" * _WORDS}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 10, "completion_tokens": _WORDS, "total_tokens": 10 + _WORDS}
    top = {"id": "chatcmpl-mock", "object": "chat.completion", "created": 1, "model": ALIAS}
    return plain({**top, "choices": [choice], "usage": usage, "timings": _TIMINGS})


def stream() -> bytes:
    """As llama-server streams: the role, the words one by one, the finish with its timings."""
    top = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": ALIAS}

    def event(delta: dict[str, Any], finish: str | None = None, **rest: Any) -> bytes:
        choices = [{"finish_reason": finish, "index": 0, "delta": delta}]
        return b"data: " + dumps({"choices": choices, **top, **rest}) + b"\n\n"

    words = [event({"content": " word"}) for _ in range(_WORDS)]
    last = event({}, "stop", timings=_TIMINGS)
    return chunked([event({"role": "assistant", "content": None}), *words, last, b"data: [DONE]\n\n"])


def answers(adapters: list[str], template: str) -> dict[bytes, bytes]:
    """Every endpoint's whole response, by method and path."""
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
    """One connection: whole requests in, whole prepared responses out."""

    def __init__(self, fixed: dict[bytes, bytes]) -> None:
        self._fixed = fixed
        self._completion, self._stream = completion(), stream()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

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
            self._transport.write(self._answer(b" ".join(top.split(b" ", 2)[:2]), body))
            if b"connection: close" in lower:
                self._transport.close()
                return

    def _answer(self, endpoint: bytes, body: bytes) -> bytes:
        if endpoint == b"POST /v1/chat/completions":
            return self._stream if b'"stream":true' in body.replace(b" ", b"") else self._completion
        if endpoint == b"POST /lora-adapters":  # taken to heart: the gateway reads it back
            given = {row["id"]: row["scale"] for row in json.loads(body)}
            rows = json.loads(self._fixed[b"GET /lora-adapters"].partition(b"\r\n\r\n")[2])
            self._fixed[b"GET /lora-adapters"] = plain([{**row, "scale": given.get(row["id"], 0.0)} for row in rows])
            return plain({"success": True})
        return self._fixed.get(endpoint, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def serve(port: int, adapters: list[str], template: str) -> None:
    fixed = answers(adapters, template)
    server = await asyncio.get_running_loop().create_server(lambda: Server(fixed), "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:], sys.stdin.read()))
