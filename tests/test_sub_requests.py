"""P0: a call of the app with a copy of the scope and its own `receive` and `send` is an exchange of its own."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from disconnect_mw import DisconnectMiddleware, connection

from .support.messages import DISCONNECT, FINAL, REQUEST, START
from .support.records import gone
from .support.serving import SECONDS, call, checked, turns
from .support.simulated_server import SimulatedServer, http

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]

ITEMS = [1, 2, 3]


class Batch:
    """An endpoint that hands each of its items to the app that it is of."""

    def __init__(self, far: Any, **options: Any) -> None:
        self.far = far
        self.saved: list[Any] = []
        self.statuses: list[int] = []
        self.departed: list[str] = []
        routes = [
            Route("/", self.batch, methods=["POST"]),
            Route("/later", self.later, methods=["POST"]),
            Route("/item", self.item, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)
        self.app.add_middleware(
            DisconnectMiddleware, **options, on_disconnect=lambda disconnect: self.departed.append(disconnect.path)
        )

    async def item(self, request: Request) -> Response:
        await turns()
        self.saved.append(await request.json())
        return JSONResponse({}, 201)

    async def batch(self, request: Request) -> Response:
        items = await request.json()
        self.far.leave()
        await gone(connection(request))
        await self.hand_on(request, items)
        return JSONResponse({})

    async def later(self, request: Request) -> Response:
        items = await request.json()
        return JSONResponse({}, 202, background=BackgroundTask(self.hand_on, request, items))

    async def hand_on(self, request: Request, items: list[Any]) -> None:
        for one in items:
            body = json.dumps(one).encode()

            async def receive(body: bytes = body) -> Any:
                return {"type": "http.request", "body": body, "more_body": False}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self.statuses.append(message["status"])

            await request.app({**request.scope, "path": "/item", "raw_path": b"/item"}, receive, send)


def posting(path: str) -> tuple[SimulatedServer, dict[str, Any]]:
    far = SimulatedServer(incoming=[{"type": "http.request", "body": json.dumps(ITEMS).encode(), "more_body": False}])
    return far, {**far.scope(), "method": "POST", "path": path, "raw_path": path.encode()}


@pytest.mark.parametrize("policy", ["mute", "finish", "raise"])
async def test_each_has_its_own_body_and_answer_although_the_client_has_left(policy: Any) -> None:
    far, scope = posting("/")
    batch = Batch(far, policy=policy)
    await call(batch.app, far, scope)
    assert (batch.saved, batch.statuses) == (ITEMS, [201] * len(ITEMS))
    assert batch.departed == ["/"]


async def test_after_the_response_too() -> None:
    far, scope = posting("/later")
    batch = Batch(far)
    await call(batch.app, far, scope)
    assert (batch.saved, batch.statuses) == (ITEMS, [201] * len(ITEMS))
    assert batch.departed == []


async def test_with_the_very_scope_the_handler_has_its_own_view_again() -> None:
    far = http()
    seen: list[bool] = []

    async def quiet(message: Any) -> None: ...

    async def one() -> Any:
        return dict(REQUEST)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if receive is not asked[0]:
            await send(START)
            await send(FINAL)
            return
        far.leave()
        await gone(connection(scope))
        asked.append(None)
        await middleware(scope, one, quiet)
        seen.append(connection(scope).connected)

    asked: list[Any] = [None]

    async def first(scope: Any, receive: Any, send: Any) -> None:
        if len(asked) == 1:
            asked[0] = receive
        await app(scope, receive, send)

    middleware = DisconnectMiddleware(first)
    with anyio.fail_after(SECONDS):
        await middleware(far.scope(), far.receive, far.send)
    assert seen == [False]


async def test_with_the_very_scope_a_departure_of_the_sub_request_is_none_of_the_handlers_client() -> None:
    far = http()
    seen: list[Any] = []

    async def quiet(message: Any) -> None: ...

    async def told() -> Any:
        return dict(DISCONNECT)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append("called")
        if len(seen) == 2:
            seen.append(await receive())
            return
        await middleware(scope, told, quiet)
        seen.append(connection(scope).connected)

    middleware = DisconnectMiddleware(app)
    with anyio.fail_after(SECONDS):
        await middleware(far.scope(), far.receive, far.send)
    assert seen == ["called", "called", DISCONNECT, True]


async def test_another_install_further_in_is_still_a_nested_one() -> None:
    far = http()
    seen: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await gone(connection(scope))
        seen.append(connection(scope)._found.parts.outer is not None)  # type: ignore[union-attr]  # while the app runs

    await call(DisconnectMiddleware(DisconnectMiddleware(app)), far)
    assert seen == [True]


async def test_a_sub_request_is_not_looked_at_because_the_logger_is_at_info(caplog: pytest.LogCaptureFixture) -> None:
    """What its `receive` gives after the body is no client's departure: no line, and nothing is muted."""
    caplog.set_level("INFO", "disconnect_mw")
    sent: list[Any] = []
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/sub":
            await checked()
        else:
            incoming = [dict(REQUEST), {"type": "http.disconnect"}]

            async def sub_receive() -> Any:
                return incoming.pop(0)

            async def sub_send(message: Any) -> None:
                sent.append(message)

            await middleware({**scope, "path": "/sub"}, sub_receive, sub_send)
        await send(START)
        await send(FINAL)

    middleware = DisconnectMiddleware(app)
    with anyio.fail_after(SECONDS):
        await middleware(far.scope(), far.receive, far.send)
    assert sent == far.sent == [START, FINAL]
    assert caplog.messages == []
