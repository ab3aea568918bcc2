"""The app of `bad`, with none of its faults."""

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


class Endless:
    """Sends for ever, but for a reader who is there."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        listening = asyncio.create_task(self._listen(receive))
        try:
            while not listening.done():
                await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
                await asyncio.sleep(0.02)
        finally:
            listening.cancel()

    async def _listen(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


app.mount("/endless", Endless())


@app.get("/swallow")
async def swallow() -> str:
    """Waits for a job, some times, and ends where it is cancelled."""
    for _ in range(12):
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.05)
        except Exception:
            continue
    return "no job"


@app.get("/task")
async def task() -> StreamingResponse:
    async def ticks() -> AsyncIterator[str]:
        beat = asyncio.create_task(heartbeat())
        try:
            for number in range(30):
                yield f"{number}\n"
                await asyncio.sleep(0.02)
        finally:
            beat.cancel()

    return StreamingResponse(ticks())


async def heartbeat() -> None:
    while True:
        await asyncio.sleep(0.05)


@app.get("/pool")
async def pool() -> list[int]:
    async with engine.connect():
        await asyncio.sleep(0.6)
    return [*range(30)]


@app.get("/noisy")
async def noisy() -> StreamingResponse:
    async def ticks() -> AsyncIterator[str]:
        try:
            for number in range(30):
                yield f"{number}\n"
                await asyncio.sleep(0.02)
        except Exception:
            logger.exception("the stream broke")
            raise

    return StreamingResponse(ticks())


@app.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    path = UPLOADS / f"{id(request)}.upload"
    temporary = path.with_suffix(".part")
    try:
        with temporary.open("wb") as file:
            async for part in request.stream():
                file.write(part)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {"bytes": path.stat().st_size}
