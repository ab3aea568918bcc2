"""From a client that closes its connection to `CancelledError` in the handler, through a real uvicorn on asyncio.

How long that takes, and how many turns of the event loop after uvicorn knows: in the first turn the task that waits
for the disconnect can wake, in the next it can cancel the handler.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import statistics
import time
from typing import Any, NamedTuple

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ._rows import ROWS, SECONDS_TO_CHECK, App, Receive, Send

CANCELLING = ("cancel", "hook", "fastapi-disconnect", "aiofence", "aidial-sdk")

_SECONDS = 10.0
_REQUEST = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Cancellation(NamedTuple):
    seconds: float  # from FIN
    turns: int  # from when the server knows


class _Loop(asyncio.SelectorEventLoop):
    """A loop that counts its turns."""

    turns = 0

    def _run_once(self) -> None:
        self.turns += 1
        super()._run_once()  # type: ignore[misc]  # asyncio's private name for a turn: no public one exists


class _Handler:
    """Streams until it is cancelled."""

    def __init__(self, loop: _Loop, count: int) -> None:
        self._loop = loop
        self.streaming = [loop.create_future() for _ in range(count)]
        self.cancelled: list[asyncio.Future[tuple[float, int]]] = [loop.create_future() for _ in range(count)]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        number = int(scope["path"].removeprefix("/"))
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        self.streaming[number].set_result(None)
        try:
            await self._loop.create_future()
        except asyncio.CancelledError:
            self.cancelled[number].set_result((time.perf_counter(), self._loop.turns))
            raise


def fenced(app: App) -> App:
    """With aiofence the handler says which part of it may be cancelled: here, all of it."""
    fencing = importlib.import_module("aiofence")

    async def handler(scope: Any, receive: Receive, send: Send) -> None:
        with fencing.get_current_fencing().move_on_cancel():
            await app(scope, receive, send)

    return handler


def measure(row: str, count: int) -> Cancellation:
    """Of so many clients that leave one after the other: the median of the time, and the most turns."""
    loop = _Loop()
    try:
        cancellations = loop.run_until_complete(asyncio.wait_for(_cancellations(loop, row, count), _SECONDS))
    finally:
        loop.close()
    seconds, turns = zip(*cancellations, strict=True)
    return Cancellation(statistics.median(seconds), max(turns))


async def _cancellations(loop: _Loop, row: str, count: int) -> list[Cancellation]:
    known = 0

    class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # which one it is depends on what is installed
        def connection_lost(self, exception: Exception | None) -> None:
            nonlocal known
            known = loop.turns
            super().connection_lost(exception)

    handler = _Handler(loop, count)
    app = ROWS[row](fenced(handler) if row == "aiofence" else handler)
    config = uvicorn.Config(app, http=Protocol, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.ensure_future(server.serve(sockets=[listening]))
        clients = [socket.create_connection(listening.getsockname(), _SECONDS) for _ in range(count)]
        for number, client in enumerate(clients):
            client.sendall(_REQUEST % number)
        await asyncio.gather(*handler.streaming)
        await asyncio.sleep(SECONDS_TO_CHECK)
        cancellations = []
        for client, cancelled in zip(clients, handler.cancelled, strict=True):
            client.recv(65536)  # with unread data, close would send a RST
            began = time.perf_counter()
            client.close()
            at, turn = await cancelled
            cancellations.append(Cancellation(at - began, turn - known))
        server.should_exit = True
        await running
    return cancellations
