"""Starlette: `uvicorn starlette_app:app`. Listed last it stands inside of Sentry, tracing and metrics, as it should."""

import asyncio

from disconnect_mw import DisconnectMiddleware

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route
except ImportError:
    raise SystemExit("This example needs Starlette: pip install starlette uvicorn") from None


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
app = Starlette(routes=routes, middleware=[Middleware(DisconnectMiddleware)])
