"""A gateway that leaves its upstream when its own client leaves: httpx, streamed through.

    DISCONNECT_MW_LOG=info uvicorn gateway:app

Here the app is its own upstream; `UPSTREAM=https://...` names another one.

    curl --no-buffer --max-time 1 http://127.0.0.1:8000/through/numbers

        the upstream begins
        the gateway has left its upstream
        the upstream ends
        INFO:     client disconnected: GET /through/numbers from ..., during the response: ... and was cancelled
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

try:
    import httpx
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse
except ImportError:
    raise SystemExit("This example needs FastAPI and httpx: pip install fastapi uvicorn httpx") from None

from disconnect_mw import DisconnectMiddleware

http = httpx.AsyncClient(timeout=None, trust_env=False)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with http:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(DisconnectMiddleware, policy_for={"/through/*": "cancel"})


@app.get("/through/{path:path}")
async def through(path: str, request: Request) -> StreamingResponse:
    upstream = os.environ.get("UPSTREAM", str(request.base_url))
    response = await http.send(http.build_request("GET", f"{upstream.rstrip('/')}/{path}"), stream=True)

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        finally:
            await response.aclose()
            print("the gateway has left its upstream", flush=True)

    media_type = response.headers.get("content-type")
    return StreamingResponse(body(), response.status_code, media_type=media_type)


@app.get("/numbers")
async def numbers() -> StreamingResponse:
    async def rows() -> AsyncIterator[str]:
        print("the upstream begins", flush=True)
        try:
            number = 0
            while True:
                yield f"{number}\n"
                number += 1
                await asyncio.sleep(0.05)
        finally:
            print("the upstream ends", flush=True)

    return StreamingResponse(rows())
