"""The apps that the server plays: raw probes and Starlette's, each behind `DisconnectMiddleware`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from disconnect_mw import ClientDisconnected, DisconnectMiddleware

from .play import Play, Stage

SENDS = 20
"""How many messages an app sends that does not care."""

PATIENCE = 2.0
"""Seconds for which an app goes on that waits for its `send` to raise."""

Probe = Callable[[Stage], Awaitable[None]]

APPS: dict[tuple[str, str], Any] = {}
"""Every app by name and variant: the policy of a probe, or where `BaseHTTPMiddleware` stands."""


def probe(run: Probe) -> Probe:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await run(Stage(scope, receive, send))

    def install(policy: Literal["ignore", "raise"]) -> None:
        APPS[run.__name__, policy] = DisconnectMiddleware(app, policy=policy, websocket_policy=policy)

    install("ignore")
    install("raise")
    return run


# HTTP


async def start(stage: Stage) -> None:
    await stage.try_send("http.response.start", status=200, headers=[])


async def chunk(stage: Stage, body: bytes = b"chunk") -> bool:
    return await stage.try_send("http.response.body", body=body, more_body=True)


async def final(stage: Stage) -> None:
    await stage.try_send("http.response.body", body=b"final")


async def begin(stage: Stage) -> None:
    """Read the request, answer the start and a chunk."""
    await stage.receive()
    await start(stage)
    await chunk(stage)


async def disconnected(stage: Stage) -> None:
    while not stage.play.known:
        await stage.receive()


async def peek(stage: Stage) -> None:
    """What Starlette's `request.is_disconnected()` does."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stage.receive()
        return
    stage.play.line("peek: nothing")


async def aftermath(stage: Stage) -> None:
    """All that an app may try once it knows."""
    await stage.receive()
    await asyncio.gather(stage.receive(), stage.receive())
    await peek(stage)
    await chunk(stage)
    await final(stage)
    await final(stage)
    await stage.receive()


@probe
async def listen(stage: Stage) -> None:
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)
    await aftermath(stage)


