"""Falcon: `gunicorn --worker-class asgi falcon_app:app`.

`resp.stream` never receives: under `mute` it would go on for ever, so `cancel` stops it. A cut body is read as if it
were whole: ask `connection(req).connected` before it is kept. `install()` is for a WebSocket with two tasks, whose
exception group Falcon logs before any middleware can act.
"""

import asyncio

from disconnect_mw import DisconnectMiddleware, connection
from disconnect_mw.observe.logging import install

try:
    import falcon.asgi
except ImportError:
    raise SystemExit("This example needs Falcon: pip install falcon gunicorn") from None


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
# Inside of Sentry, tracing and metrics.
app = DisconnectMiddleware(api, policy="cancel")
install()
