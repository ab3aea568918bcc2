"""P1, P3, P5, P6, P7, P11: what becomes of what the application sends, raises and owes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from disconnect_mw import ClientDisconnected, DisconnectMiddleware
from disconnect_mw._connection import HTTPConnection, WebSocketConnection
from disconnect_mw._policy import Terms

from .support.messages import CHUNK, DISCONNECT, EMPTY_FINAL, FINAL, START, START_499, http_scope
from .support.simulated_server import DAPHNE, UVICORN, UVICORN_0_28_0, ServerBehaviour, ServersWord, SimulatedServer

pytestmark = pytest.mark.anyio

App = Callable[[Any, Any, Any], Awaitable[Any]]


async def run(server: SimulatedServer, app: App, **options: Any) -> Any:
    with anyio.fail_after(5):
        return await DisconnectMiddleware(app, **options)(http_scope(), server.receive, server.send)


def gone(server: SimulatedServer, then: App) -> App:
    """An application that first sees its client leave."""

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        server.leave()
        assert await receive() == DISCONNECT
        return await then(scope, receive, send)

    return app


# P1


async def test_after_the_departure_a_send_of_any_message_is_a_checkpoint_and_nothing_else() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (CHUNK, {"type": "http.response.push"}, {"type": "http.unheard.of"}, {}, None, "text", 7):
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                ticks += 1

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tick)
                assert await send(message) is None
                assert await send(message) is None  # trio runs whoever is ready in no certain order
                assert ticks == 1
            with anyio.CancelScope() as scope:
                scope.cancel()
                await send(message)
            assert scope.cancelled_caught
        assert server.sent == []

    await run(server, gone(server, app))


async def test_an_endless_generator_into_the_void_does_not_starve_the_loop() -> None:
    server = SimulatedServer()
    ticks = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def heartbeat() -> None:
            nonlocal ticks
            while True:
                await anyio.lowlevel.checkpoint()
                ticks += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heartbeat)
            for _ in range(1000):
                await send(CHUNK)
            tasks.cancel_scope.cancel()

    await run(server, gone(server, app))
    assert ticks > 900


# trio runs whoever is ready in no certain order.
@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})])
@pytest.mark.parametrize("behaviour", [UVICORN, UVICORN_0_28_0])
async def test_a_listener_that_cancels_the_streamer_finds_it_in_its_generator(behaviour: ServerBehaviour) -> None:
    """Whose `finally` so runs at once, and not when the garbage is collected."""
    server = SimulatedServer(behaviour)
    story: list[str] = []

    async def generate() -> AsyncIterator[bytes]:
        try:
            for number in itertools.count():
                if number == 3:
                    server.leave()
                yield b"x"
                await anyio.lowlevel.checkpoint()
        finally:
            story.append("the generator stopped")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(generate())(scope, receive, send)
        story.append("the response ended")

    await run(server, app)
    assert story == ["the generator stopped", "the response ended"]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})])
@pytest.mark.parametrize("installs", [1, 2])
@pytest.mark.parametrize("turns", range(6))
async def test_a_generator_that_comes_back_as_the_listener_is_told_is_cancelled_where_it_waits_next(
    turns: int, installs: int
) -> None:
    """anyio cancels a task whose future is done a turn later."""
    server = SimulatedServer()
    story: list[str] = []
    loop = asyncio.get_running_loop()
    wake = loop.create_future()

    def wake_in(turns: int) -> None:
        if turns:
            loop.call_soon(wake_in, turns - 1)
        elif not wake.done():  # as it is once the generator has been cancelled in it
            wake.set_result(None)

    async def generate() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            loop.call_soon(server.leave)
            wake_in(turns)
            await wake
            yield b"x"
            await anyio.sleep_forever()
        finally:
            story.append("the generator stopped")

    response = StreamingResponse(generate())  # held, so that nobody else closes the generator

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await response(scope, receive, send)
        story.append("the response ended")

    await run(server, DisconnectMiddleware(app) if installs == 2 else app)
    assert story == ["the generator stopped", "the response ended"]


@pytest.mark.parametrize("failing", [START, CHUNK, FINAL])
async def test_the_servers_exception_never_reaches_the_app(failing: Any) -> None:
    server = SimulatedServer(UVICORN_0_28_0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in [START, CHUNK, FINAL]:
            if message is failing:
                break
            await send(message)
        server.leave()
        await send(failing)
        assert await receive() == DISCONNECT

    await run(server, app)


@pytest.mark.parametrize("policy", ["mute", "raise"])
async def test_the_raise_policy_raises_the_same_exception_whatever_the_server_does(policy: Any) -> None:
    for behaviour in (UVICORN, UVICORN_0_28_0):
        server = SimulatedServer(behaviour)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for message in (START, CHUNK, FINAL):
                if policy == "mute":
                    await send(message)
                    continue
                with pytest.raises(ClientDisconnected) as raised:
                    await send(message)
                assert raised.value.message == DISCONNECT
                assert raised.value.errno == errno.EPIPE

        await run(server, gone(server, app), policy=policy)


async def test_the_servers_own_exception_is_the_cause_of_ours() -> None:
    server = SimulatedServer(UVICORN_0_28_0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        with pytest.raises(ClientDisconnected) as first:
            await send(START)
        with pytest.raises(ClientDisconnected) as second:
            await send(CHUNK)
        assert type(first.value.__cause__) is ServersWord
        assert second.value.__cause__ is None

    await run(server, app, policy="raise")


# P3, and an application's own mistakes


@pytest.mark.parametrize(
    ("before", "mistake"),
    [
        ([], CHUNK),
        ([], FINAL),
        ([START], START),
        ([START], CHUNK),
        ([START, CHUNK], FINAL),
        ([START, FINAL], FINAL),
        ([START, FINAL], START),
        ([START], {"type": "http.unheard.of"}),
        ([], {}),
        ([], None),
        ([], 7),
    ],
)
@pytest.mark.parametrize("error", [RuntimeError, TypeError, AttributeError, ValueError, FileNotFoundError])
async def test_what_the_server_complains_of_is_heard(before: Any, mistake: Any, error: type[Exception]) -> None:
    server = SimulatedServer()
    complaint = error("Response content longer than Content-Length")

    async def strict(message: Any) -> None:
        if len(server.sent) == len(before):
            raise complaint
        await server.send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        with pytest.raises(error) as heard:
            await send(mistake)
        assert heard.value is complaint
        raise heard.value

    with pytest.raises(error) as left, anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), server.receive, strict)
    assert left.value is complaint


async def test_a_refused_end_is_heard_although_the_server_then_tells_of_the_end() -> None:
    """uvicorn: the response counts as complete before h11 finds too little data in it."""
    server = SimulatedServer()

    async def strict(message: Any) -> None:
        await server.send(message)
        if server.has_ended:
            raise RuntimeError("Too little data for declared Content-Length")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(FINAL)

    with pytest.raises(RuntimeError, match="Too little data"), anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), server.receive, strict)


async def test_an_app_whose_last_message_was_refused_has_not_said_its_last_word() -> None:
    server = SimulatedServer()

    async def strict(message: Any) -> None:
        if message.get("body") == b"too long":
            raise RuntimeError("Response content longer than Content-Length")
        await server.send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with pytest.raises(RuntimeError):
            await send({"type": "http.response.body", "body": b"too long"})
        server.leave()
        assert await receive() in (DISCONNECT, {"type": "http.request", "body": b"", "more_body": False})
        assert await receive() == DISCONNECT
        await send(FINAL)

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), server.receive, strict)
    assert server.sent == [START, EMPTY_FINAL]


async def test_a_disconnect_after_the_last_message_is_the_normal_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "disconnect_mw")
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(FINAL)
        assert [await receive(), await receive()] == [DISCONNECT, DISCONNECT]
        with pytest.raises(RuntimeError, match="after response already completed"):
            await send(FINAL)

    await run(server, app)
    assert server.sent == [START, FINAL]
    assert caplog.records == []


@pytest.mark.parametrize(
    "last",
    [
        [{"type": "http.response.trailers", "headers": [], "more_trailers": False}],
        [
            {"type": "http.response.trailers", "headers": [], "more_trailers": True},
            {"type": "http.response.trailers", "headers": []},
        ],
    ],
)
async def test_a_response_with_trailers_ends_with_them(last: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "disconnect_mw")
    script = [{**START, "trailers": True}, CHUNK, FINAL, *last]
    for count in range(1, len(script) + 1):
        caplog.clear()
        server = SimulatedServer(DAPHNE)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for message in script[:count]:
                await send(message)
            server._incoming.clear()
            server.leave()
            await receive()

        await run(server, app)
        assert bool(caplog.records) is (count < len(script))
        ended = server.sent[count:]
        assert [message["type"] for message in ended] == {
            1: ["http.response.body", "http.response.trailers"],
            2: ["http.response.body", "http.response.trailers"],
            3: ["http.response.trailers"],
        }.get(count, ["http.response.trailers"] if count < len(script) else [])


# P5 and P6: what leaves the application


async def test_what_the_disconnect_caused_ends_at_the_edge() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

    await run(server, gone(server, app), policy="raise")
    assert server.sent == [START_499, EMPTY_FINAL]


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(2, "x"), ConnectionRefusedError(111, "x"), OSError("lost database"), ValueError(), KeyError()],
)
async def test_the_apps_own_exceptions_always_pass(error: Exception) -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        raise error

    with pytest.raises(type(error)) as left:
        await run(server, gone(server, app))
    assert left.value is error


async def test_another_connections_exception_is_the_apps_own() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnected(dict(DISCONNECT))

    with pytest.raises(ClientDisconnected):
        await run(server, gone(server, app))


async def test_of_a_group_the_rest_is_raised() -> None:
    server = SimulatedServer()
    bug = ValueError("a bug")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def broken() -> None:
            raise bug

        async def streaming() -> None:
            await send(START)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(streaming)
            tasks.start_soon(broken)

    with pytest.raises(BaseException) as left:
        await run(server, gone(server, app), policy="raise")
    assert left.value.exceptions == (bug,)  # type: ignore[attr-defined]  # the group of anyio's task group
    assert left.value.__context__ is None or isinstance(left.value.__context__, Exception)


async def test_a_cancellation_from_outside_passes() -> None:
    for then in (None, START):
        server = SimulatedServer()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if then:
                await send(then)
            await anyio.sleep_forever()

        with anyio.move_on_after(0.01) as scope:
            await run(server, gone(server, app))
        assert scope.cancelled_caught


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
async def test_an_error_of_a_middleware_outside_is_no_departure(number: int) -> None:
    """Its access log's disk is full: the client is there."""
    server = SimulatedServer()

    async def logging(message: Any) -> None:
        await server.send(message)
        if message is CHUNK:
            raise OSError(number, "no space left on device")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(CHUNK)

    with pytest.raises(OSError, match="no space left"), anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), server.receive, logging)
    assert server.sent == [START, CHUNK]


