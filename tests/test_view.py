"""The handler's view of its client, `connection(...)`: whether it is there, and to wait until it leaves."""

from __future__ import annotations

import contextlib
import contextvars
import time
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from starlette.requests import Request
from starlette.websockets import WebSocket as StarletteWebSocket

from disconnect_mw import ClientConnection, Disconnect, DisconnectMiddleware, _backends, connection
from disconnect_mw.testing import WebSocketClient, WebSocketSimulatedServer, servers

from .support.messages import ACCEPT, DISCONNECT, FINAL, START, TEXT
from .support.records import gone
from .support.serving import SECONDS, Until, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


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
    began = time.monotonic()
    await serve(app, far, scope)
    (record,) = records
    assert 0.002 <= record.seconds <= time.monotonic() - began
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
        (["websocket.connect", {**START, "type": "websocket.http.response.start"}], "during the response"),
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


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("installs", [1, 2])
async def test_whoever_waits_is_released_by_the_last_message(kind: str, installs: int) -> None:
    """P3: be it that the server never delivers a disconnect, as gunicorn does not while the client keeps alive."""
    far: Any = http() if kind == "http" else websocket()
    first, last = (START, FINAL) if kind == "http" else (ACCEPT, {"type": "websocket.close"})
    got: list[Any] = []

    async def wait(client: ClientConnection) -> None:
        got.append(await client.wait_disconnected())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, connection(scope))
            await turns()
            await send(first)
            await turns()
            assert got == []
            await send(last)

    for _ in range(installs):
        app = DisconnectMiddleware(app)
    with anyio.fail_after(SECONDS):
        await app(far.scope(), far.receive, far.send)
    assert got == [None]


async def test_a_thread_that_asks_thousands_of_times_has_the_loop_do_one_thing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    backend, _ = _backends.current()
    monkeypatch.setattr(type(backend), "call_in", lambda self, token, callback: calls.append(callback))
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await anyio.to_thread.run_sync(lambda: [client.connected for _ in range(1000)])

    await serve(app, far)
    assert len(calls) == 1


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
