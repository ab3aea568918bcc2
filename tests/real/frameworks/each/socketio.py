"""python-socketio: an event of a client over a WebSocket, and one over long polling whose POST is cut."""

from __future__ import annotations

from typing import Any

import socketio  # type: ignore[import-untyped]  # it has no types

from .work import Work, app, at, lasting, play, ran

__all__ = ["app"]

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", logger=False, engineio_logger=False)


@server.event  # type: ignore[untyped-decorator]  # untyped
async def connect(sid: str, environ: Any) -> None:
    """Let everybody in."""


@server.event  # type: ignore[untyped-decorator]  # untyped
async def work(sid: str) -> None:
    async with Work() as tick:
        while await tick():
            await server.emit("tick", to=sid)


@server.event  # type: ignore[untyped-decorator]  # untyped
async def disconnect(sid: str, reason: Any) -> None:
    ran("disconnect()")


_app = socketio.ASGIApp(server)
lasting("engineio")  # its pings, and its watch over all clients
play(at(_app, "/socket.io/", b"EIO=4&transport=websocket"), "ws_both")
play(at(_app, "/socket.io/"), "upload")
