"""An app that does everything wrong when its client leaves, and one that does nothing wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request, UploadFile, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from disconnect_mw.testing import HTTPClient, WebSocketClient

BODY = b"0123456789abcdef" * 100

logger = logging.getLogger("tests.support.leaving")


class BadApp:
    """Each route has one fault."""

    requests: tuple[Any, ...] = (
        "/endless",
        "/swallows",
        "/leaks-a-task",
        "/leaks-a-connection",
        "/logs",
        HTTPClient("/keeps-half", body=BODY),
        HTTPClient("/takes-half", body=BODY),
    )
    faults = {
        ("GET /endless", "endless"),
        ("GET /swallows", "swallowed cancellation"),
        ("GET /leaks-a-task", "leaked task"),
        ("GET /leaks-a-connection", "leaked connection"),
        ("GET /logs", "traceback"),
        ("POST /keeps-half", "half upload"),
        ("POST /takes-half", "half upload"),
    }

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = create_async_engine(
            f"sqlite+aiosqlite:///{directory / 'bad.db'}", pool_size=5, max_overflow=0, pool_timeout=20
        )
        self.sessions: list[AsyncSession] = []
        self.bodies: list[bytes] = []
        self.app = FastAPI(lifespan=self._lifespan)
        self.app.get("/swallows")(self.swallows)
        self.app.get("/leaks-a-task")(self.leaks_a_task)
        self.app.get("/leaks-a-connection")(self.leaks_a_connection)
        self.app.get("/logs")(self.logs)
        self.app.post("/keeps-half")(self.keeps_half)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        yield
        await self.engine.dispose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/endless":
            return await self.endless(send)
        if scope["type"] == "http" and scope["path"] == "/takes-half":
            return await self.takes_half(receive, send)
        await self.app(scope, receive, send)

    async def endless(self, send: Send) -> None:
        """It never receives, so that nothing tells it."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            with contextlib.suppress(OSError):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.01)

    async def swallows(self) -> str:
        await self.go_on(0.25)
        return "done"

    async def go_on(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await self.go_on(3600)

    async def leaks_a_task(self) -> str:
        task = asyncio.create_task(self.beat())
        await asyncio.sleep(0.25)
        task.cancel()
        return "done"

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(1)

    async def leaks_a_connection(self) -> str:
        session = AsyncSession(self.engine)
        self.sessions.append(session)
        await session.execute(text("select 1"))
        await asyncio.sleep(0.25)
        self.sessions.remove(session)
        await session.close()
        return "done"

    async def logs(self, request: Request) -> str:
        for _ in range(25):
            try:
                if await request.is_disconnected():
                    raise ValueError("nobody is there")
            except ValueError:
                logger.exception("the request failed")
                return "failed"
            await asyncio.sleep(0.01)
        return "done"

    async def keeps_half(self, request: Request) -> str:
        with open(self.directory / os.urandom(8).hex(), "wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        return "saved"

    async def takes_half(self, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"saved"})


class GoodApp:
    """Each route does what a bad one fails to do."""

    requests: tuple[Any, ...] = (
        "/json",
        "/stream",
        "/endless",
        "/idle",
        "/file",
        "/task",
        "/session",
        "/background",
        "/works",
        HTTPClient("/saves", body=BODY),
        HTTPClient("/json", body=b'{"key": "value"}', headers={"content-type": "application/json"}),
        HTTPClient(
            "/form",
            body=b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            + BODY
            + b"\r\n--limit--\r\n",
            headers={"content-type": "multipart/form-data; boundary=limit"},
        ),
        WebSocketClient("/echo", messages=["a", "b"]),
        WebSocketClient("/ticks"),
    )

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "file").write_bytes(BODY * 200)
        self.engine = create_async_engine(f"sqlite+aiosqlite:///{directory / 'good.db'}")
        self.app = FastAPI(lifespan=self._lifespan)
        for name in ("json", "stream", "endless", "idle", "file", "task", "session", "background", "works"):
            self.app.get(f"/{name}")(getattr(self, name))
        self.app.post("/saves")(self.saves)
        self.app.post("/json")(self.takes_json)
        self.app.post("/form")(self.form)
        self.app.websocket("/echo")(self.echo)
        self.app.websocket("/ticks")(self.ticks)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        yield
        await self.engine.dispose()

    async def json(self) -> dict[str, int]:
        return {"answer": 42}

    async def takes_json(self, body: dict[str, str]) -> dict[str, str]:
        return body

    async def stream(self) -> StreamingResponse:
        async def rows() -> AsyncIterator[str]:
            for number in range(8):
                yield f"{number}\n"
                await asyncio.sleep(0.005)

        return StreamingResponse(rows())

    async def endless(self) -> StreamingResponse:
        async def rows() -> AsyncIterator[str]:
            while True:
                yield "x"
                await asyncio.sleep(0.01)

        return StreamingResponse(rows())

    async def idle(self) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield ": hello\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(events(), media_type="text/event-stream")

    async def file(self) -> FileResponse:
        return FileResponse(self.directory / "file")

    async def task(self) -> str:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncio.sleep(3600))
            await asyncio.sleep(0.12)
            task.cancel()
        return "done"

    async def session(self) -> str:
        async with AsyncSession(self.engine) as session:
            await session.execute(text("select 1"))
            await asyncio.sleep(0.05)
        return "done"

    async def background(self, tasks: BackgroundTasks) -> str:
        tasks.add_task(asyncio.sleep, 0.05)
        return "done"

    async def works(self) -> str:
        await asyncio.sleep(0.15)
        return "done"

    async def saves(self, request: Request) -> str:
        path = self.directory / os.urandom(8).hex()
        temporary = path.with_suffix(".part")
        try:
            with open(temporary, "wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
            os.replace(temporary, path)
        except ClientDisconnect:
            temporary.unlink()
            raise
        return "saved"

    async def form(self, file: UploadFile) -> str:
        (self.directory / os.urandom(8).hex()).write_bytes(await file.read())
        return "saved"

    async def echo(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for message in websocket.iter_text():
            await websocket.send_text(message)

    async def ticks(self, websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_text("tick")
            await asyncio.sleep(0.01)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
