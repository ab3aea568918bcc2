"""P7: under `raise` a WebSocket app that listens is told by the message, one that only sends by the exception."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, _websocket, connection

from .support.messages import ACCEPT, CLOSE, TEXT
from .support.records import gone
from .support.serving import App, Until, call, checked, on_asyncio, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]

DISCONNECT = "websocket.disconnect"


async def accept(receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send(ACCEPT)


async def is_muted(send: Any) -> bool:
    try:
        await send(TEXT)
    except ClientDisconnected:
        return False
    return True


def age(scope: Any, seconds: float) -> None:
    """Let the disconnect, and what the app was told of it, be so many seconds older."""
    known: Any = connection(scope)._found
    while known is not None:
        known.disconnected.since -= seconds
        if known.reader is not None:
            known.reader.told_at -= seconds
        known = known.parts.outer


def installed(app: App, times: int) -> App:
    for _ in range(times):
        app = DisconnectMiddleware(app)
    return app


def failing(far: Any) -> Callable[[Any], Any]:
    """The server's `send`, which tells of the disconnect."""

    async def send(message: Any) -> None:
        if far.has_left:
            raise OSError("the peer has left")
        await far.send(message)

    return send


installs = pytest.mark.parametrize("installs", [1, 2])


# The exception


@installs
async def test_the_task_that_has_received_the_disconnect_is_told_at_once(installs: int) -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        far.leave()
        assert (await receive())["type"] == DISCONNECT
        assert not await is_muted(send)
        assert not await is_muted(send)

    await call(installed(app, installs), far)
    assert far.delivered == [ACCEPT]


@installs
async def test_another_task_is_muted_for_ten_seconds_and_then_told(installs: int) -> None:
    """Channels' `disconnect()` and Quart's cancellation end it meanwhile."""
    far = websocket()
    until = Until()

    async def listen(receive: Any) -> None:
        assert (await receive())["type"] == DISCONNECT
        until.note("told")
        await until("over")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            await turns()
            far.leave()
            await until("told")
            assert await is_muted(send)
            age(scope, _websocket._SECONDS_TO_END - 1)
            assert await is_muted(send)
            age(scope, 1)
            assert not await is_muted(send)
            until.note("over")

    assert _websocket._SECONDS_TO_END == 10.0
    await call(installed(app, installs), far)


@installs
async def test_while_a_task_waits_in_receive_what_is_sent_is_muted(installs: int) -> None:
    """It is told in the next turn, and ends the sender."""
    far = websocket()
    until = Until()

    async def receive_nothing_more() -> Any:
        return await (anyio.sleep_forever() if far.reads else far.receive())

    async def listen(receive: Any) -> None:
        assert (await receive())["type"] == DISCONNECT
        until.note("told")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            await turns()
            far.leave()
            until.note(await is_muted(send))
            await until("told")
            until.note(await is_muted(send))

    with anyio.fail_after(5):
        await installed(app, installs)(far.scope(), receive_nothing_more, failing(far))
    assert until.happened == [True, "told", True]


@installs
async def test_an_app_that_has_never_heard_its_peer_is_told_at_once(installs: int) -> None:
    """It only sends: nothing else tells it."""
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        far.leave()
        await gone(connection(scope))
        assert not await is_muted(send)

    await call(installed(app, installs), far)


@installs
async def test_an_app_that_has_heard_its_peer_is_muted_for_a_second_and_then_told(installs: int) -> None:
    """It will come back to `receive`, which tells it."""
    far = websocket(messages=("hello",))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        assert (await receive())["text"] == "hello"
        far.leave()
        await gone(connection(scope))
        assert await is_muted(send)
        age(scope, _websocket._SECONDS_TO_COME_BACK / 2)
        assert await is_muted(send)
        age(scope, _websocket._SECONDS_TO_COME_BACK / 2)
        assert not await is_muted(send)

    assert _websocket._SECONDS_TO_COME_BACK == 1.0
    await call(installed(app, installs), far)


async def test_what_was_read_ahead_of_the_app_was_not_heard() -> None:
    far = websocket(messages=("hello",))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await checked()
        assert far.reads == 2, "one message ahead"
        far.leave()
        assert not await is_muted(send)

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(far.scope(), far.receive, failing(far))


