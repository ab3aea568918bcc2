"""The rows and the workloads: what wraps which application, and a server in memory that never suspends."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from disconnect_mw import DisconnectMiddleware

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


def base_http_middleware(app: App) -> App:
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return BaseHTTPMiddleware(app, dispatch)


WORKLOADS: dict[str, App] = {"GET": get, "stream": stream, "upload": upload}
TITLES = {"GET": "GET", "stream": f"stream of {CHUNKS_SENT}", "upload": f"upload of {CHUNKS_UPLOADED}"}
CHUNKS_RECEIVED = {"GET": 1, "stream": 1, "upload": CHUNKS_UPLOADED}

ROWS: dict[str, Callable[[App], App]] = {
    "bare": bare,
    "two": two_closures,
    "ours": DisconnectMiddleware,
    "base": base_http_middleware,
}
NAMES = {
    "bare": "bare app",
    "two": "two closures",
    "ours": "disconnect_mw",
    "base": "BaseHTTPMiddleware",
}
NEEDS_LOOP = {"base"}


def http_scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }


def exchange(app: App, chunks: int) -> Coroutine[Any, Any, Any]:
    """One exchange, whose request body comes in that many chunks and whose client stays."""

    async def receive() -> Any:
        nonlocal chunks
        chunks -= 1
        if chunks < 0:
            raise RuntimeError("nothing is left to receive: look for a middleware that reads ahead")
        return {"type": "http.request", "body": b"x", "more_body": chunks > 0}

    async def send(message: Any) -> None:
        pass

    return app(http_scope(), receive, send)
