"""Handlers of Litestar, which is told to log what they raise."""

import asyncio

from litestar import Request, get, post
from litestar.logging import LoggingConfig
from litestar.response import Stream


@post("/upload")
async def upload(request: Request) -> int:
    return len(await request.body())


async def ticks():
    try:
        while True:
            yield "tick\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has stopped", flush=True)


@get("/stream")
async def stream() -> Stream:
    return Stream(ticks())


handlers = [upload, stream]
logging = LoggingConfig(log_exceptions="always")
