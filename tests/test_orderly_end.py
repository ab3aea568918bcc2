"""P11: what the application owes when it has ended still goes out."""

from __future__ import annotations

import asyncio
import sys
import types
from typing import Any

import anyio
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from disconnect_mw import DisconnectMiddleware
from disconnect_mw._connection import Connection

from .support.messages import CHUNK, DISCONNECT, EMPTY_FINAL, START, START_499, http_scope
from .support.serving import briefly
from .support.simulated_server import UVICORN_0_28_0, SimulatedServer, after_disconnect, run

pytestmark = pytest.mark.anyio


STARTS = {"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"7"), (b"a", b"b")]}
WITHOUT_LENGTH = {"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]}
MOST = b"x" * 65536


def body(payload: Any, more_body: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": payload, "more_body": more_body}


IN_ONE_PIECE = {
    "a start and a last body": ([body(b"payload")], b"payload"),
    "one chunk and an empty end": ([body(b"payload", True), body(b"")], b"payload"),
    "an empty chunk in between": ([body(b"payload", True), body(b"", True), body(b"")], b"payload"),
    "no body": ([{"type": "http.response.body"}], b""),
    "64 KiB": ([body(MOST)], MOST),
    "a buffer": ([body(bytearray(b"payload"))], b"payload"),
}


@pytest.mark.parametrize("name", IN_ONE_PIECE)
async def test_a_response_in_one_piece_goes_out_at_the_end(name: str) -> None:
    """A client that has only half-closed gets it, as bare (Hypercorn; case `half_closed_client_gets_no_answer`)."""
    server = SimulatedServer()
    messages, payload = IN_ONE_PIECE[name]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (STARTS, *messages):
            await send(message)
        assert server.sent == []

    await DisconnectMiddleware(after_disconnect(server, app))(http_scope(), server.receive, server.send)
    assert server.sent == [STARTS, body(payload)]


@pytest.mark.parametrize("name", ["a start and a last body", "one chunk and an empty end", "a buffer"])
@pytest.mark.parametrize("installs", [1, 2])
async def test_so_does_a_body_whose_start_the_server_has_had(name: str, installs: int) -> None:
    """BaseHTTPMiddleware outside would end it before its announced length: h11 complains of that (Hypercorn)."""
    server = SimulatedServer()
    messages, payload = IN_ONE_PIECE[name]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(STARTS)
        server.leave()
        assert await receive() == DISCONNECT
        for message in messages:
            await send(message)
        assert server.sent == [STARTS]

    for _ in range(installs):
        app = DisconnectMiddleware(app)
    await app(http_scope(), server.receive, server.send)
    assert server.sent == [STARTS, body(payload)]


@pytest.mark.parametrize(
    "headers", [None, 7, [(b"content-length",)], [(memoryview(b"content-length"), b"7")], [("a", 1)]]
)
async def test_headers_that_are_none_are_the_server_s_to_judge(headers: Any) -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({**STARTS, "headers": headers})
        server.leave()
        assert await receive() == DISCONNECT
        await send(body(b"payload"))

    await DisconnectMiddleware(app)(http_scope(), server.receive, server.send)
    assert server.sent == [{**STARTS, "headers": headers}, EMPTY_FINAL]


@pytest.mark.parametrize(
    ("before", "after"),
    [([body(b"pay", True)], [body(b"load")]), ([], [body(b"pay")]), ([], [body(b"payload", True), body(b"more")])],
    ids=["the rest of one", "a part of one", "two pieces"],
)
async def test_but_no_part_of_a_body_that_had_begun(before: list[Any], after: list[Any]) -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in (STARTS, *before):
            await send(message)
        server.leave()
        assert await receive() == DISCONNECT
        for message in after:
            await send(message)

    await DisconnectMiddleware(app)(http_scope(), server.receive, server.send)
    assert server.sent == [STARTS, *before, EMPTY_FINAL]


NOT_IN_ONE_PIECE = {
    "two chunks": [body(b"pay", True), body(b"load")],
    "an empty chunk first": [body(b"", True), body(b"payload")],
    "more than 64 KiB": [body(MOST + b"x")],
    "no end": [body(b"payload", True)],
    "a file": [{"type": "http.response.pathsend", "path": "/file"}],
    "no end but what is no message": [body(b"payload", True), {"type": "http.response.debug"}, body(b"")],
}


@pytest.mark.parametrize("name", NOT_IN_ONE_PIECE)
async def test_a_start_that_comes_too_late_goes_out_without_the_length_of_a_body_that_does_not(name: str) -> None:
    """Where BaseHTTPMiddleware stands outside on Hypercorn, h11 would complain of it."""
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (STARTS, *NOT_IN_ONE_PIECE[name]):
            await send(message)

    await DisconnectMiddleware(after_disconnect(server, app))(http_scope(), server.receive, server.send)
    assert server.sent == [WITHOUT_LENGTH, EMPTY_FINAL]


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
    assert b"".join(message.get("body", b"") for message in server.sent[1:]) == (b"{}" if ending == "responds" else b"")
    assert not server.sent[-1].get("more_body", False)


async def blocking(message: Any) -> None:
    """A server's send that never returns."""
    await anyio.sleep_forever()


async def test_the_orderly_end_does_not_wait_for_a_server_that_blocks() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        await receive()
        with anyio.fail_after(2):
            await send(START)

    with anyio.fail_after(4):
        await DisconnectMiddleware(app)(http_scope(), server.receive, blocking)


async def test_it_is_over_within_50_ms_where_the_servers_send_never_returns() -> None:
    async def exchange() -> None:
        server = SimulatedServer()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            server.leave()
            await receive()
            await receive()

        await DisconnectMiddleware(app)(http_scope(), server.receive, blocking)

    await briefly(exchange, 0.2)


@pytest.mark.parametrize(
    ("status", "outside"), [(200, 200), (399, 399), (400, 499), (499, 499), (500, 499), ("500", "500")]
)
@pytest.mark.parametrize("installs", [1, 2])
async def test_after_a_cut_upload_an_error_is_499_for_whoever_stands_outside(
    status: Any, outside: Any, installs: int
) -> None:
    server = SimulatedServer(incoming=[{"type": "http.request", "body": b"some", "more_body": True}])
    started: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        server.leave()
        await receive()
        await send({**START, "status": status})
        await send(EMPTY_FINAL)

    def metrics(app: Any) -> Any:
        async def outside(scope: Any, receive: Any, send: Any) -> None:
            async def note(message: Any) -> None:
                if message["type"] == "http.response.start":
                    started.append(message["status"])
                await send(message)

            await app(scope, receive, note)

        return outside

    for _ in range(installs):
        app = metrics(DisconnectMiddleware(app))
    await app(http_scope(), server.receive, server.send)
    assert started == [outside] * installs


async def test_the_error_of_an_app_that_had_its_body_is_its_own() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 500})
        await send(EMPTY_FINAL)

    await run(server, after_disconnect(server, app))
    assert server.sent[0]["status"] == 500


@pytest.mark.parametrize("fails_at", ["the start", "a chunk", "the last message"])
async def test_what_the_server_was_handed_is_not_sent_a_second_time(fails_at: str) -> None:
    """Middleware outside has had it, although the server's send has reported the disconnect for it."""
    server = SimulatedServer(UVICORN_0_28_0)
    messages = {"the start": STARTS, "a chunk": CHUNK, "the last message": EMPTY_FINAL}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for what, message in messages.items():
            if what == fails_at:
                server.leave()
            await send(message)

    await run(server, app)
    until = list(messages).index(fails_at) + 1
    end = [] if fails_at == "the last message" else [EMPTY_FINAL]
    assert server.sent == [*messages.values()][:until] + end


async def test_the_orderly_end_swallows_what_it_causes() -> None:
    server = SimulatedServer(UVICORN_0_28_0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        return None

    await run(server, after_disconnect(server, app))
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

    wrapped = after_disconnect(server, app)
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


class KeepingServer(SimulatedServer):
    """Of a package that keeps a lost connection for its keep-alive."""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("outside", [False, True])
async def test_a_server_that_would_keep_the_connection_is_told_to_close_it(
    version: str, outside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypercorn over HTTP/1.1, where nothing was sent; a response that had begun is left as it is (P11)."""
    monkeypatch.setitem(sys.modules, "hypercorn", types.ModuleType("hypercorn"))
    monkeypatch.setattr(Connection, "server", lambda connection: "hypercorn")
    monkeypatch.setattr(KeepingServer, "__module__", "hypercorn.protocol")
    sent = []
    for begins in (False, True, None):
        server = KeepingServer()

        async def pass_on(message: Any, server: Any = server) -> None:
            await server.send(message)

        async def app(scope: Any, receive: Any, send: Any, server: Any = server, begins: bool | None = begins) -> None:
            if begins:
                await send(START)
            server.leave()
            await receive()
            if begins is None:  # a client that has half-closed only gets that
                await send(STARTS)
                await send(body(b"payload"))

        send = pass_on if outside else server.send
        await DisconnectMiddleware(app)({**http_scope(), "http_version": version}, server.receive, send)
        sent.append(server.sent)
    headers = [(b"connection", b"close")] if version == "1.1" else []
    assert sent[0] == [{**START_499, "headers": headers}, EMPTY_FINAL]
    assert sent[2] == [STARTS, body(b"payload")]
    assert sent[1] == [START] if version == "1.1" and not outside else [START, EMPTY_FINAL]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_that_is_told_to_close_gets_the_other_headers_of_the_app_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "hypercorn", types.ModuleType("hypercorn"))
    monkeypatch.setattr(Connection, "server", lambda connection: "hypercorn")
    server, start = KeepingServer(), {**START, "headers": [(b"x-own", b"1")]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        await receive()
        await send(start)

    await DisconnectMiddleware(app)({**http_scope(), "http_version": "1.1"}, server.receive, server.send)
    assert server.sent == [{**start, "headers": [(b"x-own", b"1"), (b"connection", b"close")]}, EMPTY_FINAL]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_an_app_sends_in_the_clean_up_of_its_cancellation_does_not_go_out() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        try:
            await anyio.sleep_forever()
        finally:
            await send(STARTS)
            await send(body(b"payload"))

    with anyio.fail_after(5):
        await DisconnectMiddleware(app, policy="cancel")(http_scope(), server.receive, server.send)
    assert server.sent == [WITHOUT_LENGTH, EMPTY_FINAL]


async def test_a_response_in_one_piece_goes_out_although_the_app_fails_after_it() -> None:
    """In a background task, say; and the failure passes."""
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(STARTS)
        await send(body(b"payload"))
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # it is the app's
        await DisconnectMiddleware(after_disconnect(server, app))(http_scope(), server.receive, server.send)
    assert server.sent == [STARTS, body(b"payload")]


@pytest.mark.parametrize("payload", ["text", 10**13, memoryview(b"x" * 80_000).cast("Q"), None])
async def test_what_is_no_payload_or_too_much_is_not_kept(payload: Any) -> None:
    """And a muted send does nothing but that (P1)."""
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(STARTS)
        await send(body(payload))

    await DisconnectMiddleware(after_disconnect(server, app))(http_scope(), server.receive, server.send)
    assert server.sent == [WITHOUT_LENGTH, EMPTY_FINAL]


async def test_no_cancellation_takes_the_place_of_a_failure_in_a_cancelled_scope() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(STARTS)
        await send(body(b"payload"))
        outside.cancel()
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # it is the app's
        with anyio.CancelScope() as outside:
            await DisconnectMiddleware(after_disconnect(server, app))(http_scope(), server.receive, server.send)
    assert server.sent == []
