"""The demo's server process: an app of the usual kind, and a witness between it and the server.

Imports uvicorn and Starlette, so nothing else imports this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import platform
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, TextIO

import starlette
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from .. import DisconnectMiddleware
from .._options import Policy

_EXCHANGE = "disconnect_mw.demo"
_SECONDS_BETWEEN_MESSAGES = 0.02
_STEPS_OF_WORK = 30


# The app


async def events(request: Request) -> Response:
    """An endless SSE stream (tokens, progress of a job), with a background task."""

    async def stream() -> AsyncIterator[str]:
        while True:
            yield f"data: {time.time()}\n\n"
            await asyncio.sleep(_SECONDS_BETWEEN_MESSAGES)

    background = BackgroundTask(note, request, "background task ran")
    return StreamingResponse(stream(), media_type="text/event-stream", background=background)


async def report(request: Request) -> Response:
    """Slow work that is saved; the handler does not ask whether its client is there."""
    note(request, "started")
    await asyncio.sleep(_STEPS_OF_WORK * _SECONDS_BETWEEN_MESSAGES)
    note(request, "saved")
    return JSONResponse({"report": "x" * 1000})


async def answer(request: Request) -> Response:
    """A language model's answer in one piece: without a client it is not worth the GPU."""
    note(request, "started")
    try:
        await asyncio.sleep(_STEPS_OF_WORK * _SECONDS_BETWEEN_MESSAGES)
        note(request, "computed")
    finally:
        await asyncio.sleep(0)  # give the model back
        note(request, "given back")
    return JSONResponse({"answer": 42})


async def upload(request: Request) -> Response:
    note(request, "started")
    body = await request.body()
    note(request, "stored")
    return JSONResponse({"bytes": len(body)})


async def feed(websocket: WebSocket) -> None:
    """Sends news, and never listens."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_json({"time": time.time()})
            await asyncio.sleep(_SECONDS_BETWEEN_MESSAGES)
    finally:
        note(websocket, "stopped")


class Timing(BaseHTTPMiddleware):
    """Adds a header with the time taken to all responses but the stream, whose time means nothing."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/events":
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        response.headers["server-timing"] = f"app;dur={1000 * (time.perf_counter() - started):.0f}"
        return response


def policy_for(scope: Any) -> Policy | None:
    return "cancel" if scope["path"] == "/answer" else None


def make_app(is_wrapped: bool) -> Starlette:
    app = Starlette(
        routes=[
            Route("/events", events),
            Route("/report", report),
            Route("/answer", answer),
            Route("/upload", upload, methods=["POST"]),
            WebSocketRoute("/feed", feed),
        ]
    )
    if is_wrapped:
        app.add_middleware(DisconnectMiddleware, policy_for=policy_for)
    app.add_middleware(Timing)
    return app


# The witness


@dataclasses.dataclass
class Exchange:
    """What one client and the app did, as the server saw it."""

    target: str
    notes: list[str] = dataclasses.field(default_factory=list)
    payloads: list[float] = dataclasses.field(default_factory=list)  # time.time() of each message with content
    disconnected_at: float | None = None  # time.time() of the first disconnect that the server delivered
    is_running: bool = True


def note(connection: HTTPConnection, what: str) -> None:
    connection.scope[_EXCHANGE].notes.append(what)


class Witness:
    """Records the messages between the server and `app`, changes none, and answers `GET /witness` with its records."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._exchanges: list[Exchange] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/witness":
            facts = [dataclasses.asdict(exchange) for exchange in self._exchanges]
            return await JSONResponse(facts)(scope, receive, send)
        exchange = scope[_EXCHANGE] = Exchange(f"{scope['path']}?{scope['query_string'].decode()}")
        self._exchanges.append(exchange)

        async def witnessed_receive() -> Any:
            message = await receive()
            if message["type"].endswith(".disconnect"):
                exchange.disconnected_at = exchange.disconnected_at or time.time()
            return message

        async def witnessed_send(message: Any) -> None:
            if message.get("body") or message["type"] == "websocket.send":
                exchange.payloads.append(time.time())
            await send(message)

        try:
            await self._app(scope, witnessed_receive, witnessed_send)
        finally:
            exchange.is_running = False
        return None


# The server


def serve(is_wrapped: bool, commands: TextIO, answers: TextIO) -> None:
    """Serve on a free loopback port until `commands` is closed, as it is when the demo ends, killed or not."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(name)s: %(message)s")
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Witness(make_app(is_wrapped)), loop="asyncio", lifespan="off", access_log=False, use_colors=False
    )
    config.load()
    server = uvicorn.Server(config)
    versions = {
        "uvicorn": uvicorn.__version__,
        "http": _implementation(config.http_protocol_class),
        "websocket": _implementation(config.ws_protocol_class),
        "starlette": starlette.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps({"port": listener.getsockname()[1], "versions": versions}), file=answers, flush=True)

    def end_with_the_demo() -> None:
        with contextlib.suppress(OSError):
            commands.read()
        server.should_exit = server.force_exit = True

    threading.Thread(target=end_with_the_demo, daemon=True).start()
    server.run(sockets=[listener])


def _implementation(protocol: Any) -> str:
    """Return `httptools` for `uvicorn.protocols.http.httptools_impl.HttpToolsProtocol`."""
    return str(protocol.__module__).rpartition(".")[2].removesuffix("_impl")
