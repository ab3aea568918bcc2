"""What is told of a client that left: the record of its exchange."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from starlette.requests import ClientDisconnect

from disconnect_mw import Disconnect, DisconnectMiddleware, Exchange, connection
from disconnect_mw.testing import servers

from .support.messages import ACCEPT, CHUNK, DISCONNECT, FINAL, START, TEXT
from .support.records import record_of
from .support.serving import left, serve
from .support.simulated_server import UVICORN_0_28_0, SimulatedServer, http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


@pytest.fixture
def counting(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody wants to know how much was sent."""
    caplog.set_level(logging.INFO, logger="disconnect_mw")


async def test_the_record_of_an_http_exchange(counting: None, caplog: pytest.LogCaptureFixture) -> None:
    far = http()
    scope = far.scope()
    during: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({**START, "status": 201})
        await send(CHUNK)
        await send({"type": "http.response.body", "more_body": True})
        far.leave()
        assert await receive() == DISCONNECT
        await send(CHUNK)
        await send(FINAL)
        during.append(connection(scope).exchange)
        await anyio.sleep(0.004)

    await serve(app, far, scope)
    exchange = record_of(scope)
    assert exchange == Exchange(
        disconnect=connection(scope).disconnect,  # type: ignore[arg-type]  # there is one
        status=201,
        messages_sent=3,
        bytes_sent=7,
        messages_muted=2,
        bytes_muted=14,
        seconds=exchange.seconds,
        ended="returned",
        exception=None,
    )
    assert 0.002 <= exchange.seconds < 1
    assert during == [None], "not before the end"
    (line,) = [one for one in caplog.records if one.name == "disconnect_mw"]
    assert line.exchange is exchange  # type: ignore[attr-defined]  # the line has it


async def test_the_record_of_a_websocket_exchange(counting: None) -> None:
    far = websocket()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": "caf\u00e9"})
        await send({"type": "websocket.send", "bytes": b"new", "text": None})
        far.leave()
        await receive()
        await send(TEXT)

    await serve(app, far, scope, websocket_policy="mute")
    exchange = record_of(scope)
    assert (exchange.status, exchange.messages_sent, exchange.bytes_sent) == (None, 3, 8)
    assert (exchange.messages_muted, exchange.bytes_muted) == (1, 4)


@pytest.mark.parametrize("body", [b"x" * 10, bytearray(10), memoryview(bytes(10))])
async def test_bytes_of_every_kind_are_counted(body: Any, counting: None) -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send({"type": "http.response.body", "body": body, "more_body": True})
        far.leave()
        await receive()
        await send({"type": "http.response.body", "body": body, "more_body": True})

    await serve(app, far, scope)
    assert (record_of(scope).bytes_sent, record_of(scope).bytes_muted) == (10, 10)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_send_that_failed_is_not_counted_as_sent(kind: str, counting: None) -> None:
    far: Any = SimulatedServer(UVICORN_0_28_0)
    if kind == "websocket":
        far = websocket()
        far.behaviour = servers.UVICORN_0_54_0.websocket
    first, then = (START, CHUNK) if kind == "http" else (ACCEPT, TEXT)
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(first)
        await send(then)
        far.leave()
        await send(then)
        await send(then)

    await serve(app, far, scope, websocket_policy="mute")
    exchange = record_of(scope)
    payload = 7 if kind == "http" else 4
    assert (exchange.messages_sent, exchange.bytes_sent) == (2, payload)
    assert (exchange.messages_muted, exchange.bytes_muted) == (2, 2 * payload)


@pytest.mark.parametrize("message", [{"type": "http.response.body", "body": 7, "more_body": True}, None])
async def test_what_is_no_message_is_not_counted_and_left_to_the_server(message: Any, counting: None) -> None:
    far = http()
    scope = far.scope()
    taken: list[Any] = []

    async def taking(message: Any) -> None:
        taken.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(message)
        far.leave()
        await receive()
        await send(message)

    await DisconnectMiddleware(app)(scope, far.receive, taking)
    assert taken[:2] == [START, message]
    assert (record_of(scope).bytes_sent, record_of(scope).bytes_muted) == (0, 0)


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
@pytest.mark.parametrize(
    "options",
    [{}, {"policy": "raise"}, {"policy": "cancel"}, {"grace": 60}, {"on_disconnect": lambda disconnect: None}],
)
async def test_at_info_it_is_counted(options: Any, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """Elsewhere it would cost each message of a stream."""
    caplog.set_level(level, logger="disconnect_mw")
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        far.leave()
        await receive()

    await serve(app, far, scope, **options)
    counted = (record_of(scope).messages_sent, record_of(scope).bytes_sent)
    assert counted == ((1, 0) if level == logging.INFO else (None, None))


@pytest.mark.parametrize("ends", ["returned", "cancelled", "raised", "swallowed"])
async def test_the_record_tells_how_the_app_ended(ends: str) -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        if ends == "cancelled":
            await anyio.sleep_forever()
        await receive()
        await receive()
        if ends == "raised":
            raise FileNotFoundError
        if ends == "swallowed":
            raise ClientDisconnect

    if ends == "raised":
        with pytest.raises(FileNotFoundError):
            await serve(app, far, scope, policy="cancel")
    else:
        await serve(app, far, scope, policy="cancel")
    exchange = record_of(scope)
    assert (exchange.ended, exchange.exception) == {
        "raised": ("raised", "FileNotFoundError"),
        "swallowed": ("suppressed", "ClientDisconnect"),
        "cancelled": ("cancelled", None),
        "returned": ("returned", None),
    }[ends]


async def test_a_status_that_came_too_late_is_none(counting: None) -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        await send(START)

    await serve(app, far, scope)
    assert (record_of(scope).status, record_of(scope).messages_sent, record_of(scope).messages_muted) == (None, 0, 1)


async def test_nested_installs_have_one_record_and_one_line(counting: None, caplog: pytest.LogCaptureFixture) -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await left(far)

    await serve(DisconnectMiddleware(app, policy="cancel"), far, scope)
    (line,) = [one for one in caplog.records if one.name == "disconnect_mw"]
    assert line.exchange is record_of(scope)  # type: ignore[attr-defined]  # the line has it
    assert (record_of(scope).ended, record_of(scope).messages_sent) == ("cancelled", 1)


async def test_an_exchange_whose_client_stayed_has_no_record() -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    await serve(app, far, scope, policy="cancel")
    assert connection(scope).exchange is None


def test_the_records_cannot_be_changed() -> None:
    disconnect = Disconnect("http", "GET", "/", None, "during the response", None, 0.5)
    exchange = Exchange(disconnect, 200, 1, 2, 3, 4, 0.5, "returned", None)
    for record in (disconnect, exchange):
        with pytest.raises(AttributeError):
            record.seconds = 7.0  # type: ignore[misc]  # the mistake
    assert {disconnect: 1}[Disconnect("http", "GET", "/", None, "during the response", None, 0.5)] == 1
