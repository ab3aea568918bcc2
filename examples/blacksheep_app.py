"""BlackSheep: `granian --interface asgi blacksheep_app:app`.

Its streams and server-sent events never receive: under `mute` they would go on for ever, so `cancel` stops them. It
logs what comes out of a handler before any middleware can act: `install()` has its loggers drop what tells of nothing
but a client that has left. Its own way is an `exception_handler` for `MessageAborted`, which knows no WebSocket.
"""

import asyncio

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    from blacksheep import Application, Request, Response, StreamedContent
except ImportError:
    raise SystemExit("This example needs BlackSheep: pip install blacksheep granian") from None

blacksheep = Application()


@blacksheep.router.post("/upload")
async def upload(request: Request) -> str:
    return f"{len(await request.read() or b'')} bytes\n"


async def ticks():
    try:
        while True:
            yield b"tick\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has stopped", flush=True)


@blacksheep.router.get("/stream")
async def stream() -> Response:
    return Response(200, content=StreamedContent(b"text/plain", ticks))


# Around the application, and inside of Sentry, tracing and metrics.
app = DisconnectMiddleware(blacksheep, policy="cancel")
install()