async def test_a_departure_that_is_only_guessed_makes_no_response_look_whole() -> None:
    """A middleware outside lost a connection of its own, and the client is there."""
    server = SimulatedServer()

    async def losing(message: Any) -> None:
        await server.send(message)
        if message is CHUNK:
            raise ConnectionResetError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(CHUNK)
        await send(FINAL)

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), server.receive, losing)
    assert server.sent == [START, CHUNK]


@pytest.mark.parametrize("ending", ["muted", "own bug"])
async def test_nothing_is_left_to_the_garbage_collector(ending: str) -> None:
    class Payload(dict[str, Any]):
        pass

    alive = []
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            message = Payload(CHUNK)
            alive.append(weakref.ref(message))
            await send(message)
        del message
        if ending == "own bug":
            raise ValueError("a bug")

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            await run(server, gone(server, app))
        await anyio.lowlevel.checkpoint()
        assert [reference() for reference in alive] == [None] * 3
    finally:
        gc.enable()


async def test_a_cancelled_send_passes_although_the_client_has_gone() -> None:
    """The server blocked it, and knows."""
    server = SimulatedServer()

    async def blocking(message: Any) -> None:
        await anyio.sleep_forever()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        server.leave()
        with anyio.move_on_after(0.01) as scope:
            await send(START)
        assert scope.cancelled_caught

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), server.receive, blocking)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})])
async def test_a_task_that_is_cancelled_in_a_send_is_cancelled() -> None:
    """asyncio says it only once."""
    server = SimulatedServer()

    async def blocking(message: Any) -> None:
        await anyio.sleep_forever()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        sending = asyncio.create_task(send(START))
        await asyncio.sleep(0)
        server.leave()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), server.receive, blocking)


