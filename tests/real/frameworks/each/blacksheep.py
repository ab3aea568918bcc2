"""BlackSheep."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

from blacksheep import Application, Request, Response, StreamedContent, WebSocket, text
from blacksheep.server.sse import ServerSentEvent

from .work import Reading, Work, app, play, ran

__all__ = ["app"]

blacksheep = Application()
get, post, ws = blacksheep.router.get, blacksheep.router.post, blacksheep.router.ws


async def around(request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
    try:
        return await handler(request)
    finally:
        ran("middleware")


blacksheep.middlewares.append(around)


@get("/before/{variant}/{run}")
@get("/bug/{variant}/{run}")
async def before(request: Request) -> Response:
    async with Work() as tick:
        while await tick():
            pass
    return text("done")


async def _ticks() -> AsyncIterator[bytes]:
    async with Work() as tick:
        while await tick():
            yield b"tick\n"


@get("/stream/{variant}/{run}")
@get("/bug_stream/{variant}/{run}")
async def stream(request: Request) -> Response:
    return Response(200, content=StreamedContent(b"text/plain", _ticks))


@get("/events/{variant}/{run}")
async def events() -> AsyncIterable[ServerSentEvent]:
    async with Work() as tick:
        while await tick():
            yield ServerSentEvent("tick")


@post("/upload/{variant}/{run}")
async def upload(request: Request) -> Response:
    async with Reading():
        await request.read()
    return text("done")


@post("/form/{variant}/{run}")
async def form(request: Request) -> Response:
    async with Reading():
        await request.files()
    return text("done")


@ws("/ws_send/{variant}/{run}")
async def ws_send(websocket: WebSocket) -> None:
    await websocket.accept()
    async with Work() as tick:
        while await tick():
            await websocket.send_text("tick")


@ws("/ws_receive/{variant}/{run}")
@ws("/bug_ws/{variant}/{run}")
async def ws_receive(websocket: WebSocket) -> None:
    await websocket.accept()
    async with Reading():
        while True:
            await websocket.receive_text()


@ws("/ws_both/{variant}/{run}")
async def ws_both(websocket: WebSocket) -> None:
    await websocket.accept()
    async with Work() as tick, asyncio.TaskGroup() as group:

        async def reads() -> None:
            while True:
                await websocket.receive_text()

        group.create_task(reads())
        while await tick():
            await websocket.send_text("tick")


@ws("/ws_close/{variant}/{run}")
async def ws_close(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        async with Reading():
            while True:
                await websocket.receive_text()
    finally:
        await websocket.close()


play(
    blacksheep,
    *("before", "stream", "events", "upload", "form"),
    *("ws_send", "ws_receive", "ws_both", "ws_close", "bug", "bug_stream", "bug_ws"),
    lifespan=True,
)
