"""The handler's view of its client: `connection(...)`, wherever the handler stands."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import pickle
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse as FastAPIStream
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket

from disconnect_mw import (
    CancelOnDisconnect,
    ClientConnection,
    ClientDisconnected,
    Disconnect,
    DisconnectMiddleware,
    RaiseOnDisconnect,
    _connection,
    connection,
)
from disconnect_mw.fastapi import Client, client_connection
from disconnect_mw.testing import HTTPClient, HTTPSimulatedServer, WebSocketClient, WebSocketSimulatedServer, servers

from .support.messages import ACCEPT, CHUNK, DISCONNECT, EMPTY_FINAL, FINAL, START, START_499, TEXT
from .support.serving import (
    GRACE_AT_HAND,
    SECONDS,
    App,
    Until,
    call,
    grace_at_hand,
    left,
    look_soon,
    on_asyncio,
    serve,
    turns,
)
from .support.simulated_server import http, websocket

pytestmark = pytest.mark.anyio

leaves_generators = pytest.mark.filterwarnings("ignore:Async generator 'starlette:ResourceWarning")
"""Starlette leaves its own to the garbage collector, of which trio complains."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    look_soon(monkeypatch)


async def gone(client: ClientConnection) -> Disconnect:
    """The record, once it is there."""
    disconnect = await client.wait_disconnected()
    assert disconnect is not None
    return disconnect


# Who may ask


async def test_a_scope_a_request_and_a_websocket_have_one() -> None:
    views: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        makes: Any = Request if scope["type"] == "http" else StarletteWebSocket
        views.extend([connection(scope), connection(makes(scope, receive, send))])

    await serve(app, http())
    await serve(app, websocket())
    assert [type(view) for view in views] == [ClientConnection] * 4
    assert all(view.connected for view in views)


@pytest.mark.parametrize("scope", [{}, {"type": "http"}, {"type": "lifespan"}])
def test_without_the_middleware_it_is_a_lookup_error_that_says_how_to_install_it(scope: Any) -> None:
    for asks in (scope, Request({**scope, "type": "http"})):
        with pytest.raises(LookupError) as caught:
            connection(asks)
        assert str(caught.value) == (
            "no DisconnectMiddleware stands around this app: install it with app.add_middleware(DisconnectMiddleware), "
            "or wrap the app that the server is given"
        )
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("thing", [None, 7, "scope", [], object])
def test_what_has_no_scope_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError) as caught:
        connection(thing)
    assert str(caught.value) == (
        f"connection() takes a scope, or what has one, not {thing!r}: pass the request or the websocket"
    )


async def test_its_repr_tells_whether_the_client_is_there() -> None:
    far = http()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        seen.append(repr(client))
        far.leave()
        await gone(client)
        seen.append(repr(client))

    scope = far.scope()
    await serve(app, far, scope)
    assert [*seen, repr(connection(scope))] == [
        "<ClientConnection connected>",
        "<ClientConnection disconnected>",
        "<ClientConnection disconnected>",
    ]


async def test_its_repr_tells_of_a_client_that_stayed() -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

    await serve(app, far, scope)
    assert repr(connection(scope)) == "<ClientConnection connected>"


# connected, disconnect


async def test_whoever_asks_has_somebody_look() -> None:
    """No `receive`, no `send` that fails, no policy that asks: the question is enough."""
    far = http()
    answers: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await send(START)
        answers.append((client.connected, client.disconnect))
        far.leave()
        while client.connected:
            await anyio.sleep(0.001)
        assert client.disconnect is not None
        answers.append((client.connected, client.disconnect.phase))

    await serve(app, far)
    assert answers == [(True, None), (False, "during the response")]