# P7


WS_DISCONNECT = {"type": "websocket.disconnect", "code": 1001, "reason": "bye"}


class WebSocketServer:
    """Its peer has gone; what the server says of it is given."""

    def __init__(self, error: Exception | None, incoming: list[Any]) -> None:
        self.error = error
        self.incoming = incoming
        self.sent: list[Any] = []
        self.has_left = False

    async def receive(self) -> Any:
        if self.incoming:
            return self.incoming.pop(0)
        if self.has_left:
            return dict(WS_DISCONNECT)
        await anyio.sleep_forever()

    async def send(self, message: Any) -> None:
        if self.has_left and self.error is not None:
            raise self.error
        self.sent.append(message)

    async def run(self, app: App, **options: Any) -> Any:
        scope = {**http_scope(), "type": "websocket", "subprotocols": []}
        with anyio.fail_after(5):
            return await DisconnectMiddleware(app, **options)(scope, self.receive, self.send)


EIGHT_WAYS = [
    OSError(),
    RuntimeError("Unexpected ASGI message 'websocket.send'"),
    AttributeError("transfer_data_task"),
    TypeError("An asyncio.Future"),
    type("LocalProtocolError", (Exception,), {})(),
    type("ConnectionClosed", (Exception,), {"__module__": "websockets.exceptions"})(),
    type("WebSocketDisconnected", (OSError, RuntimeError), {})(),
]
CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}
TEXT = {"type": "websocket.send", "text": "x"}
CLOSE = {"type": "websocket.close", "code": 1000}


