"""Quart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from quart import Quart, Response, request, websocket

from .work import Reading, Work, app, play, ran

__all__ = ["app"]

quart = Quart(__name__)


@quart.teardown_request
async def _teardown(exception: BaseException | None) -> None:
    ran("teardown_request")


@quart.teardown_websocket
async def _teardown_websocket(exception: BaseException | None) -> None:
    ran("teardown_websocket")


@quart.route("/before/<variant>/<run>")
@quart.route("/bug/<variant>/<run>")
async def before(variant: str, run: str) -> str:
    async with Work() as tick:
        while await tick():
            pass
    return "done"


async def _ticks() -> AsyncIterator[bytes]:
    async with Work() as tick:
        while await tick():
            yield b"tick\n"


@quart.route("/stream/<variant>/<run>")
@quart.route("/bug_stream/<variant>/<run>")
async def stream(variant: str, run: str) -> Response:
    return Response(_ticks())


@quart.route("/upload/<variant>/<run>", methods=["POST"])
async def upload(variant: str, run: str) -> str:
    async with Reading():
        await request.get_data()
    return "done"


@quart.route("/form/<variant>/<run>", methods=["POST"])
async def form(variant: str, run: str) -> str:
    async with Reading():
        (await request.files)["file"].read()
    return "done"


@quart.websocket("/ws_send/<variant>/<run>")
async def ws_send(variant: str, run: str) -> None:
    await websocket.accept()
    async with Work() as tick:
        while await tick():
            await websocket.send("tick")


@quart.websocket("/ws_receive/<variant>/<run>")
@quart.websocket("/bug_ws/<variant>/<run>")
async def ws_receive(variant: str, run: str) -> None:
    await websocket.accept()
    async with Reading():
        while True:
            await websocket.receive()


@quart.websocket("/ws_both/<variant>/<run>")
async def ws_both(variant: str, run: str) -> None:
    await websocket.accept()
    async with Work() as tick:

        async def reads() -> None:
            while True:
                await websocket.receive()

        async def sends() -> None:
            while await tick():
                await websocket.send("tick")

        await asyncio.gather(reads(), sends())


@quart.websocket("/ws_close/<variant>/<run>")
async def ws_close(variant: str, run: str) -> None:
    await websocket.accept()
    try:
        async with Reading():
            while True:
                await websocket.receive()
    finally:
        await websocket.close(1000)


play(
    quart,
    *("before", "stream", "upload", "form"),
    *("ws_send", "ws_receive", "ws_both", "ws_close", "bug", "bug_stream", "bug_ws"),
    lifespan=True,
)