async def test_to_ask_reads_nothing_of_a_body() -> None:
    far = http(body=[b"a", b"b"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        while far.reads == 0 and time.monotonic() < later:
            assert client.connected
            await anyio.sleep(0.001)
        assert far.reads == 0

    later = time.monotonic() + 0.03
    await serve(app, far)


@pytest.mark.parametrize("shows", ["connected", "disconnect"])
async def test_a_worker_thread_may_ask(shows: str) -> None:
    far = http()
    until = Until()
    threads: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await anyio.to_thread.run_sync(poll, connection(scope))

    def poll(client: ClientConnection) -> None:
        threads.append(client.connected)
        anyio.from_thread.run_sync(until.note, "asked")
        while client.disconnect is None if shows == "disconnect" else client.connected:
            time.sleep(0.001)
        threads.append(client.connected)

    async def leave() -> None:
        await until("asked")
        far.leave()

    await serve(app, far)
    assert threads == [True, False]


async def test_a_thread_may_ask_when_all_is_over() -> None:
    far = http()
    kept: list[ClientConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(connection(scope))

    await serve(app, far)
    assert await anyio.to_thread.run_sync(lambda: kept[0].connected)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_to_ask_after_the_event_loop_has_ended_harms_nobody(backend: str) -> None:
    kept: list[ClientConnection] = []
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(connection(scope))

    anyio.run(serve, app, far, backend=backend)
    assert (kept[0].connected, kept[0].disconnect, kept[0].exchange) == (True, None, None)
    setattr(kept[0], "policy", "cancel")  # noqa: B010  # a type checker would believe it
    assert kept[0].policy == "mute"


async def test_the_record_of_an_http_client() -> None:
    far = http(path="/feed", method="PUT")
    records: list[Disconnect] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(0.003)
        far.leave()
        records.append(await gone(connection(scope)))

    scope = {**far.scope(), "client": ["192.0.2.7", 5000]}
    await serve(app, far, scope)
    (record,) = records
    assert 0.002 <= record.seconds < 1
    assert record == Disconnect(
        protocol="http",
        method="PUT",
        path="/feed",
        peer=("192.0.2.7", 5000),
        phase="before the response",
        code=None,
        seconds=record.seconds,
    )
    assert connection(scope).disconnect is record


async def test_the_record_of_a_websocket_client() -> None:
    far = WebSocketSimulatedServer(servers.SPEC_SILENT.websocket, client=WebSocketClient("/feed"))
    records: list[Disconnect] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        far.leave("close")
        records.append(await gone(connection(scope)))

    await serve(app, far, {**far.scope(), "client": None})
    (record,) = records
    assert record == Disconnect("websocket", None, "/feed", None, "while open", 1000, record.seconds)


@pytest.mark.parametrize(
    ("steps", "phase"),
    [
        (["http.request of two"], "during the upload"),
        (["http.request"], "before the response"),
        (["http.request", START], "during the response"),
        (["websocket.connect"], "before the handshake"),
        (["websocket.connect", ACCEPT, TEXT], "while open"),
    ],
)
async def test_the_record_tells_how_far_the_exchange_had_come(steps: Any, phase: str) -> None:
    far: Any = websocket() if steps[0].startswith("websocket") else http(body=[b"a"] * (1 + steps[0].endswith("two")))
    phases: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in steps[1:]:
            await send(message)
        far.leave()
        while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
            pass
        phases.append((await gone(connection(scope))).phase)

    await serve(app, far)
    assert phases == [phase]


async def test_a_client_that_leaves_after_the_last_message_is_there() -> None:
    """P3."""
    far = http()
    answers: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await receive()
        await send(START)
        await send(FINAL)
        far.leave()
        assert await receive() == DISCONNECT
        answers.extend([client.connected, client.disconnect, client.exchange])

    scope = far.scope()
    await serve(app, far, scope)
    client = connection(scope)
    assert [*answers, client.connected, client.disconnect, client.exchange] == [True, None, None] * 2


# wait_disconnected


async def test_everybody_who_waits_is_woken() -> None:
    far = http()
    got: list[Any] = []

    async def wait(client: ClientConnection) -> None:
        got.append(await client.wait_disconnected())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait, connection(scope))
            await turns()
            far.leave()
        await wait(connection(scope))

    await serve(app, far)
    assert len(got) == 4
    assert got == [got[0]] * 4
    assert isinstance(got[0], Disconnect)


async def test_a_waiter_that_is_cancelled_takes_nothing_from_the_others() -> None:
    far = http()
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                got.append(await client.wait_disconnected())

            tasks.start_soon(wait)
            with anyio.move_on_after(0.005) as waiting:
                await client.wait_disconnected()
            assert waiting.cancelled_caught
            far.leave()

    await serve(app, far)
    assert [type(one) for one in got] == [Disconnect]


async def test_whoever_waits_is_told_in_the_turn_in_which_the_server_tells() -> None:
    """It does not have to be looked for: somebody reads from the moment on when it is waited for."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        until = Until()

        async def wait() -> None:
            await connection(scope).wait_disconnected()
            until.note("told")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await turns()
            far.leave()
            await turns(4)
            assert until.happened == ["told"]

    await serve(app, far)


async def test_what_is_read_for_whoever_waits_is_kept_for_receive() -> None:
    far = websocket(messages=("first",))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send(ACCEPT)
        with anyio.move_on_after(0.01):
            await connection(scope).wait_disconnected()
        assert (await receive())["text"] == "first"
        far.leave()
        await gone(connection(scope))

    await serve(app, far)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


async def test_what_stands_outside_may_set_a_variable_while_it_receives() -> None:
    """P0: as a span of OpenTelemetry does, also where somebody else than the app reads."""
    far = http()
    seen: list[str] = []

    async def outer_receive() -> Any:
        seen.append(variable.get())
        token = variable.set("the span's")
        try:
            return await far.receive()
        finally:
            variable.reset(token)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.move_on_after(0.01):
            await connection(scope).wait_disconnected()
        far.leave()
        await gone(connection(scope))

    variable.set("the server's")
    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app)(far.scope(), outer_receive, far.send)
    assert {*seen} == {"the server's"}


@pytest.mark.parametrize("ends", ["complete", "without a word", "by an exception"])
async def test_whoever_waits_gets_none_when_the_exchange_ends_with_its_client_there(ends: str) -> None:
    far = http()
    got: list[Any] = []

    async def wait(client: ClientConnection) -> None:
        got.append(await client.wait_disconnected())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.start_soon(wait, connection(scope))
        await turns()
        if ends == "complete":
            await send(START)
            await send(FINAL)
        if ends == "by an exception":
            raise ValueError

    scope = far.scope()
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            with contextlib.suppress(ValueError):
                await serve(app, far, scope)
    assert got == [None]
    assert await connection(scope).wait_disconnected() is None


async def test_whoever_waits_after_the_last_message_gets_none() -> None:
    """P3: what happens then is the normal end."""
    far = http()
    got: list[Any] = []

    async def wait(client: ClientConnection) -> None:
        got.append(await client.wait_disconnected())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, client)
            await turns()
            await send(START)
            await send(FINAL)
            far.leave()
        await wait(client)

    await serve(app, far)
    assert got == [None, None]


async def test_whoever_waits_for_an_exchange_whose_client_left_gets_its_record() -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await gone(connection(scope))

    await serve(app, far, scope)
    record = await connection(scope).wait_disconnected()
    assert record is not None
    assert record is connection(scope).disconnect


@pytest.mark.parametrize("server", ["asyncio", "trio"])
def test_on_another_event_loop_to_wait_is_an_error(server: str) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, client))

    async def elsewhere(client: ClientConnection) -> None:
        with pytest.raises(RuntimeError) as caught:
            await client.wait_disconnected()
        assert str(caught.value) == (
            "wait_disconnected() must be awaited on the event loop of the exchange: ask `connected`"
        )

    anyio.run(serve, app, far, backend=server)


# policy


@pytest.mark.parametrize("policy", ["mute", "raise", "cancel"])
async def test_the_policy_can_be_read(policy: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(connection(scope).policy)

    far, other = http(), websocket()
    await serve(app, far, policy=policy, websocket_policy="raise")
    await serve(app, other, policy="mute", websocket_policy=policy)
    assert seen == [policy] * 2


@pytest.mark.parametrize(("bad", "error"), [("cancle", ValueError), (None, TypeError), (7, TypeError)])
async def test_what_is_no_policy_is_refused(bad: Any, error: type[Exception]) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        with pytest.raises(error, match="^policy must be 'mute', 'raise' or 'cancel', not "):
            client.policy = bad
        assert client.policy == "mute"
        far.leave()
        await gone(client)
        with pytest.raises(error):
            client.policy = bad

    scope = far.scope()
    await serve(app, far, scope)
    with pytest.raises(error):
        connection(scope).policy = bad


async def test_a_handler_that_wants_to_be_cancelled_is() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).policy = "cancel"
        await left(far)

    scope = far.scope()
    assert await serve(app, far, scope) is None
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"
    assert connection(scope).policy == "cancel"


async def test_a_handler_that_wants_to_go_on_does() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        connection(scope).policy = "mute"
        far.leave()
        await gone(connection(scope))
        await turns()
        return "saved"

    assert await serve(app, far, policy="cancel") == "saved"


async def test_a_handler_that_wants_to_hear_of_it_does() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).policy = "raise"
        await send(START)
        far.leave()
        while True:
            await send(CHUNK)
            await anyio.sleep(0.001)

    assert await serve(app, far) is None


@pytest.mark.parametrize(
    ("before", "after", "version"),
    [
        ("mute", "raise", "2.4"),
        ("raise", "mute", "2.3"),
        ("raise", "cancel", "2.3"),
        ("mute", "cancel", "2.3"),
    ],
)
async def test_the_version_that_the_scope_claims_stays_true(before: Any, after: Any, version: str) -> None:
    """P4."""
    far = http()
    shared = {"version": "3.0", "spec_version": "2.3"}
    scope = {**far.scope(), "asgi": shared}

    async def app(inner: Any, receive: Any, send: Any) -> None:
        connection(inner).policy = after
        assert inner is scope
        assert inner["asgi"] == {"version": "3.0", "spec_version": version}

    await serve(app, far, scope, policy=before)
    assert shared == {"version": "3.0", "spec_version": "2.3"}, "other requests share it"


@pytest.mark.parametrize("policy", ["raise", "cancel"])
async def test_after_the_departure_to_set_it_raises_and_that_ends_quietly(policy: Any) -> None:
    far = http()
    caught: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        far.leave()
        await gone(client)
        client.policy = "mute"  # as it was: nothing is asked
        try:
            client.policy = policy
        except ClientDisconnected as exception:
            caught.append(exception.message)
            raise

    scope = far.scope()
    assert await serve(app, far, scope) is None
    assert caught == [DISCONNECT]
    assert connection(scope).policy == "mute"


async def test_after_the_end_to_set_it_does_nothing() -> None:
    far = http()
    kept: list[ClientConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(connection(scope))
        far.leave()
        await gone(kept[0])

    scope = far.scope()
    await serve(app, far, scope)
    for client in (connection(scope), kept[0]):
        setattr(client, "policy", "raise")  # noqa: B010  # a type checker would believe it
        assert client.policy == "mute"


async def test_a_thread_may_set_it() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.to_thread.run_sync(functools.partial(setattr, connection(scope), "policy", "cancel"))
        await left(far)

    assert await serve(app, far) is None


# Wherever the handler stands


async def through(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    return response


def behind(app: App, layers: int, **options: Any) -> App:
    for _ in range(layers):
        app = BaseHTTPMiddleware(app, through)
    return DisconnectMiddleware(app, **options)


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
    assert seen == [("cancel", "2.3") if kind is CancelOnDisconnect else ("raise", "2.4")]
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
        await anyio.sleep(0.01)
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

    fars = [http(), http()]
    await serve(app, fars[0])
    await serve(CancelOnDisconnect(app), fars[1])
    await anyio.sleep(0.03)
    assert (caplog.messages, [far.reads for far in fars]) == ([], [0, 0])


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


# shield


async def test_the_cancellation_is_held_off_until_the_end_of_the_block() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            await turns()
            await anyio.sleep(0.005)
            steps.append("committed")
        steps.append("after the block")

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") is None
    assert steps == ["committed"]
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"


@pytest.mark.parametrize("policy", ["mute", "cancel"])
async def test_a_block_while_the_client_is_there_changes_nothing(policy: Any) -> None:
    """P0: not a context variable either."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        async with connection(scope).shield():
            await turns()
        assert _connection._within.get() == ()
        await turns()
        await send(START)
        await send(FINAL)
        return "done"

    assert await serve(app, far, policy=policy) == "done"


async def test_the_grace_may_end_within_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            await end_of_grace()
            steps.append("committed")
        steps.append("after the block")

    await serve(app, far, grace=GRACE_AT_HAND)
    assert steps == ["committed"]


async def test_the_grace_may_end_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
        await turns()
        steps.append("after the block")
        await end_of_grace()
        steps.append("after the grace")

    await serve(app, far, grace=GRACE_AT_HAND)
    assert steps == ["after the block"]


async def test_nested_blocks_hold_it_off_until_the_last_has_ended() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            async with client.shield():
                far.leave()
                await gone(client)
            await turns()
            steps.append("inner")
        steps.append("outer")

    await serve(app, far, policy="cancel")
    assert steps == ["inner"]


async def test_a_block_in_a_child_task_shields_the_whole_app() -> None:
    far = http()
    steps: list[str] = []

    async def save(client: ClientConnection) -> None:
        async with client.shield():
            far.leave()
            await gone(client)
            await turns()
            steps.append("committed")
        steps.append("after the block")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save, connection(scope))

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert steps[0] == "committed"
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"


async def test_blocks_in_two_tasks_hold_it_off_until_both_have_ended() -> None:
    far = http()
    until = Until()

    async def save(client: ClientConnection, name: str, waits_for: str) -> None:
        async with client.shield():
            until.note(f"{name} in")
            await until(waits_for)
            until.note(f"{name} saved")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save, client, "first", "gone")
            tasks.start_soon(save, client, "second", "first saved")
            await until("second in")
            far.leave()
            await gone(client)
            until.note("gone")
            await anyio.sleep_forever()

    await serve(app, far, policy="cancel")
    assert until.happened[-2:] == ["first saved", "second saved"]


