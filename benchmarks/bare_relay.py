"""The least a proxy on our foundations can cost: uvicorn, our HTTP client, a new connection a request, and no gateway.

With an encoder it embeds a chat's first text on a thread before it passes the request on: the least a router on that
encoder can cost, in a process where all else finds the caches full of the encoder's weights.

python benchmarks/bare_relay.py PORT UPSTREAM [ENCODER_DIR]
"""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.types import Receive, Scope, Send

from gateway.http1 import HttpClient
from gateway.server import Protocol, quiet_collector
from router import OnnxEmbedder


class BareRelay:
    """Passes a request's body on and its answer back, piece by piece; looks at neither, but at what it is to encode."""

    def __init__(self, upstream: str, encoder: OnnxEmbedder | None) -> None:
        self._upstream = upstream
        self._client = HttpClient()
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if self._encoder is not None and body:
            text = json.loads(body)["messages"][0]["content"]
            await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.embed, [text])
        answer = await self._client.request(
            scope["method"], self._upstream + scope["path"], headers={}, body=body, silence_s=60, keep=False
        )
        try:
            headers = [(b"content-type", answer.content_type.encode())]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            while piece := await answer.read():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            answer.close()


if __name__ == "__main__":
    encoder = OnnxEmbedder(Path(sys.argv[3])) if len(sys.argv) > 3 else None
    quiet_collector()
    uvicorn.run(
        BareRelay(f"http://127.0.0.1:{sys.argv[2]}", encoder),
        port=int(sys.argv[1]),
        http=Protocol,
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
