"""Endpoints of FastAPI."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

router = APIRouter()


@router.post("/upload")
async def upload(request: Request) -> int:
    return len(await request.body())


async def ticks():
    try:
        while True:
            yield "tick\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has stopped", flush=True)


@router.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse(ticks())
