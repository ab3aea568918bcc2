"""P7: what becomes of what an application sends on a WebSocket."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from disconnect_mw import ClientDisconnected, DisconnectMiddleware

from .support.messages import http_scope
from .support.serving import App

pytestmark = pytest.mark.anyio


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
        assert [await receive() for _ in queued] == queued  # said before the peer left (P2)
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


@pytest.mark.parametrize("odd", [None, "text", 7, {}, {"no": "type"}, {"body": 7}])
async def test_what_is_no_message_passes_as_it_is(odd: Any) -> None:
    """The server complains of it."""
    server = WebSocketServer(None, [CONNECT])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send(odd)
        await send(CLOSE)

    await server.run(app)
    assert server.sent == [ACCEPT, odd, CLOSE]
