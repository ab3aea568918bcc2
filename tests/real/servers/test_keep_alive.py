"""Hypercorn waits for no further request of a client that has left: it would keep two tasks for its keep-alive."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from disconnect_mw import DisconnectMiddleware

from .. import free_port

SECONDS = 20
SECONDS_TO_KEEP_ALIVE = 3600


async def chunks() -> Any:
    while True:
        yield b"chunk"
        await asyncio.sleep(0.01)


def stream(request: Request) -> StreamingResponse:
    return StreamingResponse(chunks())


async def waits(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await asyncio.sleep(SECONDS_TO_KEEP_ALIVE)


APPS: dict[str, Any] = {"a stream": Starlette(routes=[Route("/", stream)]), "no response": waits}


async def leave(port: int, how: str, is_stream: bool) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    if is_stream:
        await reader.readuntil(b"chunk")
    else:
        await asyncio.sleep(0.2)  # the app waits by then; if it does not, the client leaves earlier
    if how == "rst":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def play(app: Any, how: str, is_stream: bool) -> None:
    port = free_port()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    config.keep_alive_timeout = SECONDS_TO_KEEP_ALIVE
    ends, begun = asyncio.Event(), asyncio.Event()

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            begun.set()
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await app(scope, receive, send)

    server = asyncio.ensure_future(serve(wrapped, config, shutdown_trigger=ends.wait))
    async with asyncio.timeout(SECONDS):
        await begun.wait()
        await asyncio.sleep(0.2)
        before = len(asyncio.all_tasks())
        await leave(port, how, is_stream)
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.05)
        ends.set()
        await server


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(("app", "policy"), [("a stream", "mute"), ("a stream", "cancel"), ("no response", "cancel")])
def test_no_connection_is_kept_of_a_client_that_left(app: str, policy: Any, how: str) -> None:
    asyncio.run(play(DisconnectMiddleware(APPS[app], policy=policy), how, app == "a stream"))
