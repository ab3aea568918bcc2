"""python-socketio: `uvicorn socketio_app:app`. A client that leaves comes to `disconnect()`, as without it."""

import asyncio

from disconnect_mw import DisconnectMiddleware

try:
    import socketio
except ImportError:
    raise SystemExit("This example needs python-socketio: pip install python-socketio uvicorn websockets") from None

server = socketio.AsyncServer(async_mode="asgi")


@server.event
async def work(sid):
    await server.emit("tick", to=sid)


@server.event
async def disconnect(sid, reason):
    await asyncio.sleep(0.1)
    print("the stream has stopped", flush=True)


# Around the app, and inside of Sentry, tracing and metrics.
app = DisconnectMiddleware(socketio.ASGIApp(server))
