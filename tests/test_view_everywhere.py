"""The handler's view of its client, wherever the handler stands, and one for all nested installs."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.from_thread
import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse as FastAPIStream
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket

from disconnect_mw import (
    CancelOnDisconnect,
    ClientConnection,
    ClientDisconnected,
    Disconnect,
    DisconnectMiddleware,
    RaiseOnDisconnect,
    _watcher,
    connection,
)
from disconnect_mw.fastapi import Client, client_connection
from disconnect_mw.testing import HTTPClient, HTTPSimulatedServer, servers

from .support.apps import behind, leaves_generators, through
from .support.messages import EMPTY_FINAL, FINAL, START, START_499
from .support.records import gone
from .support.serving import App, briefly, call, checked, left, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


# Wherever the handler stands


@pytest.mark.parametrize("layers", [1, 2, 3])
async def test_it_works_behind_any_number_of_base_http_middlewares(layers: int) -> None:
    far = http()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        assert client.connected
        far.leave()
        seen.append(await client.wait_disconnected())
        await send(START)
        await send(FINAL)

    await call(behind(app, layers), far)
    assert [type(one) for one in seen] == [Disconnect]


@pytest.mark.parametrize("layers", [0, 1, 2])
async def test_it_works_in_mounted_apps(layers: int) -> None:
    far = http(path="/outer/inner/page")
    seen: list[Any] = []

    async def page(request: Request) -> Response:
        client = connection(request)
        far.leave()
        disconnect = await gone(client)
        seen.append((disconnect.path, client.connected))
        return PlainTextResponse("")

    inner = Starlette(routes=[Route("/page", page)])
    app = Starlette(routes=[Mount("/outer", Starlette(routes=[Mount("/inner", inner)]))])
    await call(behind(app, layers), far)
    assert seen == [("/outer/inner/page", False)]


async def test_a_websocket_in_a_mounted_app_has_one() -> None:
    far = websocket(path="/outer/chat")
    seen: list[Any] = []

    async def chat(socket: StarletteWebSocket) -> None:
        await socket.accept()
        far.leave()
        seen.append((await gone(connection(socket))).phase)

    app = Starlette(routes=[Mount("/outer", Starlette(routes=[WebSocketRoute("/chat", chat)]))])
    app.add_middleware(DisconnectMiddleware)
    await call(app, far)
    assert seen == ["while open"]


def fastapi(far: Any, seen: list[Any]) -> FastAPI:
    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=through)
    app.add_middleware(DisconnectMiddleware)

    async def needs_client(client: Client) -> ClientConnection:
        seen.append(("dependency", client.connected))
        return client

    @app.get("/direct")
    async def direct(client: Client) -> str:
        far.leave()
        seen.append((await gone(client)).method)
        return ""

    @app.get("/dependency")
    async def dependency(client: ClientConnection = Depends(needs_client)) -> str:  # noqa: B008  # FastAPI's way
        far.leave()
        seen.append((await gone(client)).method)
        return ""

    @app.get("/function")
    async def function(client: ClientConnection = Depends(client_connection)) -> str:  # noqa: B008  # FastAPI's way
        far.leave()
        seen.append((await gone(client)).method)
        return ""

    @app.get("/thread")
    def thread(client: Client) -> str:
        anyio.from_thread.run_sync(far.leave)
        while client.connected:
            time.sleep(0.001)
        seen.append("GET")
        return ""

    @app.get("/cancel")
    async def cancel(client: Client) -> str:
        client.policy = "cancel"
        try:
            await left(far)
        finally:
            seen.append("GET")
        return ""

    @app.get("/stream")
    async def stream(client: Client) -> Response:
        async def tokens() -> AsyncIterator[str]:
            async with client.shield():
                for number in range(10):
                    if number == 2:
                        far.leave()
                    await anyio.sleep(0.002)
                    yield str(number)
                seen.append("GET")

        return FastAPIStream(tokens())

    @app.websocket("/chat")
    async def chat(socket: WebSocket, client: Client) -> None:
        await socket.accept()
        far.leave()
        seen.append((await gone(client)).protocol)

    return app


@leaves_generators
@pytest.mark.parametrize("path", ["/direct", "/dependency", "/function", "/thread", "/cancel", "/stream"])
async def test_fastapi_has_a_ready_dependency(path: str) -> None:
    far = http(path=path)
    seen: list[Any] = []
    await call(fastapi(far, seen), far)
    assert seen == [("dependency", True), "GET"] if path == "/dependency" else ["GET"]


async def test_fastapi_has_it_for_websockets_too() -> None:
    far = websocket(path="/chat")
    seen: list[Any] = []
    await call(fastapi(far, seen), far)
    assert seen == ["websocket"]


@pytest.mark.parametrize("kind", [CancelOnDisconnect, RaiseOnDisconnect])
async def test_the_ready_made_classes_need_no_arguments(kind: Any) -> None:
    far = http()
    seen: list[Any] = []

    async def endpoint(request: Request) -> Response:
        client = connection(request)
        seen.append((client.policy, request.scope["asgi"]["spec_version"]))
        far.leave()
        await gone(client)
        await turns()
        return PlainTextResponse("", background=BackgroundTask(seen.append, "it goes on"))

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(kind)
    await call(app, far)
    assert seen == [("cancel", "2.4") if kind is CancelOnDisconnect else ("raise", "2.4")]
    with pytest.raises(TypeError):
        kind(app, policy="mute")


# Nested installs share one connection


@pytest.mark.parametrize("layers", [0, 1, 2])
async def test_what_the_handler_of_an_inner_install_sees_is_the_one_exchange(layers: int) -> None:
    far = http()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        seen.append((client.policy, client.connected))
        client.policy = "mute"
        far.leave()
        await gone(client)
        seen.append((client.policy, client.connected))

    def middle(app: App) -> App:
        async def between(scope: Any, receive: Any, send: Any) -> None:
            before = connection(scope)
            await app(scope, receive, send)
            for client in (before, connection(scope)):
                seen.append((client.policy, client.connected))

        return between

    scope = far.scope()
    await call(behind(middle(DisconnectMiddleware(app)), layers, policy="raise"), far, scope)
    assert seen == [("raise", True), ("mute", False), ("mute", False), ("mute", False)]
    client = connection(scope)
    assert (client.policy, client.connected) == ("mute", False)
    assert client.exchange is not None
    assert client.exchange.disconnect is client.disconnect


async def test_whoever_waits_inside_is_woken_when_the_inner_exchange_ends() -> None:
    far = http()
    got: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        tasks.start_soon(wait, connection(scope))
        await turns()

    async def wait(client: ClientConnection) -> None:
        got.append(await client.wait_disconnected())

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await DisconnectMiddleware(inner)(scope, receive, send)
        await turns()
        assert got == [None]

    async with anyio.create_task_group() as tasks:
        await serve(outer, far)


async def test_an_inner_policy_that_raises_inside_ends_quietly_inside() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        far.leave()
        await gone(client)
        client.policy = "cancel"

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await DisconnectMiddleware(app)(scope, receive, send)
        steps.append("quiet")

    await serve(outer, far)
    assert steps == ["quiet"]


class Refused(Exception):
    pass


async def test_what_stands_between_may_refuse_what_comes_late() -> None:
    """Nothing is owed the less for that (P11)."""
    far = http()
    between: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        with pytest.raises(Refused):
            await send(START)
        await send({"no": "type"})

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def refusing(message: Any) -> None:
            between.append(message)
            if len(between) == 1:
                raise Refused

        await DisconnectMiddleware(app)(scope, receive, refusing)

    await serve(outer, far)
    assert between == [START, {"no": "type"}, START_499, EMPTY_FINAL]


@pytest.mark.parametrize(("body", "reads"), [([b"ab", b""], 3), ([b"a", b"b"], 1)])
async def test_the_departure_is_found_behind_a_small_body_that_the_app_does_not_read(body: Any, reads: int) -> None:
    """Hypercorn and granian make two messages of the smallest one. Of any other one message is read ahead."""
    client = HTTPClient(method="POST", headers=[(b"content-length", b"2")], body=body)
    far = HTTPSimulatedServer(servers.HYPERCORN_0_18_0.http, client=client)
    answers: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        client = connection(scope)
        assert client.connected
        far.leave()
        while client.connected and far.reads < reads:
            await anyio.sleep(0.001)
        await checked()
        answers.append(client.connected)

    await serve(app, far)
    assert (answers, far.reads) == ([reads == 1], reads)


@pytest.mark.parametrize("raises", ["the outer install", "the inner install", "the handler"])
async def test_what_send_raises_inside_ends_quietly_inside(raises: str) -> None:
    far = http()
    steps: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if raises == "the handler":
            connection(scope).policy = "raise"
        await receive()
        far.leave()
        disconnect = await receive()
        with pytest.raises(ClientDisconnected) as caught:
            await send(START)
        assert caught.value.message == disconnect
        await send(START)

    async def between(scope: Any, receive: Any, send: Any) -> None:
        inner = "raise" if raises == "the inner install" else "mute"
        await DisconnectMiddleware(app, policy=inner)(scope, receive, send)  # type: ignore[arg-type]  # one of the two
        steps.append("quiet")

    await serve(between, far, policy="raise" if raises == "the outer install" else "mute")
    assert steps == ["quiet"]


async def test_a_short_request_that_was_asked_about_leaves_nothing_to_be_looked_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On the shortest way through, and by an inner install as well."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert connection(scope).connected
        await send(START)
        await send(FINAL)

    async def exchange(app: App) -> Any:
        far = http()
        await serve(app, far)
        return far

    for each in (app, CancelOnDisconnect(app)):
        far = await briefly(functools.partial(exchange, each), _watcher.first_checks.seconds)
        await checked()
        assert (caplog.messages, far.reads) == ([], 0)


@pytest.mark.parametrize("again", ["itself", "a copy of its own time"])
async def test_a_scope_that_is_used_again_is_a_new_exchange(again: str) -> None:
    far = http()
    seen: list[Any] = []
    copies: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        copies.append(dict(scope))
        seen.append(connection(scope).connected)
        far.leave()
        await gone(connection(scope))

    scope = far.scope()
    await serve(app, far, scope, policy="raise")
    far = http()
    used = scope if again == "itself" else copies[0]
    await serve(app, far, used)
    assert seen == [True, True]
    assert connection(used).policy == "mute"
