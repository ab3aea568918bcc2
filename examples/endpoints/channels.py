"""Consumers of Channels."""

import asyncio

from channels.generic.http import AsyncHttpConsumer
from channels.routing import URLRouter
from django.conf import settings
from django.urls import path

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
