"""Run in the server's process: apps whose client is a browser, or behind a proxy, or stalls, or vanishes.

Each one writes into its transcript what becomes of it. `/APP/VARIANT/RUN` as in `servers.serve`; a variant is a policy,
a policy with `send_timeout` ("cancel-timeout"), or "bare".
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process

from disconnect_mw import ClientDisconnected, Disconnect, DisconnectMiddleware, connection

# Longer than a busy machine takes for a first chunk: Hypercorn's trio worker ends where that is cut, since it answers
# 500 in a response that has begun.
SEND_TIMEOUT = 1.5

LONGER = 3 * SEND_TIMEOUT
"""A send that takes so long has been blocked."""

CHUNK = bytes(65536)

ENOUGH = 256
"""Chunks that no buffers of kernels take: 16 MiB. Whoever takes them all does not wait for the client."""

SECONDS_BETWEEN_TICKS = 0.02

TICKS_FOR_NOBODY = 15
"""After which an app ends by itself. A departure is known six times as soon."""


async def page(scope: Any, receive: Any, send: Any) -> None:
    """A page with nothing in it, not even an icon to ask for."""
    headers = [(b"content-type", b"text/html")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'<!doctype html><link rel="icon" href="data:,">'})


async def work(scope: Any, receive: Any, send: Any) -> None:
    """Work before there is a response, until the client's side says "left", and a while longer."""
    with _Told(scope["tests.play"]) as play:
        play.ready("working")
        await _tick(scope, anyio.lowlevel.checkpoint)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """Server-sent events, or messages over a WebSocket, for as long."""
    with _Told(scope["tests.play"]) as play:
        tick = await _open(scope, receive, send, b"data: tick\n\n")
        await tick()
        play.ready("working")
        await _tick(scope, tick)
        await _close(scope, send)


async def flood(scope: Any, receive: Any, send: Any) -> None:
    """One chunk; on the cue "flood" so many that no buffer takes them, until one of them has been blocked."""
    with _Told(scope["tests.play"]) as play:
        one = await _open(scope, receive, send, CHUNK)
        await one()
        play.ready("working")
        await play.cue("flood")
        async with anyio.create_task_group() as tasks:
            stopwatch = _Stopwatch(play)
            if "timeout" not in play.variant:
                tasks.start_soon(stopwatch.watch)
            for _ in range(ENOUGH):
                try:
                    await stopwatch.time(one())
                except ClientDisconnected:
                    play.line("send raises ClientDisconnected")
                    tasks.cancel_scope.cancel()
                    return
                if play.variant != "bare" and connection(scope).disconnect is not None:
                    play.line("send returns, and the client has gone")
                    await anyio.sleep(0.1)  # an await of the app's own, in which it may be cancelled
                    break
                if stopwatch.was_long:
                    break
            else:
                play.line("no send is blocked")
            tasks.cancel_scope.cancel()
        await _close(scope, send)


class _Stopwatch:
    """How long does a send take, one at a time?"""

    def __init__(self, play: Any) -> None:
        self._play = play
        self._began = math.inf
        self.was_long = False

    async def time(self, sending: Awaitable[None]) -> None:
        self._began = time.monotonic()
        try:
            await sending
        finally:
            self._began = math.inf

    async def watch(self) -> None:
        while time.monotonic() - self._began < LONGER:
            await anyio.sleep(SEND_TIMEOUT / 10)
        self.was_long = True
        self._play.line("a send is blocked for longer than send_timeout")
        self._play.ready("blocked")


class _Told:
    """What becomes of an app goes into its transcript."""

    def __init__(self, play: Any) -> None:
        self._play = play

    def __enter__(self) -> Any:
        return self._play

    def __exit__(self, kind: Any, exception: BaseException | None, traceback: Any) -> None:
        if exception is None:
            self._play.line("went on to its end")
        elif isinstance(exception, anyio.get_cancelled_exc_class()):
            self._play.line("was cancelled")
        else:
            self._play.line(f"raised {exception!r}")


async def _open(scope: Any, receive: Any, send: Any, payload: bytes) -> Callable[[], Awaitable[None]]:
    """Start the response, or accept; what sends one piece more."""
    message: dict[str, Any]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        message = {"type": "websocket.send", "bytes": payload}
    else:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        message = {"type": "http.response.body", "body": payload, "more_body": True}

    async def one() -> None:
        await send({**message})

    return one


async def _close(scope: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    else:
        await send({"type": "http.response.body"})


async def _tick(scope: Any, tick: Callable[[], Awaitable[None]]) -> None:
    has_left = serve.signal(_run(scope["path"]), "left")
    ticks_for_nobody = TICKS_FOR_NOBODY
    while ticks_for_nobody:
        await tick()
        await anyio.sleep(SECONDS_BETWEEN_TICKS)
        ticks_for_nobody -= has_left.is_set()


def _run(path: str) -> str:
    return path.rpartition("/")[2]


def _hook(disconnect: Disconnect) -> None:
    serve.emit(run=_run(disconnect.path), line=f"on_disconnect: {disconnect.phase}", known=False)


def _install(app: Any) -> None:
    serve.APPS[app.__name__, "bare"] = app
    for policy in ("mute", "raise", "cancel"):
        options: Any = {"policy": policy, "websocket_policy": policy, "on_disconnect": _hook}
        serve.APPS[app.__name__, policy] = DisconnectMiddleware(app, **options)
        serve.APPS[app.__name__, f"{policy}-timeout"] = DisconnectMiddleware(app, **options, send_timeout=SEND_TIMEOUT)


for played in (page, work, stream, flood):
    _install(played)

app = serve.app
