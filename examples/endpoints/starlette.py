"""Endpoints of Starlette."""

import asyncio

from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route


async def upload(request):
    return PlainTextResponse(f"{len(await request.body())} bytes\n")


async def ticks():
    try:
        while True:
            yield "tick\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has stopped", flush=True)


async def stream(request):
    return StreamingResponse(ticks())


routes = [Route("/upload", upload, methods=["POST"]), Route("/stream", stream)]