@pytest.mark.parametrize("error", EIGHT_WAYS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("queued", [[], [{"type": "websocket.receive", "text": "queued"}]], ids=["", "queued"])
async def test_whatever_the_server_raises_the_app_gets_one_exception(error: Exception, queued: list[Any]) -> None:
    server = WebSocketServer(error, [CONNECT])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        server.has_left = True
        server.incoming.extend(queued)
        for _ in range(2):
            with pytest.raises(ClientDisconnected) as raised:
                await send(TEXT)
        assert raised.value.message == WS_DISCONNECT
        assert await send(CLOSE) is None
        assert [await receive(), await receive()] == [WS_DISCONNECT, WS_DISCONNECT]
        await send(TEXT)

    await server.run(app)
    assert server.sent == [ACCEPT]


@pytest.mark.parametrize("error", EIGHT_WAYS, ids=lambda error: type(error).__name__)
async def test_a_close_after_the_peer_has_gone_is_a_no_op(error: Exception) -> None:
    for before in ([], [ACCEPT]):
        server = WebSocketServer(error, [CONNECT])

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            for message in before:
                await send(message)
            server.has_left = True
            assert await send(CLOSE) is None
            assert await send(CLOSE) is None
            assert await receive() == WS_DISCONNECT

        await server.run(app)


@pytest.mark.parametrize("error", EIGHT_WAYS, ids=lambda error: type(error).__name__)
async def test_what_the_server_says_of_a_peer_that_is_there_is_heard(error: Exception) -> None:
    if isinstance(error, OSError) or type(error).__name__ == "ConnectionClosed":
        return  # these say by themselves that it is not
    server = WebSocketServer(error, [CONNECT, {"type": "websocket.receive", "text": "kept"}])

    async def picky(message: Any) -> None:
        raise error

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(type(error)) as heard:
            await send(ACCEPT)
        assert heard.value is error
        assert await receive() == {"type": "websocket.receive", "text": "kept"}

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)({**http_scope(), "type": "websocket"}, server.receive, picky)


