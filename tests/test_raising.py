"""P5, P6: what becomes of what the application raises."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from disconnect_mw import ClientDisconnected, DisconnectMiddleware

from .support.messages import CHUNK, DISCONNECT, EMPTY_FINAL, FINAL, START, START_499, http_scope
from .support.simulated_server import SimulatedServer, after_disconnect, run

pytestmark = pytest.mark.anyio


async def test_what_the_disconnect_caused_ends_at_the_edge() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

    await run(server, after_disconnect(server, app), policy="raise")
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
        await run(server, after_disconnect(server, app))
    assert left.value is error


@pytest.mark.parametrize("policy", ["mute", "raise"])
async def test_a_bug_that_a_framework_answers_with_500_passes(policy: Any) -> None:
    """Raised from that answer's send, `ClientDisconnected` would take its place."""
    server = SimulatedServer()
    bug = ValueError("the app's own")

    async def endpoint(request: Request) -> Response:
        server.leave()
        while not await request.is_disconnected():
            pass
        raise bug

    app = Starlette(routes=[Route("/", endpoint)])
    with pytest.raises(ValueError) as left:
        await run(server, app, policy=policy)
    assert left.value is bug


@pytest.mark.parametrize(("status", "raises"), [(498, True), (499, False), (500, False), ("500", True), (None, True)])
async def test_only_such_an_answer_is_muted_under_raise(status: Any, raises: bool) -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in ({**START, "status": status}, CHUNK, FINAL):
            with pytest.raises(ClientDisconnected) if raises else contextlib.nullcontext():
                await send(message)

    await run(server, after_disconnect(server, app), policy="raise")


@pytest.mark.parametrize("installs", [1, 2])
async def test_a_bug_after_a_cut_upload_passes_too(installs: int) -> None:
    """Outside, its answer is a 499."""
    server = SimulatedServer(incoming=[{"type": "http.request", "body": b"some", "more_body": True}])
    bug = ValueError("the app's own")

    async def endpoint(request: Request) -> Response:
        await request.receive()
        server.leave()
        await request.receive()
        raise bug

    app: Any = Starlette(routes=[Route("/", endpoint)])
    for _ in range(installs - 1):
        app = DisconnectMiddleware(app)
    with pytest.raises(ValueError) as left:
        await run(server, app, policy="raise")
    assert left.value is bug


async def test_nor_is_an_answer_that_had_begun_before() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 500})
        server.leave()
        await receive()
        with pytest.raises(ClientDisconnected):
            await send(CHUNK)

    await run(server, app, policy="raise")


async def test_another_connections_exception_is_the_apps_own() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnected(dict(DISCONNECT))

    with pytest.raises(ClientDisconnected):
        await run(server, after_disconnect(server, app))


async def test_that_is_so_where_a_server_delivers_one_and_the_same_message_to_all() -> None:
    server, kept = SimulatedServer(), list[ClientDisconnected]()

    async def receive() -> Any:
        return DISCONNECT

    async def first(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(ClientDisconnected) as raised:
            await send(START)
        kept.append(raised.value)

    async def second(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise kept[0]

    await DisconnectMiddleware(first, policy="raise")(http_scope(), receive, server.send)
    with pytest.raises(ClientDisconnected) as left:
        await DisconnectMiddleware(second, policy="raise")(http_scope(), receive, server.send)
    assert left.value is kept[0]


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
        await run(server, after_disconnect(server, app), policy="raise")
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
            await run(server, after_disconnect(server, app))
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
            await run(server, after_disconnect(server, app))
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
