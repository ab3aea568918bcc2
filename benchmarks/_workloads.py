"""The workloads: what an app does in one exchange with a server in memory.

The server's `receive` and `send` do not suspend, except where `receive` waits for the disconnect.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple, NoReturn

from ._rows import LIMIT, OURS, RIVALS, ROWS, App, Receive, Send

CHUNKS_SENT = 100
CHUNKS_UPLOADED = 50
CHUNKS_BEFORE_DISCONNECT, CHUNKS_AFTER_DISCONNECT = 8, 2

# The apps. Every message is a new dict, as frameworks make them.


async def get(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


async def post(scope: Any, receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:  # as frameworks read every body, of one message as well
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def stream(scope: Any, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(CHUNKS_SENT):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await send({"type": "http.response.body", "body": b"x"})


async def upload(scope: Any, receive: Receive, send: Send) -> None:
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


async def departure(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(CHUNKS_BEFORE_DISCONNECT):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await receive()  # the disconnect
    for _ in range(CHUNKS_AFTER_DISCONNECT):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await send({"type": "http.response.body", "body": b"x"})


async def starlette(scope: Any, receive: Receive, send: Send) -> None:
    await _starlette()(scope, receive, send)


@functools.cache
def _starlette() -> Any:
    from starlette.applications import Starlette  # here only: no other workload needs Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(CHUNKS_SENT):
            yield b"x"

    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    return Starlette(routes=[Route("/", endpoint)])


# What the server's `receive` does after the last message of the request's body.

AfterBody = Callable[[], Coroutine[Any, Any, Any]]


async def nothing_is_left() -> NoReturn:
    raise RuntimeError("nothing is left to receive: look for a middleware that reads ahead")


async def wait_for_ever() -> NoReturn:
    """As a server's `receive` does once only the disconnect can still come."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("this wait ends by cancellation alone")


async def client_leaves() -> Any:
    """The client leaves while `receive` waits: one turn of the event loop later it answers."""
    loop = asyncio.get_running_loop()
    left = loop.create_future()
    loop.call_soon(left.set_result, None)
    await left
    return {"type": "http.disconnect"}


class Workload(NamedTuple):
    title: str
    app: App
    body: int = 1
    """Messages of the request's body."""
    headers: list[tuple[bytes, bytes]] = []
    after_body: AfterBody = nothing_is_left
    in_task: bool = False
    """Whether the server runs the app in a task of its own, as real ones do."""
    rows: tuple[str, ...] = tuple(ROWS)
    compared_with: str = LIMIT
    """The row whose cost is 1."""
    repetitions: int = 500
    """Exchanges in one count or timing: so many that what happens once does not show."""
    note: str = ""
    """What is printed under the table."""


_OWN = ("bare", LIMIT, *OURS)

WORKLOADS: dict[str, Workload] = {
    "GET": Workload("GET", get),
    "POST": Workload("POST", post, headers=[(b"content-length", b"1")]),
    "stream": Workload(f"stream of {CHUNKS_SENT}", stream, repetitions=50),
    "upload": Workload(
        f"upload of {CHUNKS_UPLOADED}",
        upload,
        body=CHUNKS_UPLOADED,
        headers=[(b"transfer-encoding", b"chunked")],
        repetitions=50,
    ),
    # Not under the rivals: they read ahead, and cancel the app before it has sent a chunk.
    "departure": Workload(
        "one departure",
        departure,
        after_body=client_leaves,
        in_task=True,
        rows=tuple(row for row in _OWN if row != "finish"),  # under which it would wait in receive for ever
        note="One departure: the server runs the app in a task; the app receives its request, starts a response, "
        f"sends {CHUNKS_BEFORE_DISCONNECT} chunks and waits in receive; the client leaves; the app receives "
        f"http.disconnect, sends {CHUNKS_AFTER_DISCONNECT} chunks and its last message, and returns. The server "
        "accepts every message.",
    ),
    "Starlette": Workload(
        "Starlette, to bare",
        starlette,
        after_body=wait_for_ever,
        rows=_OWN,
        compared_with="bare",
        repetitions=50,
        note=f"Starlette: an app of one route, whose StreamingResponse has {CHUNKS_SENT} chunks, compared with the "
        "bare app.",
    ),
}
"""By name. Starlette's is the last, so that what it imports is not there while the others are counted."""


def http_scope(method: str = "GET", headers: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": headers or [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }


def after_body(workload: Workload, row: str) -> AfterBody:
    """What the server's `receive` does after the body. The rivals read on: for them it waits."""
    return wait_for_ever if row in RIVALS and workload.after_body is nothing_is_left else workload.after_body


def exchange(app: App, workload: Workload, after_body: AfterBody) -> Coroutine[Any, Any, Any]:
    """One exchange. `app` is the workload's app, in a row's middleware."""
    messages, headers = workload.body, workload.headers

    async def receive() -> Any:
        nonlocal messages
        messages -= 1
        if messages < 0:
            return await after_body()
        return {"type": "http.request", "body": b"x", "more_body": messages > 0}

    async def send(message: Any) -> None:
        pass

    return app(http_scope("POST" if headers else "GET", headers), receive, send)
