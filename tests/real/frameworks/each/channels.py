"""Channels: consumers of HTTP and of WebSockets."""

from __future__ import annotations

from typing import Any

import django  # type: ignore[import-untyped]  # it has no types
from django.conf import settings  # type: ignore[import-untyped]  # it has no types

settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, SECRET_KEY="tests")
django.setup()

from channels.generic.http import AsyncHttpConsumer  # type: ignore[import-untyped]  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # type: ignore[import-untyped]  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # type: ignore[import-untyped]  # noqa: E402
from django.urls import path  # type: ignore[import-untyped]  # noqa: E402

from .work import Reading, Work, app, play, ran  # noqa: E402

__all__ = ["app"]


class Before(AsyncHttpConsumer):  # type: ignore[misc]  # it has no types
    async def handle(self, body: bytes) -> None:
        async with Work() as tick:
            while await tick():
                pass
        await self.send_response(200, b"done")

    async def disconnect(self) -> None:
        ran("disconnect()")


class Stream(Before):
    async def handle(self, body: bytes) -> None:
        await self.send_headers(status=200)
        async with Work() as tick:
            while await tick():
                await self.send_body(b"tick\n", more_body=True)
        await self.send_body(b"")


class Upload(Before):
    async def handle(self, body: bytes) -> None:
        async with Reading():
            pass
        await self.send_response(200, b"done")


class Socket(AsyncWebsocketConsumer):  # type: ignore[misc]  # it has no types
    async def disconnect(self, code: int) -> None:
        ran("disconnect()")


class Sends(Socket):
    """In `connect`, as what it has to say at the beginning."""

    async def connect(self) -> None:
        await self.accept()
        async with Work() as tick:
            while await tick():
                await self.send(text_data="tick")


class Receives(Socket):
    """It is told by `disconnect()`, and does its work there."""

    async def connect(self) -> None:
        await self.accept()
        self.reading = Reading()
        await self.reading.__aenter__()

    async def disconnect(self, code: int) -> None:
        await super().disconnect(code)
        await self.reading.__aexit__(None, None, None)


class Both(Socket):
    """Answers a message by many."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        async with Work() as tick:
            while await tick():
                await self.send(text_data="tick")


class Closes(Receives):
    async def disconnect(self, code: int) -> None:
        try:
            await super().disconnect(code)
        finally:
            await self.close()


_HTTP = {"before": Before, "bug": Before, "stream": Stream, "bug_stream": Stream, "upload": Upload}
_SOCKETS = {"ws_send": Sends, "ws_receive": Receives, "ws_both": Both, "ws_close": Closes, "bug_ws": Receives}


def _routed(consumers: dict[str, Any]) -> Any:
    return URLRouter(
        [path(f"{situation}/<variant>/<run>", consumer.as_asgi()) for situation, consumer in consumers.items()]
    )


play(ProtocolTypeRouter({"http": _routed(_HTTP), "websocket": _routed(_SOCKETS)}), *_HTTP, *_SOCKETS)
