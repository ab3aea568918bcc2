"""Quart: `quart --app quart_app run`. `app` stays the Quart object, with its decorators and its command.

Quart cancels a handler whose client has left. What is to go on all the same has `policy="finish"`, or stands in
`async with disconnect_mw.connection(request).shield():`.
"""

import asyncio

from disconnect_mw import DisconnectMiddleware

try:
    from quart import Quart, request
except ImportError:
    raise SystemExit("This example needs Quart: pip install quart") from None

app = Quart(__name__)
# Before that of Sentry, tracing and metrics is set, so that these stand outside of it.
app.asgi_app = DisconnectMiddleware(app.asgi_app)


@app.post("/upload")
async def upload():
    return f"{len(await request.get_data())} bytes\n"


@app.get("/stream")
async def stream():
    async def ticks():
        try:
            while True:
                yield "tick\n"
                await asyncio.sleep(0.1)
        finally:
            print("the stream has stopped", flush=True)

    return ticks()
