"""An API of Falcon. A cut body is read as if it were whole: ask `connected` before it is kept."""

import asyncio

import falcon.asgi

from disconnect_mw import connection


class Upload:
    async def on_post(self, req, resp):
        body = await req.stream.read()
        if connection(req).connected:
            resp.text = f"{len(body)} bytes\n"


async def ticks():
    try:
        while True:
            yield b"tick\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has stopped", flush=True)


class Stream:
    async def on_get(self, req, resp):
        resp.stream = ticks()


api = falcon.asgi.App()
api.add_route("/upload", Upload())
api.add_route("/stream", Stream())
