"""An app with six faults, each on a route of its own: all show when a client leaves, and none before."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import create_async_engine

UPLOADS = Path(os.environ.get("UPLOADS", tempfile.gettempdir()))

app = FastAPI()
logger = logging.getLogger("shop")
engine = create_async_engine(f"sqlite+aiosqlite:///{UPLOADS}/shop.db", pool_size=100)
open_connections: dict[int, Any] = {}


class Endless:
    """Sends for ever, and never looks whether its reader is there."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            await asyncio.sleep(0.02)


app.mount("/endless", Endless())


@app.get("/swallow")
async def swallow() -> str:
    """Waits for a job, and takes its own cancellation for a failure of that."""
    while True:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.05)
        except (Exception, asyncio.CancelledError):
            continue


@app.get("/task")
async def task() -> StreamingResponse:
    async def ticks() -> AsyncIterator[str]:
        beat = asyncio.create_task(heartbeat())
        for number in range(30):
            yield f"{number}\n"
            await asyncio.sleep(0.02)
        beat.cancel()

    return StreamingResponse(ticks())


async def heartbeat() -> None:
    while True:
        await asyncio.sleep(0.05)


@app.get("/pool")
async def pool() -> StreamingResponse:
    async def rows() -> AsyncIterator[str]:
        connection = await engine.connect()
        open_connections[id(connection)] = connection
        for number in range(30):
            yield f"{number}\n"
            await asyncio.sleep(0.02)
        del open_connections[id(connection)]
        await connection.close()

    return StreamingResponse(rows())


@app.get("/noisy")
async def noisy() -> StreamingResponse:
    async def ticks() -> AsyncIterator[str]:
        try:
            for number in range(30):
                yield f"{number}\n"
                await asyncio.sleep(0.02)
        except BaseException:
            logger.exception("the stream broke")
            raise

    return StreamingResponse(ticks())


@app.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    path = UPLOADS / f"{id(request)}.upload"
    with path.open("wb") as file:
        async for part in request.stream():
            file.write(part)
    size = path.stat().st_size
    return {"bytes": size}
