"""The rows and the workloads: what wraps which application, and a server in memory that never suspends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from disconnect_mw import Disconnect, DisconnectMiddleware

App = Callable[[Any, Any, Any], Coroutine[Any, Any, Any]]
Receive = Callable[[], Coroutine[Any, Any, Any]]
Send = Callable[[Any], Coroutine[Any, Any, None]]

CHUNKS_SENT = 100
CHUNKS_UPLOADED = 50

# The workloads. Every message is a new dict, as frameworks make them.


async def get(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


async def post(scope: Any, receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:  # as frameworks read a body, be it of one message
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


# The rows.


def bare(app: App) -> App:
    return app


def two_closures(app: App) -> App:
    """The limit: one more coroutine frame per call, and nothing done in it."""

    async def middleware(scope: Any, receive: Receive, send: Send) -> Any:
        async def _receive() -> Any:
            return await receive()

        async def _send(message: Any) -> None:
            await send(message)

        return await app(scope, _receive, _send)

    return middleware


def ours(**options: Any) -> Callable[[App], App]:
    return lambda app: DisconnectMiddleware(app, **options)


def hook(disconnect: Disconnect) -> None:
    pass


def rival(module: str, name: str) -> Callable[[App], App]:
    """A middleware that is imported only when it is wanted: it may not be installed."""

    def wrap(app: App) -> App:
        middleware: Callable[[App], App] = getattr(importlib.import_module(module), name)
        return middleware(app)

    return wrap


def base_http_middleware(app: App) -> App:
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return BaseHTTPMiddleware(app, dispatch)


WORKLOADS: dict[str, App] = {"GET": get, "POST": post, "stream": stream, "upload": upload}
TITLES = {"GET": "GET", "POST": "POST", "stream": f"stream of {CHUNKS_SENT}", "upload": f"upload of {CHUNKS_UPLOADED}"}
CHUNKS_RECEIVED = {"GET": 1, "POST": 1, "stream": 1, "upload": CHUNKS_UPLOADED}
HEADERS: dict[str, list[tuple[bytes, bytes]]] = {
    "GET": [],
    "POST": [(b"content-length", b"1")],
    "stream": [],
    "upload": [(b"transfer-encoding", b"chunked")],
}

ROWS: dict[str, Callable[[App], App]] = {
    "bare": bare,
    "two": two_closures,
    "ours": DisconnectMiddleware,
    "raise": ours(policy="raise"),
    "cancel": ours(policy="cancel"),
    "hook": ours(policy="cancel", on_disconnect=hook),
    "grace": ours(grace=30),
    "timeout": ours(send_timeout=30),
    "fastapi-disconnect": rival("fastapi_disconnect", "CancelOnDisconnectMiddleware"),
    "aiofence": rival("aiofence.contrib.starlette", "DisconnectMiddleware"),
    "aidial-sdk": rival("aidial_sdk.utils._disconnect_middleware", "DisconnectMiddleware"),
    "base": base_http_middleware,
}
NAMES = {
    "bare": "bare app",
    "two": "two closures",
    "ours": "disconnect_mw",
    "raise": "  raise",
    "cancel": "  cancel",
    "hook": "  cancel + hook",
    "grace": "  grace",
    "timeout": "  send_timeout",
    "fastapi-disconnect": "fastapi-disconnect",
    "aiofence": "aiofence",
    "aidial-sdk": "aidial-sdk",
    "base": "BaseHTTPMiddleware",
}
BASIC = ("bare", "two", "ours", "base")
OURS = ("ours", "raise", "cancel", "hook", "grace", "timeout")
RIVALS = ("fastapi-disconnect", "aiofence", "aidial-sdk")
LOOKED_AT = ("raise", "cancel", "hook", "grace")
"""Rows in which somebody looks whether the client has gone, 50 to 75 ms after the beginning, if it lasts so long."""

NEEDS_LOOP = {*OURS, *RIVALS, "base"} - {"ours"}


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


async def nothing_is_left() -> NoReturn:
    raise RuntimeError("nothing is left to receive: look for a middleware that reads ahead")


async def wait_for_ever() -> NoReturn:
    """What a server does once only the disconnect can still come."""
    import asyncio  # here only: without a loop, nothing under test may count on its being there

    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody ends this wait but by cancelling it")


AFTER_LAST = {row: wait_for_ever if row in RIVALS else nothing_is_left for row in ROWS}
"""What `receive` does after the last message of the body. The rivals read on, and so must be let wait."""


def exchange(
    app: App, workload: str, after_last: Callable[[], Coroutine[Any, Any, NoReturn]] = nothing_is_left
) -> Coroutine[Any, Any, Any]:
    """One exchange, whose client stays."""
    chunks = CHUNKS_RECEIVED[workload]
    headers = HEADERS[workload]

    async def receive() -> Any:
        nonlocal chunks
        chunks -= 1
        if chunks < 0:
            await after_last()
        return {"type": "http.request", "body": b"x", "more_body": chunks > 0}

    async def send(message: Any) -> None:
        pass

    return app(http_scope("POST" if headers else "GET", headers), receive, send)
