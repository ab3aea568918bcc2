"""The apps of Starlette."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from disconnect_mw import CancelOnDisconnect, DisconnectMiddleware, connection

from ..play import Play
from .probes import APPS, PATIENCE
from .steps import has_gone, is_cancelled, pause


def play_of(request: Request | WebSocket) -> Play:
    play: Play = request.scope["tests.play"]
    return play


def background(play: Play) -> BackgroundTask:
    return BackgroundTask(play.line, "the background task ran")


async def endless(play: Play) -> AsyncGenerator[bytes, None]:
    try:
        play.ready("streaming")
        while True:
            yield b"data: tick\n\n"
            await anyio.sleep(0.01)
    finally:
        play.known = True
        play.line("the generator stopped")


async def stream(request: Request) -> Response:
    play = play_of(request)
    ticks = endless(play)

    async def close() -> None:
        await ticks.aclose()  # a generator whose stream is cancelled in a send lives until it is collected
        play.line("the background task ran")

    return StreamingResponse(ticks, background=BackgroundTask(close))


BIG = tempfile.NamedTemporaryFile(prefix="disconnect-mw-", suffix=".bin")  # noqa: SIM115 - it lasts as long as the server
BIG.truncate(1 << 26)  # sparse, and larger than all buffers between the app and the client


async def file(request: Request) -> Response:
    play = play_of(request)
    play.ready("sending")
    return FileResponse(BIG.name, background=background(play))


async def body(request: Request) -> Response:
    play = play_of(request)
    play.ready("uploading")
    try:
        await request.body()
    except ClientDisconnect:
        play.line("ClientDisconnect")
        raise
    return PlainTextResponse("thanks")


async def polls(request: Request) -> Response:
    play = play_of(request)
    play.line(f"disconnected: {await request.is_disconnected()}")
    play.ready("polling")
    deadline = time.monotonic() + PATIENCE
    while not (seen := await request.is_disconnected()) and time.monotonic() < deadline:
        await anyio.sleep(0.005)
    play.line(f"disconnected: {seen}")
    return PlainTextResponse("nobody there", background=background(play))


async def polls_in_vain(request: Request) -> Response:
    """The client stays."""
    await request.body()
    seen = []
    for _ in range(5):
        seen.append(await request.is_disconnected())
        await anyio.sleep(0.01)
    return JSONResponse(seen)


async def polls_blindly(request: Request) -> Response:
    """Behind a `BaseHTTPMiddleware` the answer is not promised, but that nothing is logged."""
    play = play_of(request)
    play.ready("polling")
    await play.cue("gone")
    await request.is_disconnected()
    return PlainTextResponse("nobody there", background=background(play))


async def slow(request: Request) -> Response:
    play = play_of(request)
    play.ready("working")
    await play.cue("gone")
    play.line("the work is done")
    return JSONResponse({"answer": 42}, background=background(play))


async def bug(request: Request) -> Response:
    play = play_of(request)
    play.ready("working")
    await play.cue("gone")
    raise ValueError("a bug of the app's own")


async def missing_file(request: Request) -> Response:
    """Starlette raises a RuntimeError for a file that does not exist."""
    play = play_of(request)
    play.ready("working")
    await play.cue("gone")
    return FileResponse("/nowhere/no-such-file")


async def stream_to_its_end(request: Request) -> Response:
    """A shielded stream, which Starlette's listener would stop otherwise."""
    play = play_of(request)

    async def ticks() -> AsyncIterator[bytes]:
        client = connection(request)
        async with client.shield():
            yield b"data: tick\n\n"
            play.ready("streaming")
            await has_gone(client)
            for _ in range(5):
                yield b"data: tick\n\n"
                await anyio.sleep(0.01)
            play.line("the generator has ended")

    return StreamingResponse(ticks(), background=background(play))


