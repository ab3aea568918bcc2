"""Starlette."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from .work import Reading, Work, app, play, ran

__all__ = ["app"]


async def _background() -> None:
    ran("background task")


async def before(request: Request) -> Response:
    async with Work() as tick:
        while await tick():
            pass
    return PlainTextResponse("done", background=BackgroundTask(_background))


async def _ticks() -> AsyncIterator[bytes]:
    async with Work() as tick:
        while await tick():
            yield b"tick\n"


async def stream(request: Request) -> Response:
    return StreamingResponse(_ticks(), background=BackgroundTask(_background))


async def upload(request: Request) -> Response:
    async with Reading():
        await request.body()
    return PlainTextResponse("done")


async def form(request: Request) -> Response:
    async with Reading(), request.form() as form:
        await form["file"].read()  # type: ignore[union-attr]  # it is a file
    return PlainTextResponse("done")


async def ws_send(websocket: WebSocket) -> None:
    await websocket.accept()
    async with Work() as tick:
        while await tick():
            await websocket.send_text("tick")


async def ws_receive(websocket: WebSocket) -> None:
    await websocket.accept()
    async with Reading():
        while True:
            await websocket.receive_text()


async def ws_both(websocket: WebSocket) -> None:
    await websocket.accept()
    async with Work() as tick, asyncio.TaskGroup() as group:

        async def reads() -> None:
            while True:
                await websocket.receive_text()

        group.create_task(reads())
        while await tick():
            await websocket.send_text("tick")


async def ws_close(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        async with Reading():
            while True:
                await websocket.receive_text()
    finally:
        await websocket.close()


def _path(situation: str) -> str:
    return f"/{situation}/{{variant}}/{{run}}"


_ENDPOINTS = {"before": before, "bug": before, "stream": stream, "bug_stream": stream, "upload": upload, "form": form}
_SOCKETS = {
    "ws_send": ws_send,
    "ws_receive": ws_receive,
    "ws_both": ws_both,
    "ws_close": ws_close,
    "bug_ws": ws_receive,
}

play(
    Starlette(
        routes=[
            *(Route(_path(situation), endpoint, methods=["GET", "POST"]) for situation, endpoint in _ENDPOINTS.items()),
            *(WebSocketRoute(_path(situation), endpoint) for situation, endpoint in _SOCKETS.items()),
        ]
    ),
    *_ENDPOINTS,
    *_SOCKETS,
    lifespan=True,
)