async def test_one_shield_may_be_held_by_two_tasks() -> None:
    far = http()
    until = Until()

    async def first(client: ClientConnection, shield: Any) -> None:
        async with shield:
            until.note("first in")
            await until("gone")
        until.note("first out")

    async def second(client: ClientConnection, shield: Any, receive: Any) -> None:
        await until("first in")
        async with shield:
            far.leave()
            await gone(client)
            until.note("gone")
            await until("first out")
            assert await receive() == DISCONNECT, "it is in the block"
            await turns()
            until.note("committed")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        shield = client.shield()
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first, client, shield)
            tasks.start_soon(second, client, shield, receive)

    await serve(app, far)
    assert until.happened == ["first in", "gone", "first out", "committed"]


async def test_what_a_block_raises_passes_at_once() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            raise ValueError("x")

    scope = far.scope()
    with pytest.raises(ValueError, match="x"):
        await serve(app, far, scope, policy="cancel")
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "raised"


async def test_after_a_block_that_raised_the_cancellation_comes_at_the_next_await() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        with contextlib.suppress(ValueError):
            async with client.shield():
                far.leave()
                await gone(client)
                raise ValueError
        steps.append("caught")
        await turns()
        steps.append("after an await")

    await serve(app, far, policy="cancel")
    assert steps == ["caught"]


