"""Server-sent events of sse-starlette, whose listener cancels each `await` of a clean-up that stands in no shield."""

import asyncio

import anyio
from sse_starlette.sse import EventSourceResponse
from starlette.routing import Route


async def ticks():
    try:
        while True:
            yield "tick"
            await asyncio.sleep(0.1)
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.1)
            print("the stream has stopped", flush=True)


async def stream(request):
    return EventSourceResponse(ticks())


routes = [Route("/stream", stream)]
