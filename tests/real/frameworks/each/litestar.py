"""Litestar, which is told to log every exception."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Litestar, Request, WebSocket, get, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import UploadFile
from litestar.di import Provide
from litestar.enums import RequestEncodingType
from litestar.logging import LoggingConfig
from litestar.params import Body
from litestar.response import Response, ServerSentEvent, Stream

from .work import Reading, Work, app, play, ran

__all__ = ["app"]


async def dependency() -> AsyncIterator[str]:
    try:
        yield "resource"
    finally:
        ran("yield dependency")


async def _background() -> None:
    ran("background task")


async def after_response(request: Any) -> None:
    ran("after_response")


def _paths(*situations: str) -> list[str]:
    return [f"/{situation}/{{variant:str}}/{{run:str}}" for situation in situations]


@get(_paths("before", "bug"))
async def before(resource: str) -> Response[str]:
    async with Work() as tick:
        while await tick():
            pass
    return Response("done", background=BackgroundTask(_background))


async def _ticks() -> AsyncIterator[str]:
    async with Work() as tick:
        while await tick():
            yield "tick"


@get(_paths("stream", "bug_stream"))
async def stream(resource: str) -> Stream:
    return Stream(_ticks(), background=BackgroundTask(_background))


@get(_paths("events"))
async def events(resource: str) -> ServerSentEvent:
    return ServerSentEvent(_ticks(), background=BackgroundTask(_background))


@post(_paths("upload"))
async def upload(request: Request[Any, Any, Any], resource: str) -> str:
    async with Reading():
        await request.body()
    return "done"


@post(_paths("form"))
async def form(data: Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)]) -> str:
    async with Reading():
        await data.read()
    return "done"


@websocket(_paths("ws_send"))
async def ws_send(socket: WebSocket[Any, Any, Any], resource: str) -> None:
    await socket.accept()
    async with Work() as tick:
        while await tick():
            await socket.send_text("tick")


@websocket(_paths("ws_receive", "bug_ws"))
async def ws_receive(socket: WebSocket[Any, Any, Any], resource: str) -> None:
    await socket.accept()
    async with Reading():
        while True:
            await socket.receive_text()


@websocket(_paths("ws_both"))
async def ws_both(socket: WebSocket[Any, Any, Any], resource: str) -> None:
    await socket.accept()
    async with Work() as tick, asyncio.TaskGroup() as group:

        async def reads() -> None:
            while True:
                await socket.receive_text()

        group.create_task(reads())
        while await tick():
            await socket.send_text("tick")


@websocket(_paths("ws_close"))
async def ws_close(socket: WebSocket[Any, Any, Any], resource: str) -> None:
    await socket.accept()
    try:
        async with Reading():
            while True:
                await socket.receive_text()
    finally:
        await socket.close()


play(
    Litestar(
        [before, stream, events, upload, form, ws_send, ws_receive, ws_both, ws_close],
        dependencies={"resource": Provide(dependency)},
        after_response=after_response,
        logging_config=LoggingConfig(log_exceptions="always", configure_root_logger=False),
    ),
    *("before", "stream", "events", "upload", "form"),
    *("ws_send", "ws_receive", "ws_both", "ws_close", "bug", "bug_stream", "bug_ws"),
    lifespan=True,
)
