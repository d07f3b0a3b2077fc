"""What a gateway on FastAPI and aiohttp costs before it does anything: the body passed on, the answer passed back.

python benchmarks/fastapi_relay.py PORT UPSTREAM
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse


def application(upstream: str) -> FastAPI:
    """Both libraries as their documentation shows them; the connections to the upstream are kept."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            app.state.session = session
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.body()
        sent = {"Content-Type": "application/json"}
        answer = await request.app.state.session.post(f"{upstream}/v1/chat/completions", data=body, headers=sent)
        if answer.content_type != "text/event-stream":
            async with answer:
                return Response(await answer.read(), answer.status, media_type=answer.content_type)

        async def pieces() -> AsyncIterator[bytes]:
            async with answer:
                async for piece in answer.content.iter_any():
                    yield piece

        return StreamingResponse(pieces(), answer.status, media_type=answer.content_type)

    return app


if __name__ == "__main__":
    uvicorn.run(
        application(f"http://127.0.0.1:{sys.argv[2]}"), port=int(sys.argv[1]), log_level="warning", access_log=False
    )
