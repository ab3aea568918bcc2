"""Memory per open stream: many at once, by tracemalloc."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

from ._rows import ROWS, SECONDS_TO_CHECK, WATCHED, Receive, Send, logging_of
from ._workloads import http_scope

_STREAMS = 500
_SECONDS_TO_END = 30.0


async def _stream(scope: Any, receive: Receive, send: Send) -> None:
    """A stream that has sent a chunk and waits for more to send."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await scope["more"].wait()
    await send({"type": "http.response.body", "body": b"x"})


async def _listened_stream(scope: Any, receive: Receive, send: Send) -> None:
    """The same with a task that listens for the disconnect."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    listener = asyncio.create_task(listen())
    try:
        await _stream(scope, receive, send)
    finally:
        listener.cancel()


STREAMS = {"open stream": _stream, "with a listener": _listened_stream}


def per_stream(kind: str, row: str) -> float:
    """Bytes that one stream holds, in itself and in what waits for it."""
    with logging_of(row):
        return asyncio.run(_per_stream(kind, row))


async def _per_stream(kind: str, row: str) -> float:
    app = ROWS[row](STREAMS[kind])
    seconds = SECONDS_TO_CHECK if row in WATCHED else 0
    # The least of four, because what is made or grows once is not counted: the loop's set of all tasks takes 64 KiB
    # more now and then.
    return min([await _bytes_of(app, _STREAMS, seconds) for _ in range(4)]) / _STREAMS


async def _bytes_of(app: Any, count: int, seconds: float) -> int:
    """The bytes that `count` streams hold after so many seconds."""
    more, never = asyncio.Event(), asyncio.Event()

    async def exchange() -> None:
        bodies = 1

        async def receive() -> Any:
            nonlocal bodies
            if not bodies:
                await never.wait()
            bodies -= 1
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            pass

        await app({**http_scope(), "more": more}, receive, send)

    gc.collect()
    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(exchange()) for _ in range(count)]
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.sleep(seconds)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    more.set()
    await asyncio.wait_for(asyncio.gather(*tasks), _SECONDS_TO_END)
    return taken
