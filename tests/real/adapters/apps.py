"""The app that every adapter calls, bare and wrapped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import DisconnectMiddleware, Policy

App = Callable[[Any, Any, Any], Any]

POLICIES: tuple[Policy, ...] = ("mute", "finish", "cancel", "raise")

LONGER_THAN_A_CHECK = 0.02
"""Seconds. With the fixture `soon` an exchange that is watched is checked after 2 to 3 ms, and every 10 ms then."""


@dataclass(frozen=True)
class Ask:
    """A request of a client that stays."""

    path: str
    body: bytes = b""

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"


ASKS = (
    Ask("/hello?name=a%20b"),
    Ask("/echo", bytes(range(256)) * 400),
    Ask("/replied-early", b"x" * 100 * 1024),
    Ask("/stream"),
    Ask("/slow"),
    Ask("/background"),
    Ask("/polls"),
    Ask("/raw/after-end"),
    Ask("/raw/cancelled-reader"),
    Ask("/raw/listener"),
    Ask("/missing"),
    Ask("/bug"),
)


PROXIED = Ask("/proxied", b"y" * 100 * 1024)
"""Answered by a stream of its own body. Bare, Starlette's listener takes that body, and the stream waits for ever."""


class Probe:
    """An app that notes what it sees, to compare: all but how a framework reads the version."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.told: list[Any] = []  # what a hook was called with
        routes = {
            "/hello": self.hello,
            "/echo": self.echo,
            "/replied-early": self.replied_early,
            "/stream": self.stream,
            "/slow": self.slow,
            "/proxied": self.proxied,
            "/background": self.background,
            "/polls": self.polls,
            "/bug": self.bug,
            "/missing": self.missing,
        }
        self.framework = Starlette(routes=[Route(path, call, methods=["GET", "POST"]) for path, call in routes.items()])
        self.framework.add_middleware(BaseHTTPMiddleware, dispatch=self.passes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self.echo_messages(receive, send)
            return
        raw = {
            "/raw/after-end": self.after_end,
            "/raw/cancelled-reader": self.cancelled_reader,
            "/raw/listener": self.listener,
        }
        await raw.get(scope.get("path", ""), self.framework)(scope, receive, send)

    def wrapped(self, policy: Policy, **options: Any) -> App:
        return DisconnectMiddleware(self, policy=policy, on_disconnect=self.told.append, **options)

    async def passes(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        self.seen.append(f"status {response.status_code}")
        return response

    async def hello(self, request: Request) -> Response:
        return JSONResponse({"name": request.query_params["name"]}, headers={"x-own": "yes"})

    async def echo(self, request: Request) -> Response:
        return Response(await request.body())

    async def replied_early(self, request: Request) -> Response:
        """Leave the body unread."""
        return PlainTextResponse("enough")

    async def chunks(self, pause: float = 0) -> AsyncIterator[str]:
        try:
            for number in range(5):
                yield f"chunk {number}\n"
                await asyncio.sleep(pause)
        finally:
            self.seen.append("the generator has ended")

    async def stream(self, request: Request) -> Response:
        return StreamingResponse(self.chunks())

    async def slow(self, request: Request) -> Response:
        """Answer, and stream, for longer than a check waits."""
        await asyncio.sleep(LONGER_THAN_A_CHECK)
        return StreamingResponse(self.chunks(LONGER_THAN_A_CHECK / 4))

    async def proxied(self, request: Request) -> Response:
        return StreamingResponse(request.stream())

    async def background(self, request: Request) -> Response:
        return PlainTextResponse("answered", background=BackgroundTask(self.work_on))

    async def work_on(self) -> None:
        await asyncio.sleep(LONGER_THAN_A_CHECK)
        self.seen.append("the background task ran")

    async def polls(self, request: Request) -> Response:
        return JSONResponse([await request.is_disconnected() for _ in range(5)])

    async def bug(self, request: Request) -> Response:
        raise ValueError("the app's own")

    async def missing(self, request: Request) -> Response:
        raise HTTPException(404, "there is no such thing")

    # Without a framework

    async def answer(self, send: Any, *parts: bytes) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-parts", b"%d" % len(parts))]})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": part is not parts[-1]})

    async def after_end(self, scope: Any, receive: Any, send: Any) -> None:
        """Receive what comes after the end."""
        self.seen.append((await receive())["type"])
        await self.answer(send, b"one", b"two", b"three")
        self.seen += [(await receive())["type"]]

    async def cancelled_reader(self, scope: Any, receive: Any, send: Any) -> None:
        """Give up waiting for a disconnect that does not come, twice."""
        self.seen.append((await receive())["type"])
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                self.seen.append((await asyncio.wait_for(receive(), LONGER_THAN_A_CHECK))["type"])
        await self.answer(send, b"still here")

    async def listener(self, scope: Any, receive: Any, send: Any) -> None:
        """Have another task wait for the disconnect, as frameworks do."""
        self.seen.append((await receive())["type"])

        async def listen() -> None:
            self.seen.append(f"heard {(await receive())['type']}")

        listening = asyncio.create_task(listen())
        await asyncio.sleep(LONGER_THAN_A_CHECK)
        await self.answer(send, b"answered", b"")
        await listening

    async def echo_messages(self, receive: Any, send: Any) -> None:
        """Echo what a WebSocket's client says until it leaves."""
        self.seen.append((await receive())["type"])
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        self.seen.append(f"{message['type']} {message['code']}")