@probe
async def before_start(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("reading")
    await disconnected(stage)
    stage.play.line(
        f"spec_version at least 2.4: {tuple(map(int, stage.scope['asgi']['spec_version'].split('.'))) >= (2, 4)}"
    )
    await start(stage)
    await aftermath(stage)


@probe
async def send_only(stage: Stage) -> None:
    await begin(stage)
    stage.play.ready("streaming")
    await stage.play.cue("gone")
    for _ in range(SENDS):
        try:
            await stage._send({"type": "http.response.body", "body": b"chunk", "more_body": True})
        except ClientDisconnected:  # policy "raise", where the server itself tells it to the sender
            break
    await disconnected(stage)
    await aftermath(stage)


@probe
async def never_receives(stage: Stage) -> None:
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await stage.play.cue("gone")
    for _ in range(SENDS):
        await chunk(stage)
    await final(stage)


@probe
async def reads_late(stage: Stage) -> None:
    stage.play.ready("waiting")
    await stage.play.cue("gone")
    await disconnected(stage)
    await start(stage)
    await aftermath(stage)


@probe
async def upload(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("uploading")
    await disconnected(stage)
    await start(stage)
    await aftermath(stage)


@probe
async def answers_during_upload(stage: Stage) -> None:
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)
    await aftermath(stage)


@probe
async def two_readers(stage: Stage) -> None:
    await begin(stage)
    readers = [asyncio.ensure_future(stage.receive()) for _ in range(2)]
    await asyncio.wait(readers, timeout=0)
    stage.play.ready("streaming")
    await asyncio.gather(*readers)
    await aftermath(stage)


@probe
async def cancelled_reader(stage: Stage) -> None:
    await begin(stage)
    readers = [asyncio.ensure_future(stage.receive()) for _ in range(2)]
    await asyncio.wait(readers, timeout=0)
    readers[0].cancel()
    await asyncio.wait(readers[:1])
    stage.play.ready("streaming")
    await readers[1]
    await aftermath(stage)


@probe
async def peeks(stage: Stage) -> None:
    await stage.receive()
    await peek(stage)
    await start(stage)
    await peek(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await stage.play.cue("gone")
    await peek(stage)
    await aftermath(stage)


@probe
async def blocked_send(stage: Stage) -> None:
    await stage.receive()
    await start(stage)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        while not stage.play.known:
            await stage._send({"type": "http.response.body", "body": bytes(262144), "more_body": True})
            sent += 1
            await asyncio.sleep(0)  # uvicorn's send alone gives nobody else a turn

    async def watch() -> None:
        before = -1
        while before != sent:  # no send has returned for a while: the last one is blocked
            before = sent
            await asyncio.sleep(0.1)
        stage.play.ready("blocked")
        await disconnected(stage)

    flooding = asyncio.ensure_future(flood())
    await watch()
    try:
        await flooding
        stage.play.line("the blocked send: None")
    except OSError as exception:
        stage.play.line(f"the blocked send: raises {type(exception).__name__}")
    await aftermath(stage)


@probe
async def tight_loop(stage: Stage) -> None:
    """Sends without ever waiting for anything else. The loop must go on turning."""
    await begin(stage)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    listening = asyncio.ensure_future(stage.receive())
    beating = asyncio.ensure_future(beat())
    stage.play.ready("streaming")
    await listening
    before, deadline = beats, time.monotonic() + PATIENCE
    while beats < before + 50 and time.monotonic() < deadline:
        await stage._send({"type": "http.response.body", "body": b"x", "more_body": True})
    stage.play.line("the heart beats" if beats >= before + 50 else f"STARVED: {beats - before} beats")
    beating.cancel()


@probe
async def returns_early(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("reading")
    await disconnected(stage)


@probe
async def lets_out(stage: Stage) -> None:
    """Sends once more and leaves what that may raise to others."""
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)
    await stage.send("http.response.body", body=b"chunk", more_body=True)


@probe
async def lets_a_group_out(stage: Stage) -> None:
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)

    async def send() -> None:
        await stage.send("http.response.body", body=b"chunk", more_body=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def bug_value() -> None:
    raise ValueError("a bug of the app's own")


async def bug_file() -> None:
    Path("/nowhere/no-such-file").read_bytes()


async def bug_outbound() -> None:
    await asyncio.open_connection("127.0.0.1", free_port())


async def bug_timeout() -> None:
    raise TimeoutError("the app's database did not answer")


def install_bugs() -> None:
    for bug in (bug_value, bug_file, bug_outbound, bug_timeout):

        async def http(stage: Stage, bug: Callable[[], Awaitable[None]] = bug) -> None:
            await begin(stage)
            stage.play.ready("streaming")
            await disconnected(stage)
            await bug()

        async def websocket(stage: Stage, bug: Callable[[], Awaitable[None]] = bug) -> None:
            await greet(stage)
            stage.play.ready("open")
            await disconnected(stage)
            await bug()

        http.__name__ = bug.__name__
        websocket.__name__ = f"ws_{bug.__name__}"
        probe(http)
        probe(websocket)


@probe
async def stays(stage: Stage) -> None:
    """The client stays: an upload, answered in two parts, and a disconnect as the normal end."""
    body = b""
    while True:
        message = await stage._receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    length = [(b"content-length", str(2 * len(body)).encode())]
    await stage.send("http.response.start", status=200, headers=length)
    await stage.send("http.response.body", body=body, more_body=True)
    await stage.send("http.response.body", body=body)


async def answer(stage: Stage, length: bytes, *bodies: bytes) -> None:
    """A mistake of the app's: the server must hear it, and be heard."""
    await stage._receive()
    try:
        if length:
            await stage._send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for body in bodies:
            await stage._send({"type": "http.response.body", "body": body})
    except Exception as exception:
        if not type(exception).__module__.startswith("disconnect_mw"):
            stage.play.line("the server complains")
        raise


@probe
async def sends_after_its_end(stage: Stage) -> None:
    await answer(stage, b"5", b"final", b"and more")


@probe
async def sends_before_its_start(stage: Stage) -> None:
    await answer(stage, b"", b"final")


@probe
async def sends_too_much(stage: Stage) -> None:
    await answer(stage, b"3", b"final")


# WebSocket


async def greet(stage: Stage) -> None:
    await stage.receive()
    await stage.try_send("websocket.accept")
    await stage.try_send("websocket.send", text="hello")


async def ws_aftermath(stage: Stage) -> None:
    await stage.receive()
    await asyncio.gather(stage.receive(), stage.receive())
    await peek(stage)
    await stage.try_send("websocket.send", text="again")
    await stage.try_send("websocket.send", bytes=b"again")
    await stage.try_send("websocket.close")
    await stage.try_send("websocket.close", code=1011)
    await stage.receive()


async def sends_until_it_raises(stage: Stage) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            await stage._send({"type": "websocket.send", "text": "tick"})
        except Exception:
            break
        await asyncio.sleep(0.01)
    else:
        return
    await stage.try_send("websocket.send", text="tick")


@probe
async def ws_listen(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await disconnected(stage)
    await ws_aftermath(stage)


@probe
async def ws_send_only(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await stage.play.cue("gone")
    await sends_until_it_raises(stage)
    await stage.receive()
    await ws_aftermath(stage)


@probe
async def ws_only_ever_sends(stage: Stage) -> None:
    """Lets out what its send raises, as a feed does that nobody thought about."""
    await greet(stage)
    stage.play.ready("open")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        await stage._send({"type": "websocket.send", "text": "tick"})
        await asyncio.sleep(0.01)
    stage.play.line("SILENCE")


@probe
async def ws_queued(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await stage.play.cue("gone")
    await disconnected(stage)
    await ws_aftermath(stage)


@probe
async def ws_two_readers(stage: Stage) -> None:
    await greet(stage)
    readers = [asyncio.ensure_future(stage.receive()) for _ in range(2)]
    await asyncio.wait(readers, timeout=0)
    stage.play.ready("open")
    await asyncio.gather(*readers)
    await ws_aftermath(stage)


@probe
async def ws_sends_while_reading(stage: Stage) -> None:
    """One task reads, another sends: both learn."""
    await greet(stage)
    stage.play.ready("open")
    await asyncio.gather(stage.receive(), ws_sender(stage))
    await ws_aftermath(stage)


async def ws_sender(stage: Stage) -> None:
    while not stage.play.known:
        try:
            await stage._send({"type": "websocket.send", "text": "tick"})
        except Exception:
            break
        await asyncio.sleep(0.01)


@probe
async def ws_before_accept(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("asked")
    await disconnected(stage)
    await stage.try_send("websocket.accept")
    await ws_aftermath(stage)


@probe
async def ws_accepts_late(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("asked")
    await stage.play.cue("gone")
    with contextlib.suppress(ClientDisconnected):  # some servers know at once, others at the next send
        await stage._send({"type": "websocket.accept"})
    await stage.try_send("websocket.send", text="hello")
    await stage.receive()
    await ws_aftermath(stage)


@probe
async def ws_returns_before_accept(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("asked")
    await disconnected(stage)


@probe
async def ws_closes_before_accept(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("asked")
    await disconnected(stage)
    await stage.send("websocket.close")


@probe
async def ws_returns(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await disconnected(stage)


@probe
async def ws_lets_out(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await disconnected(stage)
    await stage.send("websocket.send", text="again")


@probe
async def ws_stays(stage: Stage) -> None:
    """The client stays: an echo, then the app closes; what comes after that is the server's to judge."""
    await stage.receive()
    await stage.send("websocket.accept")
    message = await stage.receive()
    await stage.send("websocket.send", text=message["text"])
    await stage.send("websocket.close", code=1000)
    try:
        await stage._send({"type": "websocket.send", "text": "too late"})
    except Exception as exception:
        ours = type(exception).__module__.startswith("disconnect_mw")
        stage.play.line("too late: raises OURS" if ours else "too late: the server complains")
        return
    stage.play.line("too late: NO COMPLAINT")


install_bugs()


# Starlette


def play_of(request: Request | WebSocket) -> Play:
    play: Play = request.scope["tests.play"]
    return play


def background(play: Play) -> BackgroundTask:
    return BackgroundTask(play.line, "the background task ran")


async def endless(play: Play) -> AsyncIterator[bytes]:
    try:
        play.ready("streaming")
        while True:
            yield b"data: tick\n\n"
            await asyncio.sleep(0.01)
    finally:
        play.known = True
        play.line("the generator stopped")


async def stream(request: Request) -> Response:
    play = play_of(request)
    return StreamingResponse(endless(play), background=background(play))


BIG = tempfile.NamedTemporaryFile(prefix="disconnect-mw-", suffix=".bin")  # noqa: SIM115 - it lasts as the server does
BIG.truncate(1 << 26)  # sparse, and more than all the buffers between here and the client


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
        await asyncio.sleep(0.005)
    play.line(f"disconnected: {seen}")
    return PlainTextResponse("nobody there", background=background(play))


async def polls_blindly(request: Request) -> Response:
    """Behind a `BaseHTTPMiddleware` the answer is not promised, the silence is."""
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
    """What Starlette makes of a file that is not there: a RuntimeError."""
    play = play_of(request)
    play.ready("working")
    await play.cue("gone")
    return FileResponse("/nowhere/no-such-file")


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
            await asyncio.sleep(0.01)
    except WebSocketDisconnect:
        play.line("WebSocketDisconnect")
        raise
    play.line("SILENCE")


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


ROUTES = [
    Route(f"/{f.__name__}/{{v}}/{{r}}", f, methods=["GET", "POST"]) for f in (stream, file, body, polls, polls_blindly)
]
ROUTES += [Route(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (slow, bug, missing_file)]
WEBSOCKET_ROUTES = [WebSocketRoute(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (ws_echo, ws_feed)]

# What add_middleware is given, first one innermost.
VARIANTS: dict[str, list[Any]] = {
    "alone": [DisconnectMiddleware],
    "outside": [DisconnectMiddleware, PassOn],
    "inside": [PassOn, DisconnectMiddleware],
    "both": [PassOn, DisconnectMiddleware, PassOn, PassOn],
    "around": [PassOn],  # and DisconnectMiddleware around it all
}

for variant, middleware in VARIANTS.items():
    starlette = Starlette(routes=[*ROUTES, *WEBSOCKET_ROUTES])
    for kind in middleware:
        starlette.add_middleware(kind)
    for route in starlette.routes:
        app = DisconnectMiddleware(starlette) if variant == "around" else starlette
        APPS[route.path.split("/")[1], variant] = app  # type: ignore[attr-defined]  # both kinds have one
