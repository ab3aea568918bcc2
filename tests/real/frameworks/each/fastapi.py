"""FastAPI: dependencies that yield, background tasks, its own server-sent events and JSON lines, `UploadFile`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, Request, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

from .work import Reading, Work, app, play, ran

__all__ = ["app"]


class Item(BaseModel):
    name: str


async def dependency() -> AsyncIterator[str]:
    try:
        yield "resource"
    finally:
        await asyncio.sleep(0)
        ran("yield dependency")


Resource = Annotated[str, Depends(dependency)]


async def _background() -> None:
    ran("background task")


api = FastAPI()


@api.get("/before/{variant}/{run}")
@api.get("/bug/{variant}/{run}")
async def before(background: BackgroundTasks, resource: Resource) -> str:
    background.add_task(_background)
    async with Work() as tick:
        while await tick():
            pass
    return "done"


async def _ticks() -> AsyncIterator[bytes]:
    async with Work() as tick:
        while await tick():
            yield b"tick\n"


@api.get("/stream/{variant}/{run}")
@api.get("/bug_stream/{variant}/{run}")
async def stream(background: BackgroundTasks, resource: Resource) -> StreamingResponse:
    background.add_task(_background)
    return StreamingResponse(_ticks())


@api.get("/events/{variant}/{run}", response_class=EventSourceResponse)
async def events(resource: Resource) -> AsyncIterator[Item]:
    async with Work() as tick:
        while await tick():
            yield Item(name="tick")


@api.get("/lines/{variant}/{run}")
async def lines(resource: Resource) -> AsyncIterator[Item]:
    async with Work() as tick:
        while await tick():
            yield Item(name="tick")


@api.post("/upload/{variant}/{run}")
async def upload(request: Request, resource: Resource) -> str:
    async with Reading():
        await request.body()
    return "done"


@api.post("/form/{variant}/{run}")
async def form(file: UploadFile) -> str:
    async with Reading():
        await file.read()
    return "done"


@api.websocket("/ws_send/{variant}/{run}")
async def ws_send(websocket: WebSocket, resource: Resource) -> None:
    await websocket.accept()
    async with Work() as tick:
        while await tick():
            await websocket.send_text("tick")


@api.websocket("/ws_receive/{variant}/{run}")
@api.websocket("/bug_ws/{variant}/{run}")
async def ws_receive(websocket: WebSocket, resource: Resource) -> None:
    await websocket.accept()
    async with Reading():
        while True:
            await websocket.receive_text()


@api.websocket("/ws_both/{variant}/{run}")
async def ws_both(websocket: WebSocket, resource: Resource) -> None:
    await websocket.accept()
    async with Work() as tick, asyncio.TaskGroup() as group:

        async def reads() -> None:
            while True:
                await websocket.receive_text()

        group.create_task(reads())
        while await tick():
            await websocket.send_text("tick")


@api.websocket("/ws_close/{variant}/{run}")
async def ws_close(websocket: WebSocket, resource: Resource) -> None:
    await websocket.accept()
    try:
        async with Reading():
            while True:
                await websocket.receive_text()
    finally:
        await websocket.close()


play(
    api,
    *("before", "stream", "events", "lines", "upload", "form"),
    *("ws_send", "ws_receive", "ws_both", "ws_close", "bug", "bug_stream", "bug_ws"),
    lifespan=True,
)
