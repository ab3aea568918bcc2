"""What is told of a client that left: the hooks, and the one warning of an app that goes on."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import itertools
import math
import weakref
from typing import Any

import anyio
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from disconnect_mw import ClientDisconnected, Disconnect, DisconnectMiddleware, _telling, connection

from .support.apps import leaving
from .support.messages import ACCEPT, CHUNK, FINAL, START
from .support.records import gone, record_of
from .support.serving import App, Until, briefly, call, left, on_asyncio, serve, turns
from .support.simulated_server import UVICORN_0_28_0, SimulatedServer, http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


# on_disconnect


async def test_a_hook_is_told_at_once() -> None:
    far = http(path="/feed")
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        assert told == []
        await receive()
        assert told == [connection(scope).disconnect]

    await serve(app, far, on_disconnect=told.append)
    assert [(type(one), one.path, one.phase) for one in told] == [(Disconnect, "/feed", "before the response")]


async def test_a_hook_is_told_although_the_app_asks_for_nothing() -> None:
    far = http()
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await until("told")

    await serve(app, far, on_disconnect=lambda disconnect: until.note("told"))


async def test_a_hook_may_be_async() -> None:
    far = http()
    until = Until()

    async def hook(disconnect: Disconnect) -> None:
        until.note("began")
        await turns()
        until.note(disconnect.phase)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        await until("before the response")

    await serve(app, far, on_disconnect=hook)
    assert until.happened == ["began", "before the response"]


class Methods:
    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def plain(self, disconnect: Disconnect) -> None:
        self.told.append(disconnect)

    async def one(self, disconnect: Disconnect) -> None:
        self.told.append(disconnect)

    def returns_an_awaitable(self, disconnect: Disconnect) -> Any:
        return self.one(disconnect)

    def with_more(self, disconnect: Disconnect, more: int = 7, *others: Any, **named: Any) -> None:
        self.told.append(disconnect)

    __call__ = plain


class AsyncObject(Methods):
    async def __call__(self, disconnect: Disconnect) -> None:  # type: ignore[override]  # the other kind
        self.told.append(disconnect)


@pytest.mark.parametrize(
    "kind",
    [
        lambda told: told.append,
        lambda told: Methods(told).plain,
        lambda told: Methods(told).one,
        lambda told: Methods(told).returns_an_awaitable,
        lambda told: Methods(told).with_more,
        lambda told: Methods(told),
        lambda told: AsyncObject(told),
        lambda told: functools.partial(Methods.plain, Methods(told)),
        lambda told: functools.partial(Methods.one, Methods(told)),
        lambda told: lambda *anything: told.extend(anything),
    ],
)
async def test_everything_that_takes_one_argument_is_a_hook(kind: Any) -> None:
    told: list[Any] = []
    await serve(leaving, http(), on_disconnect=kind(told))
    assert [type(one) for one in told] == [Disconnect]


@pytest.mark.parametrize(
    "tells", ["receive, then send", "send, then receive", "both at once", "the watcher, then both"]
)
@pytest.mark.parametrize("installs", [1, 2, 3])
async def test_a_hook_is_told_once(tells: str, installs: int) -> None:
    far = SimulatedServer(UVICORN_0_28_0)
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        far.leave()
        if tells == "receive, then send":
            await receive()
        elif tells == "send, then receive":
            await send(CHUNK)
        elif tells == "both at once":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                tasks.start_soon(send, CHUNK)
        else:
            await connection(scope).wait_disconnected()
        for _ in range(2):
            await send(CHUNK)
            await receive()

    wrapped: App = app
    for _ in range(installs):
        wrapped = DisconnectMiddleware(wrapped, on_disconnect=told.append)
    await call(wrapped, far)
    assert len(told) == 1


async def test_the_hooks_of_nested_installs_add_up() -> None:
    far = http()
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()

    inner = DisconnectMiddleware(app, on_disconnect=lambda disconnect: told.append("inner"))
    await serve(inner, far, on_disconnect=lambda disconnect: told.append("outer"))
    assert sorted(told) == ["inner", "outer"]


@pytest.mark.parametrize("stays", ["to the last message", "and leaves after it"])
async def test_no_hook_is_told_of_a_client_that_stayed(stays: str) -> None:
    """P3."""
    far = http()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(FINAL)
        if stays == "and leaves after it":
            far.leave()
            await receive()

    await serve(app, far, on_disconnect=told.append)
    assert told == []


async def test_each_client_is_told_of_by_itself() -> None:
    told: list[Any] = []
    app = DisconnectMiddleware(leaving, on_disconnect=told.append)
    for path in ("/one", "/two"):
        await call(app, http(path=path))
    assert [one.path for one in told] == ["/one", "/two"]


@pytest.mark.parametrize("policy", ["mute", "raise", "cancel"])
async def test_a_websocket_client_is_told_of(policy: Any) -> None:
    far = websocket(path="/chat")
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await left(far) if policy == "cancel" else far.leave()
        await receive()

    await serve(app, far, websocket_policy=policy, on_disconnect=told.append)
    assert [(one.protocol, one.path, one.phase, one.code) for one in told] == [
        ("websocket", "/chat", "while open", 1006)
    ]


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


@pytest.mark.parametrize("learns", ["by receive", "by the watcher", "by send"])
async def test_a_hook_runs_in_the_context_of_the_exchange_and_changes_nothing_in_it(learns: str) -> None:
    far = SimulatedServer(UVICORN_0_28_0)
    until = Until()

    def hook(disconnect: Disconnect) -> None:
        until.note(variable.get())
        variable.set("the hook's")

    async def async_hook(disconnect: Disconnect) -> None:
        hook(disconnect)
        await turns()
        until.note(variable.get())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        far.leave()
        if learns == "by receive":
            await receive()
        elif learns == "by send":
            await send(CHUNK)
        else:
            await connection(scope).wait_disconnected()
        await until("the hook's")
        assert variable.get() == "the exchange's"

    variable.set("the exchange's")
    await serve(DisconnectMiddleware(app, on_disconnect=async_hook), far, on_disconnect=hook)
    assert variable.get() == "the exchange's"
    assert until.happened == ["the exchange's", "the exchange's", "the hook's"]


async def test_an_async_hook_may_set_a_variable_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """As a span of OpenTelemetry does."""
    far = http()
    until = Until()

    async def hook(disconnect: Disconnect) -> None:
        token = variable.set("the hook's")
        await turns()
        variable.reset(token)
        until.note(variable.get())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    variable.set("the exchange's")
    await serve(app, far, policy="cancel", on_disconnect=hook)
    await turns(20)
    assert (until.happened, caplog.messages) == (["the exchange's"], [])


def raising(error: BaseException) -> Any:
    def hook(disconnect: Disconnect) -> None:
        raise error

    return hook


def raising_later(error: BaseException, awaits: bool) -> Any:
    async def hook(disconnect: Disconnect) -> None:
        if awaits:
            await turns()
        raise error

    return hook


@pytest.mark.parametrize("error", [ValueError("x"), OSError(), ClientDisconnected({}), asyncio.CancelledError()])
@pytest.mark.parametrize("kind", ["plain", "async, at once", "async, later"])
async def test_what_a_hook_raises_changes_nothing(kind: str, error: Any, caplog: pytest.LogCaptureFixture) -> None:
    far = http()
    hook = raising(error) if kind == "plain" else raising_later(error, awaits=kind == "async, later")

    async def app(scope: Any, receive: Any, send: Any) -> str:
        assert await leaving(scope, receive, send) == "done"
        await turns(20)
        return "done"

    assert await serve(app, far, on_disconnect=hook) == "done"
    assert all(message.startswith("on_disconnect failed: tests.test_telling.raising") for message in caplog.messages)
    if isinstance(error, Exception):
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("disconnect_mw", "ERROR")
        assert record.exc_info is not None
        assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@on_asyncio
async def test_an_exit_from_a_hook_passes(error: Any) -> None:
    far = http()
    with pytest.raises(error):
        await serve(leaving, far, on_disconnect=raising(error()))


async def test_a_hook_that_fails_keeps_no_other_from_being_told() -> None:
    far = http()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await DisconnectMiddleware(goes, on_disconnect=told.append)(scope, receive, send)

    async def goes(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()

    await serve(app, far, on_disconnect=raising(ValueError()))
    assert len(told) == 1


async def test_a_hook_that_fails_keeps_no_app_from_being_cancelled() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel", on_disconnect=raising(ValueError()))
    assert record_of(scope).ended == "cancelled"


async def test_a_hook_that_never_ends_harms_nobody() -> None:
    far = http()
    until = Until()

    async def hook(disconnect: Disconnect) -> None:
        until.note("began")
        await until("may end")
        until.note("ended")

    await serve(leaving, far, on_disconnect=hook)
    assert until.happened == ["began"]
    until.note("may end")
    with anyio.fail_after(1):
        await until("ended")


@on_asyncio
async def test_the_task_of_an_async_hook_is_not_held_when_it_has_ended() -> None:
    tasks: list[Any] = []

    async def hook(disconnect: Disconnect) -> None:
        await turns()
        tasks.append(weakref.ref(asyncio.current_task()))

    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        while not tasks:
            await turns()

    await serve(app, far, on_disconnect=hook)
    await turns()
    gc.collect()
    assert [task() for task in tasks] == [None]


async def test_an_async_hook_is_not_cancelled_with_the_app() -> None:
    far = http()
    until = Until()

    async def hook(disconnect: Disconnect) -> None:
        await turns(20)
        until.note("saved")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    await serve(app, far, policy="cancel", on_disconnect=hook)
    with anyio.fail_after(1):
        await until("saved")


# The warning


class Warned:
    """What was warned of, and an app that goes on until it has been looked at for that."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.looked_at: list[Any] = []

    def texts(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.levelname == "WARNING"]

    async def goes_on(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        send.__self__.root.server_receive.__self__.leave()
        await receive()
        while not any(scope is one for one in self.looked_at):
            await anyio.sleep(0.001)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Warned:
    """Soon; and nothing has been named before."""
    warn = _telling.abandoned._callback
    warned = Warned(caplog)

    def turn(connections: Any, backend: Any, token: Any) -> None:
        warn(connections, backend, token)
        warned.looked_at.extend(connection.scope for connection in connections)

    monkeypatch.setattr(_telling.abandoned, "_callback", turn)
    monkeypatch.setattr(_telling.abandoned, "seconds", 0.01)
    monkeypatch.setattr(_telling, "_named", set())
    return warned


async def long(scope: Any, receive: Any, send: Any) -> None:
    """An app that goes on for longer than it takes to be warned of."""
    await receive()
    send.__self__.root.server_receive.__self__.leave()
    client = connection(scope)
    await (gone(client) if client.policy == "cancel" else receive())  # from which it may be withheld
    await anyio.sleep(0.04)


def text(route: str) -> str:
    return (
        f"the app goes on without a client: {route}, 10 s after the client left. "
        'policy="cancel" stops it, grace=SECONDS stops it later, grace=math.inf lets it go on without this warning; '
        "for one route use policy_for=, or disconnect_mw.connection(request).policy. Each route is named once."
    )


async def test_an_app_that_goes_on_for_long_is_warned_of(warned: Warned) -> None:
    await serve(warned.goes_on, http(path="/a b"))
    assert warned.texts() == [text("GET /a%20b")]


async def test_a_websocket_app_that_goes_on_for_long_is_warned_of(warned: Warned) -> None:
    await serve(warned.goes_on, websocket(path="/chat"), websocket_policy="mute")
    assert warned.texts() == [text("WEBSOCKET /chat")]


async def test_under_finish_an_app_that_waits_for_the_disconnect_is_warned_of(warned: Warned) -> None:
    """It never ends by itself."""
    far = http(path="/waits")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            while not any(scope is one for one in warned.looked_at):
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()

    await serve(app, far, policy="finish")
    assert warned.texts() == [text("GET /waits")]


async def test_apps_that_end_in_time_one_after_the_other_are_not_warned_of(
    warned: Warned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although others have left before, whose time is over."""
    monkeypatch.setattr(_telling.abandoned, "seconds", 0.3)
    paths: list[str] = []

    async def brief(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        send.__self__.root.server_receive.__self__.leave()
        await receive()
        await anyio.sleep(0.05)

    app = DisconnectMiddleware(brief)
    numbers = itertools.count()

    async def exchange() -> str:
        path = f"/{next(numbers)}"
        await call(app, http(path=path))
        return path

    async def brief_exchange() -> None:
        paths.append(await briefly(exchange, 0.3))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(brief_exchange)
            await anyio.sleep(0.04)
    assert len(paths) == 10
    assert [path for path in paths if text(f"GET {path}") in warned.texts()] == []


async def test_each_route_is_named_once(warned: Warned) -> None:
    app = DisconnectMiddleware(warned.goes_on)
    async with anyio.create_task_group() as tasks:
        for path, method in (("/one", "GET"), ("/one", "GET"), ("/two", "GET"), ("/one", "PUT")):
            tasks.start_soon(call, app, http(path=path, method=method))
    await call(app, http(path="/one"))
    assert sorted(warned.texts()) == [text("GET /one"), text("GET /two"), text("PUT /one")]


async def test_no_more_than_so_many_routes_are_named(warned: Warned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no framework tells the route it is the path, and these a client can make up."""
    monkeypatch.setattr(_telling, "_ROUTES_TO_NAME", 2)
    app = DisconnectMiddleware(warned.goes_on)
    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(call, app, http(path=f"/{number}"))
    assert len(warned.texts()) == 2


def framework(kind: str, warned: Warned) -> Any:
    async def endpoint(request: Request) -> Response:
        await warned.goes_on(request.scope, request.scope["receive"], request.scope["send"])
        return PlainTextResponse("")

    if kind == "FastAPI":
        app = FastAPI()
        app.add_api_route("/items/{number}", endpoint)
        return app
    if kind == "FastAPI's router":
        router, app = APIRouter(), FastAPI()
        router.add_api_route("/{number}", endpoint)
        app.include_router(router, prefix="/items")
        return app
    return Starlette(routes=[Route("/items/{number}", endpoint)])


@pytest.mark.parametrize("kind", ["Starlette", "FastAPI", "FastAPI's router"])
async def test_the_route_is_named_as_the_framework_has_it(kind: str, warned: Warned) -> None:
    routed = framework(kind, warned)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope.update(receive=receive, send=send)
        await routed(scope, receive, send)

    for number in (1, 2):
        await serve(app, http(path=f"/items/{number}"))
    assert warned.texts() == [text("GET /items/{number}")]


@pytest.mark.parametrize(
    "options",
    [
        {"grace": math.inf},
        {"grace": 60},
        {"policy": "raise"},
        {"policy": "cancel", "grace": 60},
        {"policy": "cancel", "grace": math.inf},
    ],
)
async def test_who_has_been_asked_to_go_on_is_not_warned_of(options: Any, warned: Warned) -> None:
    await serve(long, http(), **options)
    assert warned.texts() == []


async def test_an_app_that_ends_in_time_is_not_warned_of(warned: Warned, caplog: pytest.LogCaptureFixture) -> None:
    async def exchange() -> None:
        warned.looked_at.clear()
        _telling._named.clear()
        caplog.clear()
        await serve(leaving, http())

    await briefly(exchange, _telling.abandoned.seconds)
    await anyio.sleep(3 * _telling.abandoned.seconds)
    assert warned.texts() == []


async def test_an_app_whose_client_stays_is_not_warned_of(warned: Warned) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(FINAL)
        await anyio.sleep(0.03)

    await serve(app, http())
    assert warned.texts() == []


async def test_nested_installs_warn_once(warned: Warned) -> None:
    await serve(DisconnectMiddleware(warned.goes_on), http())
    assert warned.texts() == [text("GET /")]


async def test_a_group_that_a_hook_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("the hook's")

    async def hook(disconnect: Disconnect) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await receive()
        with anyio.fail_after(5):
            while not caplog.records:
                await anyio.sleep(0.005)
        return "saved"

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with caplog.at_level("ERROR", logger="disconnect_mw"):
        assert await DisconnectMiddleware(app, on_disconnect=hook)(scope, receive, send) == "saved"
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["on_disconnect failed"]
