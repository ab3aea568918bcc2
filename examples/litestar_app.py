"""Litestar: `litestar --app litestar_app:app run`.

Litestar logs what comes out of a handler before any middleware can act, where it is told to log exceptions: `install()`
has its logger drop what tells of nothing but a client that has left. Its own way,
`LoggingConfig(disable_stack_trace={WebSocketDisconnect})`, knows neither a cut body nor a task group.
"""

import asyncio

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    from litestar import Litestar, Request, get, post
    from litestar.logging import LoggingConfig
    from litestar.middleware import DefineMiddleware
    from litestar.response import Stream
except ImportError:
    raise SystemExit("This example needs Litestar: pip install litestar uvicorn") from None


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


# Last in the list it stands inside of Sentry, tracing and metrics.
app = Litestar(
    [upload, stream],
    middleware=[DefineMiddleware(DisconnectMiddleware)],
    logging_config=LoggingConfig(log_exceptions="always"),
)
install()
