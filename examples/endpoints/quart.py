"""Views of Quart."""

import asyncio

from quart import Blueprint, request

blueprint = Blueprint("endpoints", __name__)


@blueprint.post("/upload")
async def upload():
    return f"{len(await request.get_data())} bytes\n"


@blueprint.get("/stream")
async def stream():
    async def ticks():
        try:
            while True:
                yield "tick\n"
                await asyncio.sleep(0.1)
        finally:
            print("the stream has stopped", flush=True)

    return ticks()
