"""P1, P3: what becomes of what the application sends."""

from __future__ import annotations

import asyncio
import errno
import itertools
import types
import urllib.error
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, connection

from .support.messages import CHUNK, DISCONNECT, EMPTY_FINAL, FINAL, START, http_scope
from .support.serving import ON_ASYNCIO, SECONDS
from .support.simulated_server import (
    DAPHNE,
    UVICORN,
    UVICORN_0_28_0,
    ServerBehaviour,
    ServersWord,
    SimulatedServer,
    after_disconnect,
    http,
    run,
)

pytestmark = pytest.mark.anyio


# P1


async def test_after_the_departure_a_send_of_any_message_does_nothing_and_does_not_suspend() -> None:
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
                assert await send(message) is None
                assert ticks == 0
            with anyio.CancelScope() as scope:
                scope.cancel()
                await send(message)
            assert not scope.cancelled_caught
        assert server.sent == []

    await run(server, after_disconnect(server, app))


async def test_an_app_that_gives_the_loop_its_turns_is_never_suspended_by_a_muted_send() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            for _ in range(20):
                with pytest.raises(StopIteration):
                    send(CHUNK).send(None)
            for _ in range(2):
                await anyio.lowlevel.checkpoint()

    await run(server, after_disconnect(server, app))


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

    await run(server, after_disconnect(server, app))
    assert 1000 / 32 - 4 <= ticks <= 1000 / 32 + 4


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

        await run(server, after_disconnect(server, app), policy=policy)


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


# P0


async def test_starlette_with_the_middleware_added_answers_as_before() -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse((await request.body()).decode() or "hello")

    app = Starlette(routes=[Route("/", hello)])
    app.add_middleware(DisconnectMiddleware)
    server = SimulatedServer()
    wrapped: Any = app
    await wrapped(http_scope(), server.receive, server.send)
    assert server.sent[1]["body"] == b"hello"


@pytest.mark.parametrize("policy", ["mute", "raise"])
async def test_a_task_that_the_app_leaves_behind_is_muted_as_before(policy: Any) -> None:
    server = SimulatedServer()
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        await receive()
        kept.append(send)

    await run(server, app, policy=policy)
    if policy == "raise":
        with pytest.raises(ClientDisconnected):
            await kept[0](CHUNK)
    else:
        assert await kept[0](CHUNK) is None


# Whose exception it is


SERVER = """
async def run(app, scope, receive, send):
    return await app(scope, receive, send)

def sender(sent, error):
    async def send(message):
        if len(sent) == 2:
            raise error
        sent.append(message)
    return send
"""


@pytest.fixture
def server_of_its_own() -> types.ModuleType:
    """A server whose package has code of its own: it runs the task, and its `send` may raise."""
    module = types.ModuleType("some_server.protocol")
    exec(SERVER, module.__dict__)
    return module


@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
@pytest.mark.parametrize(
    "error", [ConnectionResetError(errno.ECONNRESET, "went away"), urllib.error.URLError("refused")]
)
@pytest.mark.parametrize("whose", ["the server's", "middleware's"])
async def test_an_oserror_of_other_middleware_is_its_own(
    whose: str, error: OSError, server_of_its_own: types.ModuleType
) -> None:
    """P5: the client is there. The same exception of the server's own `send` is its word for a client that is not."""
    sent: list[Any] = []
    steps: list[str] = []
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in (START, CHUNK, CHUNK):
            await send(message)
        steps.append("muted")
        assert not connection(scope).connected

    async def auditing(message: Any) -> None:
        if len(sent) == 2:
            raise error
        sent.append(message)

    send = server_of_its_own.sender(sent, error) if whose == "the server's" else auditing
    exchange = server_of_its_own.run(DisconnectMiddleware(app), far.scope(), far.receive, send)
    task = asyncio.create_task(exchange)
    if whose == "the server's":
        await asyncio.wait_for(task, SECONDS)
        assert steps == ["muted"]
    else:
        with pytest.raises(type(error)) as raised:
            await asyncio.wait_for(task, SECONDS)
        assert raised.value is error
        assert steps == []


@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
@pytest.mark.parametrize("sends_in_task", [False, True])
async def test_an_oserror_of_middleware_is_its_own_where_the_task_is_not_the_servers(
    sends_in_task: bool, server_of_its_own: types.ModuleType
) -> None:
    """P5: BaseHTTPMiddleware outside runs the app in a task of anyio's."""
    error = ConnectionResetError(errno.ECONNRESET, "audit")
    far = http()
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        try:
            await (asyncio.create_task(send(CHUNK)) if sends_in_task else send(CHUNK))
        except OSError as caught:
            raised.append(caught)
        assert connection(scope).connected
        await send(FINAL)

    class Audit:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def auditing(message: Any) -> None:
                if message is CHUNK:
                    raise error
                await send(message)

            await DisconnectMiddleware(app)(scope, receive, auditing)

    async def passing_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    outermost = BaseHTTPMiddleware(Audit(), dispatch=passing_on)
    exchange = server_of_its_own.run(outermost, far.scope(), far.receive, far.send)
    await asyncio.wait_for(asyncio.create_task(exchange), SECONDS)
    assert raised == [error]
    assert b"".join(message.get("body", b"") for message in far.sent) == FINAL["body"]


@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
async def test_what_a_send_of_the_server_raises_through_other_middleware_counts_if_the_server_confirms_it(
    server_of_its_own: types.ModuleType,
) -> None:
    sent: list[Any] = []
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in (START, CHUNK):
            await send(message)
        far.leave()
        await send(CHUNK)
        steps.append("muted")

    async def passing_on(message: Any) -> None:
        await server_of_its_own.sender(sent, ConnectionResetError())(message)

    exchange = server_of_its_own.run(DisconnectMiddleware(app), far.scope(), far.receive, passing_on)
    await asyncio.wait_for(asyncio.create_task(exchange), SECONDS)
    assert steps == ["muted"]