async def test_a_block_that_begins_after_the_departure_may_be_cut_before_it() -> None:
    """Not in the middle."""
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        async with connection(scope).shield():
            steps.append("in the block")
            await turns()
            steps.append("committed")

    await serve(app, far, policy="cancel")
    assert steps == []
    far = http()
    await serve(app, far, policy="cancel", grace=60)
    assert steps == ["in the block", "committed"]


async def test_sends_in_a_block_are_muted_and_in_the_raising_policy_raise() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await send(START)
        async with client.shield():
            far.leave()
            await gone(client)
            if client.policy == "raise":
                with pytest.raises(ClientDisconnected):
                    await send(CHUNK)
            else:
                assert await send(CHUNK) is None

    await serve(app, far, policy="cancel")
    far = http()
    await serve(app, far, policy="raise")


@pytest.mark.parametrize("installs", [1, 2, 3])
async def test_other_tasks_that_wait_to_receive_hear_of_it_at_the_end_of_the_block(installs: int) -> None:
    """Frameworks cancel on it. But not those that were made in it: the block may wait for them."""
    far = http()
    until = Until()

    async def listen(receive: Any, name: str, begins: str = "at once") -> None:
        await until(begins)
        assert await receive() == DISCONNECT
        until.note(name)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await receive()
        until.note("at once")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, "early")
            tasks.start_soon(listen, receive, "late", "gone")
            await turns()
            async with client.shield():
                far.leave()
                await gone(client)
                until.note("gone")
                await turns()
                assert until.happened == ["at once", "gone"]
                assert await receive() == DISCONNECT, "but whoever is in the block"
                tasks.start_soon(listen, receive, "made in it")
                await until("made in it")
        assert until.happened[:3] == ["at once", "gone", "made in it"]
        assert sorted(until.happened[3:]) == ["early", "late"]

    wrapped: App = app
    for _ in range(installs):
        wrapped = DisconnectMiddleware(wrapped)
    await call(wrapped, far)


