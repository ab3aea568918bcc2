"""sse-starlette: `hypercorn sse_starlette_app:app`.

Its own listener ends a stream, and cancels each `await` of the clean-up that stands in no shield.
"""

import asyncio

from disconnect_mw import DisconnectMiddleware

try:
    import anyio
    from sse_starlette.sse import EventSourceResponse
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route
except ImportError:
    raise SystemExit("This example needs sse-starlette: pip install sse-starlette starlette hypercorn") from None


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


# Last in the list it stands inside of Sentry, tracing and metrics.
app = Starlette(routes=[Route("/stream", stream)], middleware=[Middleware(DisconnectMiddleware)])