@pytest.mark.parametrize("end", [CLOSE, {"type": "websocket.http.response.start", "status": 403, "headers": []}])
async def test_an_end_raises_nothing(end: Any) -> None:
    """Who closes wants no answer."""
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        if end is CLOSE:
            await send(ACCEPT)
        far.leave()
        await receive()
        assert await send(end) is None
        return "closed"

    assert await serve(app, far) == "closed"


@pytest.mark.parametrize("policy", ["mute", "finish", "cancel"])
async def test_under_the_other_policies_it_is_muted(policy: Any) -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        far.leave()
        assert (await receive())["type"] == DISCONNECT
        assert await is_muted(send)

    await serve(app, far, websocket_policy=policy)


async def test_http_under_raise_is_told_whoever_listens() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await turns()
            far.leave()
            await gone(connection(scope))
            with pytest.raises(ClientDisconnected):
                await send({"type": "http.response.start", "status": 200, "headers": []})

    await serve(app, far, policy="raise")


# What the peer said before it left


def saying(far: Any, count: int) -> list[Any]:
    """Have the peer say so much, and leave."""
    messages = [{"type": "websocket.receive", "text": str(number)} for number in range(count)]
    far.deliver(*messages)
    far.leave()
    return messages


async def drained(receive: Any) -> AsyncIterator[Any]:
    while (message := await receive())["type"] != DISCONNECT:
        yield message


@installs
@pytest.mark.parametrize("count", [1, 3, 64, 65, 200])
@pytest.mark.parametrize("policy", ["mute", "finish", "raise"])
async def test_it_is_delivered_before_the_disconnect(policy: Any, count: int, installs: int) -> None:
    """Each message: also more than are read at a time in search of the disconnect."""
    far = websocket()
    got: list[Any] = []
    said: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        said.extend(saying(far, count))
        got.extend([message async for message in drained(receive)])
        assert (await receive())["type"] == DISCONNECT

    wrapped: App = app
    for _ in range(installs):
        wrapped = DisconnectMiddleware(wrapped, websocket_policy=policy)
    await call(wrapped, far)
    assert got == said


@installs
@pytest.mark.parametrize("count", [0, 1, 3, 63, 64, 65, 200])
async def test_it_is_delivered_although_a_send_has_told_of_the_disconnect(count: int, installs: int) -> None:
    far = websocket()
    got: list[Any] = []
    said: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        said.extend(saying(far, count))
        assert not await is_muted(send)
        got.extend([message async for message in drained(receive)])
        assert (await receive())["type"] == DISCONNECT

    with anyio.fail_after(5):
        await installed(app, installs)(far.scope(), far.receive, failing(far))
    assert got == said


async def test_at_most_64_messages_are_held_in_search_of_the_disconnect() -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        reads = far.reads
        saying(far, 200)
        await is_muted(send)
        assert far.reads - reads <= 64

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(far.scope(), far.receive, failing(far))


@on_asyncio
async def test_a_message_that_the_server_gives_as_its_receive_is_woken_is_delivered() -> None:
    far = websocket()
    until = Until()
    said = {"type": "websocket.receive", "text": "good-bye"}

    async def receive_late() -> Any:
        if not far.reads or until.happened:
            return await far.receive()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            return said

    async def listen(receive: Any) -> None:
        until.note(await receive())
        until.note((await receive())["type"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            await turns()
            far.leave()
            await is_muted(send)

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(far.scope(), receive_late, failing(far))
    assert until.happened == [said, DISCONNECT]


async def test_once_the_disconnect_was_answered_nothing_comes_any_more() -> None:
    """P2."""
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        far.leave()
        assert (await receive())["type"] == DISCONNECT
        far.deliver({"type": "websocket.receive", "text": "late"})
        for _ in range(3):
            assert (await receive())["type"] == DISCONNECT

    await serve(app, far)


async def test_an_http_app_gets_nothing_that_came_before_a_disconnect_that_is_known() -> None:
    far = http(body=[b"a", b"b"], leaves_after_chunks=1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"a"
        assert (await receive())["type"] == "http.disconnect"
        far.deliver({"type": "http.request", "body": b"late"})
        assert (await receive())["type"] == "http.disconnect"

    await serve(app, far)