async def test_a_disconnect_of_which_only_the_send_tells_has_code_1006() -> None:
    server = WebSocketServer(None, [CONNECT])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        server.error = OSError()
        server.has_left = True
        server.receive = anyio.sleep_forever  # type: ignore[method-assign]  # it tells nothing
        with pytest.raises(ClientDisconnected) as raised:
            await send(TEXT)
        assert raised.value.message == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        assert await receive() == raised.value.message

    async def silent() -> Any:
        return await server.receive()

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)({**http_scope(), "type": "websocket"}, silent, server.send)


async def test_an_unanswered_handshake_is_closed_for_the_app() -> None:
    for messages in ([], [ACCEPT], [CLOSE]):
        server = WebSocketServer(None, [CONNECT])

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            server.has_left = True
            assert await receive() == WS_DISCONNECT
            for message in messages:
                await send(message)

        await server.run(app, websocket_policy="mute")
        assert server.sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize("policy", ["raise", "mute"])
async def test_a_denial_after_the_peer_has_gone_is_an_end_as_well(policy: Any) -> None:
    server = WebSocketServer(None, [CONNECT])
    denial = {"type": "websocket.http.response.start", "status": 405, "headers": []}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        server.has_left = True
        assert await receive() == WS_DISCONNECT
        await send(denial)
        await send({"type": "websocket.http.response.body", "body": b"why", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"why"})
        await send(CLOSE)

    await server.run(app, websocket_policy=policy)
    assert server.sent == [denial, {"type": "websocket.http.response.body", "body": b"", "more_body": False}]


async def test_a_denial_is_ended_for_the_app() -> None:
    server = WebSocketServer(None, [CONNECT])
    denial = {"type": "websocket.http.response.start", "status": 403, "headers": []}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(denial)
        await send({"type": "websocket.http.response.body", "body": b"x", "more_body": True})
        server.has_left = True
        assert await receive() == WS_DISCONNECT

    await server.run(app)
    assert server.sent[2:] == [{"type": "websocket.http.response.body", "body": b"", "more_body": False}]


async def test_after_the_apps_own_close_the_server_is_heard() -> None:
    server = WebSocketServer(OSError("after websocket.close"), [CONNECT])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send(CLOSE)
        server.has_left = True
        with pytest.raises(OSError, match=r"after websocket\.close"):
            await send(TEXT)
        assert await receive() == WS_DISCONNECT
        with pytest.raises(OSError, match=r"after websocket\.close"):
            await send(TEXT)

    await server.run(app)


async def test_a_disconnect_without_code_gets_1005() -> None:
    server = WebSocketServer(None, [CONNECT, {"type": "websocket.disconnect"}])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert [await receive(), await receive()] == [{"type": "websocket.disconnect", "code": 1005}] * 2

    await server.run(app)


async def test_the_ignore_policy_mutes_a_websocket() -> None:
    server = WebSocketServer(RuntimeError(), [CONNECT])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        server.has_left = True
        for message in (TEXT, TEXT, CLOSE):
            assert await send(message) is None

    await server.run(app, websocket_policy="mute")
    assert server.sent == [ACCEPT]


# P11


