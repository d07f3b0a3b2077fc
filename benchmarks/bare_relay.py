"""The least a proxy on our foundations can cost: uvicorn, our HTTP client, a new connection a request, and no gateway.

python benchmarks/bare_relay.py PORT UPSTREAM
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.types import Receive, Scope, Send

from gateway.http1 import HttpClient
from gateway.server import Protocol, quiet_collector


class BareRelay:
    """Passes a request's body on and its answer back, piece by piece, without looking at either."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._client = HttpClient()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
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
    quiet_collector()
    uvicorn.run(
        BareRelay(f"http://127.0.0.1:{sys.argv[2]}"),
        port=int(sys.argv[1]),
        http=Protocol,
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
