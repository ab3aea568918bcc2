"""Channels: `daphne channels_app:application`.

An HTTP consumer that streams never receives: under `mute` it would go on for ever, so `cancel` stops it. A WebSocket
consumer is told by `disconnect()`; leave `websocket_policy` as it is, since one that is cancelled misses that.
"""

import asyncio

from disconnect_mw import DisconnectMiddleware

try:
    from channels.generic.http import AsyncHttpConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.conf import settings
    from django.urls import path
except ImportError:
    raise SystemExit("This example needs Channels: pip install channels daphne") from None

settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="for an example only")


class Upload(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_response(200, f"{len(body)} bytes\n".encode())


class Stream(AsyncHttpConsumer):
    async def handle(self, body):
        await self.send_headers(status=200)
        try:
            while True:
                await self.send_body(b"tick\n", more_body=True)
                await asyncio.sleep(0.1)
        finally:
            print("the stream has stopped", flush=True)


routes = URLRouter([path("upload", Upload.as_asgi()), path("stream", Stream.as_asgi())])
# Around the router, and inside of Sentry, tracing and metrics.
application = DisconnectMiddleware(ProtocolTypeRouter({"http": routes}), policy="cancel")