async def test_a_start_that_comes_too_late_goes_out_without_the_length_of_a_body_that_does_not() -> None:
    """Where BaseHTTPMiddleware stands outside on Hypercorn, h11 would complain of it."""
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"7"), (b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"payload"})

    await DisconnectMiddleware(gone(server, app))(http_scope(), server.receive, server.send)
    assert server.sent == [{"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]}, EMPTY_FINAL]


def stacked(app: ASGIApp, order: str) -> Any:
    """`app` under ours ("o") and BaseHTTPMiddlewares ("b"), the outermost first."""

    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        assert response.status_code in (200, 499)
        return response

    for layer in reversed(order):
        app = DisconnectMiddleware(app) if layer == "o" else BaseHTTPMiddleware(app, dispatch)
    return app


@pytest.mark.parametrize("order", ["o", "ob", "bo", "bob", "obo", "oo", "bbobb"])
@pytest.mark.parametrize("ending", ["returns", "raises", "responds"])
async def test_whoever_stands_outside_sees_a_whole_exchange(order: str, ending: str) -> None:
    server = SimulatedServer()

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive, send)
        if ending == "responds":
            await request.body()
            server.leave()
            assert await receive() == DISCONNECT
            await JSONResponse({})(scope, receive, send)
        else:
            server.leave()
            if ending == "raises":
                await request.body()
            else:
                assert await receive() == DISCONNECT

    with anyio.fail_after(5):
        await stacked(endpoint, order)(http_scope(), server.receive, server.send)
    types = [message["type"] for message in server.sent]
    assert types[0] == "http.response.start"
    assert server.sent[0]["status"] == (200 if ending == "responds" else 499)
    assert types[1:] == ["http.response.body"] * len(types[1:])
    assert not any(message.get("body") for message in server.sent[1:])
    assert not server.sent[-1].get("more_body", False)


async def test_the_orderly_end_does_not_wait_for_a_server_that_blocks() -> None:
    server = SimulatedServer()

    async def blocking(message: Any) -> None:
        await anyio.sleep_forever()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        await receive()
        with anyio.fail_after(2):
            await send(START)

    with anyio.fail_after(4):
        await DisconnectMiddleware(app)(http_scope(), server.receive, blocking)


async def test_the_orderly_end_swallows_what_it_causes() -> None:
    server = SimulatedServer(UVICORN_0_28_0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        return None

    await run(server, gone(server, app))
    assert server.sent == [START_499]


@pytest.mark.parametrize("installs", [1, 2])
@pytest.mark.parametrize("ending", ["silent", "muted", "swallowed"])
async def test_a_queue_gets_nothing_of_an_app_that_fell_silent_by_itself(ending: str, installs: int) -> None:
    """As Django's tests have it, through asgiref's ApplicationCommunicator."""
    server = SimulatedServer()
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if ending == "muted":
            await send(CHUNK)
        elif ending == "swallowed":
            raise ClientDisconnect

    wrapped = gone(server, app)
    for _ in range(installs):
        wrapped = DisconnectMiddleware(wrapped)
    await wrapped(http_scope(), server.receive, queue.put)
    assert queue.qsize() == (0 if ending == "silent" else 2)


async def test_the_skeletons_messages_are_nobody_elses() -> None:
    """Middleware outside adds headers in place."""
    for _ in range(2):
        server = SimulatedServer()

        async def adding(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert message["headers"] == []
                message["headers"].append((b"x", b"y"))
            await server.send(message)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            server.leave()
            await receive()

        await DisconnectMiddleware(app)(http_scope(), server.receive, adding)
        assert server.sent == [{**START_499, "headers": [(b"x", b"y")]}, EMPTY_FINAL]


async def test_starlette_with_the_middleware_added_answers_as_before() -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse((await request.body()).decode() or "hello")

    app = Starlette(routes=[Route("/", hello)])
    app.add_middleware(DisconnectMiddleware)
    server = SimulatedServer()
    wrapped: Any = app
    await wrapped(http_scope(), server.receive, server.send)
    assert server.sent[1]["body"] == b"hello"


def test_a_connection_shows_its_state() -> None:
    for kind, name in ((HTTPConnection, "HTTPConnection"), (WebSocketConnection, "WebSocketConnection")):
        connection = kind()
        connection.open({}, SimulatedServer.receive, SimulatedServer.send, Terms("mute"))  # type: ignore[arg-type]  # never called
        assert repr(connection) == f"<{name} open>"
