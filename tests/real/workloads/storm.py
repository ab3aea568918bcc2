"""Run in the server's process: many streams of server-sent events, and what it costs when all their clients leave.

`/sse/VARIANT/RUN` as in `servers.serve`; a variant is "bare" or a policy. `/census/-/-` tells what there is in the
process. `/storm/-/-` holds the event loop until somebody has connected to a port of its own, so that all the clients
that have left by then are noticed at once, and tells how long the longest turn of the loop was from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import DisconnectMiddleware

SECONDS_BETWEEN_EVENTS = 20.0
"""Longer than a storm takes."""

SECONDS_TO_END = 30.0

SECONDS_OF_GRACE = 1.0

SECONDS_TO_SETTLE = 2.0
"""What belongs to an exchange that somebody looks at may stay until the next look, a second later."""

# As the servers have it by themselves. Nobody is to measure how long it takes to write lines.
logging.getLogger("disconnect_mw").setLevel(logging.WARNING)
logging.getLogger("uvicorn.access").setLevel(logging.WARNING)

_most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (_most, _most))


class _Open:
    streams = 0


async def _events() -> AsyncIterator[bytes]:
    _Open.streams += 1
    try:
        while True:
            yield b"data: hello\n\n"
            await anyio.sleep(SECONDS_BETWEEN_EVENTS)
    finally:
        _Open.streams -= 1


async def _sse(request: Request) -> Response:
    return StreamingResponse(_events(), media_type="text/event-stream")


async def _deaf(scope: Any, receive: Any, send: Any) -> None:
    """A stream that never asks whether its client is there."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    async for event in _events():
        await send({"type": "http.response.body", "body": event, "more_body": True})


async def _census(request: Request) -> Response:
    """`?blocks=N`: after a while, if there are more than so many by then."""
    enough = int(request.query_params.get("blocks", sys.maxsize))
    deadline = time.monotonic() + SECONDS_TO_SETTLE
    await _collect()
    while sys.getallocatedblocks() > enough and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        await _collect()
    statm = Path("/proc/self/statm")
    return JSONResponse(
        {
            "streams": _Open.streams,
            "tasks": len(asyncio.all_tasks()),
            "objects": len(gc.get_objects()),
            "blocks": sys.getallocatedblocks(),
            "bytes": int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0,
        }
    )


async def _collect() -> None:
    """The garbage, and the timers that were cancelled: asyncio keeps these until they are most, and over a hundred."""
    loop = asyncio.get_running_loop()
    for _ in range(1000):
        loop.call_later(SECONDS_TO_SETTLE, gc.collect).cancel()
    await asyncio.sleep(0)
    gc.collect()


async def _storm(request: Request) -> Response:
    streams = _Open.streams
    with socket.create_server(("127.0.0.1", 0)) as gate:
        gate.settimeout(SECONDS_TO_END)
        serve.emit(gate=gate.getsockname()[1])
        gate.accept()[0].close()
    gc.collect()  # so that each storm meets the garbage collector in the same state
    longest = longest_on_the_wall = 0.0
    worked, at = time.thread_time(), time.monotonic()
    began = at
    with _collections() as collections:
        while _Open.streams and at - began < SECONDS_TO_END:
            await asyncio.sleep(0)
            longest, worked = max(longest, time.thread_time() - worked), time.thread_time()
            longest_on_the_wall, at = max(longest_on_the_wall, time.monotonic() - at), time.monotonic()
    return JSONResponse(
        {
            "streams": streams,
            "left": _Open.streams,
            "turn": longest,
            "on_the_wall": longest_on_the_wall,
            "collecting": max(collections, default=0.0),
            "seconds": at - began,
        }
    )


@contextlib.contextmanager
def _collections() -> Iterator[list[float]]:
    """How long each full garbage collection took that was made meanwhile."""
    seconds: list[float] = []
    began = 0.0

    def note(phase: str, about: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        elif about["generation"] == 2:
            seconds.append(time.thread_time() - began)

    gc.callbacks.append(note)
    try:
        yield seconds
    finally:
        gc.callbacks.remove(note)


def _routed(name: str, endpoint: Any) -> Starlette:
    return Starlette(routes=[Route(f"/{name}/{{variant}}/{{run}}", endpoint)])


for _name, _played in (("sse", _routed("sse", _sse)), ("deaf", _deaf)):
    serve.APPS[_name, "bare"] = _played
    serve.APPS[_name, "mute"] = DisconnectMiddleware(_played)
    serve.APPS[_name, "cancel"] = DisconnectMiddleware(_played, policy="cancel")
    serve.APPS[_name, "finish"] = DisconnectMiddleware(_played, policy="finish", grace=SECONDS_OF_GRACE)
serve.APPS["census", "-"] = _routed("census", _census)
serve.APPS["storm", "-"] = _routed("storm", _storm)


async def app(scope: Any, receive: Any, send: Any) -> None:
    played = None if scope["type"] == "lifespan" else serve.APPS.get(tuple(scope["path"].split("/")[1:3]))
    await (played or serve.app)(scope, receive, send)  # what `serve` adds to each exchange is not to be measured