async def polls_now_and_then(request: Request) -> Response:
    """Polls once in 50 ms, as apps do."""
    play = play_of(request)
    play.line(f"disconnected: {await request.is_disconnected()}")
    play.ready("polling")
    await play.cue("gone")
    peeks = 1
    deadline = time.monotonic() + PATIENCE
    while not (seen := await request.is_disconnected()) and time.monotonic() < deadline:
        peeks += 1
        await anyio.sleep(0.05)
    play.line(f"disconnected: {seen}" if peeks <= 2 else f"disconnected: {seen}, AFTER {peeks} PEEKS")
    return PlainTextResponse("nobody there", background=background(play))


async def stalls(request: Request) -> Response:
    """A stream whose generator waits."""
    play = play_of(request)

    async def tick() -> AsyncIterator[bytes]:
        yield b"data: tick\n\n"
        play.ready("streaming")
        try:
            await pause()
            play.line("NOT CANCELLED")
        finally:
            play.line("the generator stopped")

    return StreamingResponse(tick(), background=background(play))


async def endures(request: Request) -> Response:
    play = play_of(request)
    play.ready("working")
    await is_cancelled(play, pause)
    return PlainTextResponse("nobody there", background=background(play))


async def endures_behind(request: Request) -> Response:
    """Is cancelled by anyio's task group in a `BaseHTTPMiddleware`, which cancels repeatedly."""
    play = play_of(request)
    play.ready("working")
    try:
        await pause()
        play.line("NOT CANCELLED")
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
            play.line("cleaned up")
    return PlainTextResponse("nobody there", background=background(play))


async def sets_policy(request: Request) -> Response:
    connection(request).policy = "cancel"
    return await endures(request)


async def sets_policy_behind(request: Request) -> Response:
    connection(request).policy = "cancel"
    return await endures_behind(request)


async def ws_echo(websocket: WebSocket) -> None:
    play = play_of(websocket)
    await websocket.accept()
    await websocket.send_text("hello")
    play.ready("open")
    while True:
        await websocket.send_text(await websocket.receive_text())


async def ws_feed(websocket: WebSocket) -> None:
    play = play_of(websocket)
    await websocket.accept()
    await websocket.send_text("hello")
    play.ready("open")
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            await websocket.send_text("tick")
            await anyio.sleep(0.01)
    except WebSocketDisconnect:
        play.line("WebSocketDisconnect")
        raise
    play.line("SILENCE")


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


ROUTES = [Route(f"/{f.__name__}/{{v}}/{{r}}", f, methods=["GET", "POST"]) for f in (stream, file, body, polls)]
ROUTES += [Route(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (polls_blindly, polls_in_vain, slow, bug, missing_file)]
ROUTES += [Route(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (endures, endures_behind, sets_policy, sets_policy_behind)]
ROUTES += [Route(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (stream_to_its_end, stalls, polls_now_and_then)]
WEBSOCKET_ROUTES = [WebSocketRoute(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (ws_echo, ws_feed)]

# The arguments of add_middleware, the innermost first.
VARIANTS: dict[str, list[Any]] = {
    "bare": [],
    "alone": [DisconnectMiddleware],
    "outside": [DisconnectMiddleware, PassOn],
    "inside": [PassOn, DisconnectMiddleware],
    "both": [PassOn, DisconnectMiddleware, PassOn, PassOn],
    "around": [PassOn],  # and DisconnectMiddleware around it all
    "nested": [DisconnectMiddleware, PassOn, DisconnectMiddleware],
    "cancel-alone": [CancelOnDisconnect],
    "cancel-outermost": [DisconnectMiddleware, PassOn, CancelOnDisconnect],
    "cancel-innermost": [CancelOnDisconnect, PassOn, DisconnectMiddleware],
    "cancel-behind": [PassOn, PassOn, CancelOnDisconnect],
}

for variant, middleware in VARIANTS.items():
    starlette = Starlette(routes=[*ROUTES, *WEBSOCKET_ROUTES])
    for kind in middleware:
        starlette.add_middleware(kind)
    for route in starlette.routes:
        app = DisconnectMiddleware(starlette) if variant == "around" else starlette
        APPS[route.path.split("/")[1], variant] = app  # type: ignore[attr-defined]  # both kinds have one