@pytest.mark.parametrize("installs", [1, 2, 3])
async def test_whoever_comes_to_receive_during_the_block_hears_of_it_at_its_end(installs: int) -> None:
    far = http()
    until = Until()

    async def listen(receive: Any) -> None:
        await until("gone")
        until.note("asks")
        assert await receive() == DISCONNECT
        until.note("heard")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            async with client.shield():
                far.leave()
                await gone(client)
                until.note("gone")
                await until("asks")
                await turns()
                until.note("end")

    wrapped: App = app
    for _ in range(installs):
        wrapped = DisconnectMiddleware(wrapped)
    await call(wrapped, far)
    assert until.happened == ["gone", "asks", "end", "heard"]


async def test_whoever_waits_for_the_rest_of_a_body_is_not_kept_waiting() -> None:
    """Where the body is cut; that may be what the block waits for."""
    far = http(body=[b"a", b"b"], leaves_after_chunks=1)
    until = Until()

    async def read(receive: Any) -> None:
        await until("in the block")
        while (await receive())["type"] == "http.request":
            pass
        until.note("read")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, receive)
            async with connection(scope).shield():
                until.note("in the block")
                await until("read")

    await serve(app, far)


async def test_a_websocket_is_told_at_once() -> None:
    far = websocket()
    until = Until()

    async def listen(receive: Any) -> None:
        until.note((await receive())["type"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            await turns()
            async with connection(scope).shield():
                far.leave()
                await until("websocket.disconnect")

    await serve(app, far)


@leaves_generators
@pytest.mark.parametrize("policy", ["mute", "cancel"])
@pytest.mark.parametrize("layers", [0, 1, 2])
async def test_a_generator_of_starlettes_stream_goes_on_to_the_end_of_its_block(layers: int, policy: Any) -> None:
    """Its listener cancels it on the disconnect."""
    far = http()
    saved: list[int] = []

    async def tokens(client: ClientConnection) -> AsyncIterator[str]:
        async with client.shield():
            for number in range(10):
                if number == 3:
                    far.leave()
                await anyio.sleep(0.002)
                saved.append(number)
                yield "token"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(tokens(connection(request)))

    await call(behind(Starlette(routes=[Route("/", endpoint)]), layers, policy=policy), far)
    assert saved == [*range(10)]


@on_asyncio
@pytest.mark.parametrize("policy", ["mute", "cancel"])
@pytest.mark.parametrize("leaves", [True, False])
async def test_somebody_elses_cancellation_is_not_held_off(policy: Any, leaves: bool) -> None:
    """P6."""
    far = http()
    inside = asyncio.Event()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            if leaves:
                far.leave()
                await gone(client)
            inside.set()
            await anyio.sleep_forever()
        steps.append("after the block")

    task = asyncio.ensure_future(DisconnectMiddleware(app, policy=policy)(far.scope(), far.receive, far.send))
    await asyncio.wait_for(inside.wait(), SECONDS)
    await turns()
    task.cancel()
    await asyncio.wait({task}, timeout=SECONDS)
    assert (task.cancelled(), steps) == (True, [])


async def test_a_cancel_scope_of_the_apps_own_is_not_held_off() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        with anyio.move_on_after(0.002) as own:
            async with connection(scope).shield():
                await anyio.sleep_forever()
        assert own.cancelled_caught
        return "done"

    assert await serve(app, far, policy="cancel") == "done"


async def test_a_block_that_outlives_the_app_cancels_nobody() -> None:
    """What the app left behind ends its block while the skeleton of the response is on its way to the server (P11)."""
    far = http()
    until = Until()

    async def save(client: ClientConnection) -> None:
        async with client.shield():
            until.note("in the block")
            await until("the app has ended")
            await turns()
        until.note("block ended")

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        tasks.start_soon(save, client)
        await until("in the block")
        far.leave()
        await gone(client)
        return "done"

    async def slow_send(message: Any) -> None:
        until.note("the app has ended")
        await until("block ended")
        await turns()
        await far.send(message)

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(SECONDS):
            result = await DisconnectMiddleware(app, policy="cancel")(far.scope(), far.receive, slow_send)
            await turns()
    assert result == "done"


async def test_a_block_after_the_end_holds_nothing_off() -> None:
    far = http()
    kept: list[ClientConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(connection(scope))
        far.leave()
        await gone(kept[0])

    scope = far.scope()
    await serve(app, far, scope)
    for client in (*kept, connection(scope)):
        async with client.shield():
            await turns()


async def test_a_block_around_the_last_message_is_followed_by_no_cancellation() -> None:
    """P3."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            await send(START)
            await send(FINAL)
        await turns()
        return "background done"

    assert await serve(app, far, policy="cancel") == "background done"


async def test_a_block_under_a_nested_install_holds_off_the_outer_ones_cancellation() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            await turns()
            steps.append("committed")
        steps.append("after the block")

    stack = behind(DisconnectMiddleware(app), 1, policy="cancel")
    scope = far.scope()
    await call(stack, far, scope)
    assert steps == ["committed"]


async def test_a_listener_between_nested_installs_hears_of_it_at_the_end_of_the_block_too() -> None:
    far = http()
    until = Until()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await receive()
        async with client.shield():
            until.note("in the block")
            far.leave()
            await gone(client)
            await turns()
            assert "heard" not in until.happened
        await until("heard")

    async def between(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(DisconnectMiddleware(inner), scope, receive, send)
            await until("in the block")
            assert await receive() == DISCONNECT
            until.note("heard")

    await serve(between, far)


def test_without_an_event_loop_it_works_as_well() -> None:
    """A coroutine that is driven by hand."""
    far = http()
    steps: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        steps.append((client.connected, client.policy))
        client.policy = "cancel"
        await receive()
        async with client.shield():
            far.leave()
            assert await receive() == DISCONNECT
        steps.append((client.connected, client.policy))
        assert await client.wait_disconnected() is client.disconnect
        async with client.shield():
            steps.append("once more")
        return "done"

    coroutine = DisconnectMiddleware(app)(far.scope(), far.receive, far.send)
    with pytest.raises(StopIteration) as stopped:
        for _ in range(200):
            coroutine.send(None)
    assert stopped.value.value == "done"
    assert steps == [(True, "mute"), (False, "cancel"), "once more"]
    assert far.sent[-1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_view_of_an_exchange_that_is_over_knows_its_policy(kind: str) -> None:
    far: Any = http() if kind == "http" else websocket()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await receive()
        await receive()

    await serve(app, far, scope)
    assert connection(scope).policy == ("mute" if kind == "http" else "raise")


@pytest.mark.parametrize("policy", ["mute", "cancel"])
async def test_an_app_may_copy_and_pickle_the_scope(policy: Any) -> None:
    """P0."""
    far = http()
    copies: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        copies.extend([copy.copy(scope), copy.deepcopy(scope), pickle.loads(pickle.dumps(scope))])
        assert connection(copies[1]).connected
        assert copy.copy(scope["disconnect_mw.connection"]) is scope["disconnect_mw.connection"]

    scope = {**far.scope()}
    before = {**scope}
    await DisconnectMiddleware(app, policy=policy)(scope, far.receive, far.send)
    for copied in copies:
        del copied["disconnect_mw.connection"]
        assert copied == before
