"""Falcon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import falcon.asgi

from .work import Reading, Work, app, play, ran

__all__ = ["app"]


class Around:
    async def process_response(self, req: Any, resp: Any, resource: Any, req_succeeded: bool) -> None:
        ran("process_response")


async def _background() -> None:
    ran("background task")


class Before:
    async def on_get(self, req: Any, resp: Any, variant: str, run: str) -> None:
        resp.schedule(_background)
        async with Work() as tick:
            while await tick():
                pass
        resp.text = "done"


async def _ticks() -> AsyncIterator[bytes]:
    async with Work() as tick:
        while await tick():
            yield b"tick\n"


class Stream:
    async def on_get(self, req: Any, resp: Any, variant: str, run: str) -> None:
        resp.schedule(_background)
        resp.stream = _ticks()


async def _events() -> AsyncIterator[falcon.asgi.SSEvent]:
    async with Work() as tick:
        while await tick():
            yield falcon.asgi.SSEvent(text="tick")


class Events:
    async def on_get(self, req: Any, resp: Any, variant: str, run: str) -> None:
        resp.schedule(_background)
        resp.sse = _events()


class Upload:
    async def on_post(self, req: Any, resp: Any, variant: str, run: str) -> None:
        async with Reading():
            await req.stream.read()


class Form:
    async def on_post(self, req: Any, resp: Any, variant: str, run: str) -> None:
        async with Reading():
            async for part in await req.get_media():
                await part.stream.read()


class Sends:
    async def on_websocket(self, req: Any, ws: Any, variant: str, run: str) -> None:
        await ws.accept()
        async with Work() as tick:
            while await tick():
                await ws.send_text("tick")


class Receives:
    async def on_websocket(self, req: Any, ws: Any, variant: str, run: str) -> None:
        await ws.accept()
        async with Reading():
            while True:
                await ws.receive_text()


class Both:
    async def on_websocket(self, req: Any, ws: Any, variant: str, run: str) -> None:
        await ws.accept()
        async with Work() as tick, asyncio.TaskGroup() as group:

            async def reads() -> None:
                while True:
                    await ws.receive_text()

            group.create_task(reads())
            while await tick():
                await ws.send_text("tick")


class Closes:
    async def on_websocket(self, req: Any, ws: Any, variant: str, run: str) -> None:
        await ws.accept()
        try:
            async with Reading():
                while True:
                    await ws.receive_text()
        finally:
            await ws.close()


_RESOURCES = {
    "before": Before(),
    "bug": Before(),
    "stream": Stream(),
    "bug_stream": Stream(),
    "events": Events(),
    "upload": Upload(),
    "form": Form(),
    "ws_send": Sends(),
    "ws_receive": Receives(),
    "bug_ws": Receives(),
    "ws_both": Both(),
    "ws_close": Closes(),
}

api = falcon.asgi.App(middleware=[Around()])
for _situation, _resource in _RESOURCES.items():
    api.add_route(f"/{_situation}/{{variant}}/{{run}}", _resource)
play(api, *_RESOURCES, lifespan=True)
