"""`disconnect_mw.testing.visit`: whole exchanges of an app, and their transcripts."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.testing import (
    HTTPClient,
    Server,
    Transcript,
    WebSocketClient,
    _transcript,
    servers,
    visit,
    visit_now,
)

from .support.messages import CHUNK, DISCONNECT, FINAL, START

pytestmark = pytest.mark.anyio

SECOND = {"type": "http.response.body", "body": b"second", "more_body": True}


async def streamer(scope: Any, receive: Any, send: Any) -> None:
    """Streams four chunks, whatever happens, and then looks."""
    await receive()
    await send(START)
    for _ in range(4):
        await send(CHUNK)
    await send(FINAL)
    await receive()


async def test_the_whole_exchange_is_written_down() -> None:
    transcript = await visit(streamer, HTTPClient("/report", leaves_after_messages=2))
    assert transcript.sent == [START, CHUNK]
    assert transcript.wasted == [CHUNK, CHUNK, CHUNK, FINAL]
    assert transcript.delivered == [START, CHUNK]
    assert transcript.muted == []
    assert transcript.received == [{"type": "http.request", "body": b"", "more_body": False}, DISCONNECT]
    assert transcript.lines == [
        "receive: http.request (0 bytes)",
        "send http.response.start: None",
        *["send http.response.body: None"] * 5,
        "receive: http.disconnect",
    ]
    assert (transcript.status, transcript.headers, transcript.body) == (200, [], b"payload")
    assert (transcript.ended, transcript.raised) == ("returned", None)
    assert transcript.went_on is not None and 0 <= transcript.went_on < 1
    head, *story, tail = str(transcript).splitlines()
    assert head == "http /report on spec-silent"
    assert story == [
        "  receive: http.request (0 bytes)",
        "  send http.response.start: None",
        "  send http.response.body: None",
        "-- the client leaves (fin) --",
        "  send http.response.body: None  (x 4)",
        "  receive: http.disconnect",
    ]
    assert tail.startswith("(the app returned, 0.0") and tail.endswith(" s after the client left)")
    assert repr(transcript) == "<Transcript spec-silent returned: 8 lines>"


async def test_a_client_that_stays_gets_everything() -> None:
    transcript = await visit(streamer, HTTPClient())
    assert transcript.body == b"payload" * 4 + b"the end"
    assert (transcript.went_on, transcript.wasted, transcript.lines_until_departure) == (None, [], None)
    assert str(transcript).endswith("(the app returned)")


async def test_inside_the_middleware_the_apps_own_view_is_written_down() -> None:
    bare = await visit(
        streamer, HTTPClient(leaves_after_messages=2), servers.UVICORN_0_28_0, raise_app_exceptions=False
    )
    assert bare.lines[-1] == "send http.response.body: raises uvicorn.protocols.utils.ClientDisconnected"
    assert type(bare.raised).__name__ == "ClientDisconnected"
    wrapped = await visit(DisconnectMiddleware(streamer), HTTPClient(leaves_after_messages=2), servers.UVICORN_0_28_0)
    assert wrapped.lines[3:] == ["send http.response.body: None"] * 4 + ["receive: http.disconnect"]
    assert wrapped.muted == [CHUNK, CHUNK, FINAL], "the first told the middleware that its client had gone"
    assert wrapped.wasted[0] is CHUNK
    assert wrapped.ended == "returned"


async def test_of_nested_middlewares_the_innermost_gives_the_apps_view() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()) != DISCONNECT:
            pass
        await send(START)

    nested = DisconnectMiddleware(DisconnectMiddleware(app))
    transcript = await visit(nested, HTTPClient(leaves_after_messages=0), servers.UVICORN_0_54_0)
    assert transcript.lines == ["receive: http.disconnect", "send http.response.start: None"]
    assert transcript.lines_until_departure == 0
    assert transcript.muted == [START]


async def test_what_the_middleware_adds_for_outer_middleware_is_wasted_not_muted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        await send(START)

    transcript = await visit(DisconnectMiddleware(app), HTTPClient(leaves_after_seconds=0), servers.SPEC_SILENT)
    assert transcript.muted == [START]
    assert [message["type"] for message in transcript.wasted] == ["http.response.start", "http.response.body"]
    assert transcript.sent == []


# When a client leaves


async def test_it_leaves_before_the_app_has_its_first_turn() -> None:
    transcript = await visit(streamer, HTTPClient(leaves_after_messages=0))
    assert (transcript.sent, transcript.status, transcript.headers, transcript.body) == ([], None, [], b"")
    assert transcript.lines_until_departure == 0


async def test_it_leaves_after_seconds() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert await receive() == DISCONNECT

    transcript = await visit(app, HTTPClient(leaves_after_seconds=0.02))
    assert transcript.lines == ["receive: http.request (0 bytes)", "receive: http.disconnect"]
    assert transcript.lines_until_departure == 1


async def test_a_client_that_would_leave_later_than_the_end_stays() -> None:
    transcript = await visit(streamer, HTTPClient(leaves_after_seconds=60))
    assert transcript.went_on is None


async def test_it_leaves_in_the_middle_of_its_upload() -> None:
    client = HTTPClient(body=[b"12345", b"6789", b"0"], leaves_after_chunks=2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while await receive() != DISCONNECT:
            pass

    transcript = await visit(app, client, servers.UVICORN_0_54_0)
    assert transcript.lines == [
        "receive: http.request (5 bytes, more to come)",
        "receive: http.request (4 bytes, more to come)",
        "receive: http.disconnect",
    ]
    never = await visit(app, client, servers.DAPHNE_4_2_3)
    assert (never.ended, never.lines, never.went_on) == ("never called", [], None)
    assert str(never).endswith("(the app was never called)")


async def test_a_stalled_client_blocks_the_app_until_it_leaves() -> None:
    started = anyio.current_time()
    client = HTTPClient(stalls_after_messages=2, leaves_after_seconds=0.05)
    transcript = await visit(streamer, client)
    assert round(anyio.current_time() - started, 3) >= 0.05, "uvloop counts milliseconds"
    assert transcript.body == b"payload"
    assert transcript.sent == [START, CHUNK, CHUNK], "the blocked one had reached the server"
    assert transcript.lines_until_departure == 3


@pytest.mark.parametrize("leaves_by", ["fin", "rst", "half"])
async def test_it_leaves_in_each_way(leaves_by: Any) -> None:
    transcript = await visit(
        streamer, HTTPClient(leaves_after_messages=1, leaves_by=leaves_by), servers.HYPERCORN_0_18_0
    )
    assert transcript.body == (b"payload" * 4 + b"the end" if leaves_by == "half" else b"")
    assert f"-- the client leaves ({leaves_by}) --" in str(transcript)


# WebSockets


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "headers": [(b"a", b"b")]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"], "bytes": message["bytes"]})


async def test_a_websocket_is_written_down() -> None:
    client = WebSocketClient(
        messages=["one", b"two", "three"], leaves_after_messages=3, leaves_by="close", close_code=1001
    )
    transcript = await visit(echo, client)
    assert transcript.messages == ["one", b"two"]
    assert transcript.lines == [
        "receive: websocket.connect",
        "send websocket.accept: None",
        "receive: websocket.receive 'one'",
        "send websocket.send: None",
        "receive: websocket.receive b'two'",
        "send websocket.send: None",
        "receive: websocket.receive 'three'",
        "send websocket.send: None",
        "receive: websocket.disconnect (1001)",
    ]
    assert (transcript.status, transcript.close_code, transcript.headers) == (None, None, [(b"a", b"b")])
    left = await visit(echo, WebSocketClient(leaves_after_messages=1, leaves_by="rst"), servers.UVICORN_0_13_4_WSPROTO)
    assert left.lines[-1] == "receive: websocket.disconnect (no code)"


async def test_what_became_of_the_handshake_is_written_down() -> None:
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in answer:
            await send(message)

    answer: list[Any] = [{"type": "websocket.close", "code": 4000}]
    transcript = await visit(refusing, WebSocketClient())
    assert (transcript.status, transcript.close_code) == (403, 4000)
    answer = [
        {"type": "websocket.http.response.start", "status": 401, "headers": [(b"a", b"b")]},
        {"type": "websocket.http.response.body", "body": b"who?"},
    ]
    transcript = await visit(refusing, WebSocketClient())
    assert (transcript.status, transcript.body, transcript.headers) == (401, b"who?", [(b"a", b"b")])
    answer = [{"type": "websocket.accept"}, {"type": "websocket.close"}]
    transcript = await visit(refusing, WebSocketClient())
    assert (transcript.status, transcript.close_code) == (None, 1000)
    answer = []
    transcript = await visit(refusing, WebSocketClient(leaves_before_accept=True))
    assert (transcript.status, transcript.ended) == (None, "returned")


# How the app ends


@pytest.mark.parametrize("raises", [True, False])
async def test_an_exception_that_leaves_the_app_is_raised_here_if_asked_for(raises: bool) -> None:
    error = ValueError("a bug")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    if raises:
        with pytest.raises(ValueError) as raised:
            await visit(app, HTTPClient())
        assert raised.value is error
    else:
        transcript = await visit(app, HTTPClient(), raise_app_exceptions=False)
        assert (transcript.raised, transcript.ended) == (error, "raised")
        assert str(transcript).endswith("(the app raised ValueError('a bug'))")


async def test_an_exit_is_raised_in_any_case() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await visit(app, HTTPClient(), raise_app_exceptions=False)


HASTY = dataclasses.replace(
    servers.GUNICORN_27_0_1,
    name="hasty",
    http=dataclasses.replace(servers.GUNICORN_27_0_1.http, cancels_after=0.02),
)


async def test_a_server_cancels_the_app_when_its_time_has_come() -> None:
    story = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            story.append("cleaned up")

    transcript = await visit(app, HTTPClient(leaves_after_messages=0), HASTY)
    assert (transcript.ended, transcript.raised, story) == ("cancelled", None, ["cleaned up"])
    assert transcript.went_on is not None and transcript.went_on > 0.01  # uvloop counts milliseconds


async def test_a_server_cancels_once_and_in_time_however_the_client_left() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
            raise

    transcript = await visit(app, HTTPClient(leaves_after_messages=1), HASTY)
    assert transcript.ended == "cancelled"
    assert transcript.went_on is not None and 0.1 < transcript.went_on < 0.6


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_an_app_that_takes_the_servers_cancellation_back_goes_on(anyio_backend: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)

    assert (await visit(app, HTTPClient(leaves_after_messages=0), HASTY)).ended == "returned"


async def test_a_server_does_not_cancel_what_runs_after_a_complete_response() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)
        await anyio.sleep(0.05)

    transcript = await visit(app, HTTPClient(leaves_after_messages=2), HASTY)
    assert transcript.ended == "returned"


async def test_a_cancelled_call_is_in_the_lines() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with anyio.move_on_after(0.01):
            await receive()

    transcript = await visit(app, HTTPClient())
    assert transcript.lines[-1] == "receive: cancelled"


async def test_an_exception_of_the_servers_receive_is_in_the_lines() -> None:
    transcript = await visit(
        echo, WebSocketClient(leaves_after_messages=1), servers.GRANIAN_1_7_6, raise_app_exceptions=False
    )
    assert transcript.lines[-1] == "receive: raises RuntimeError"


async def test_a_message_that_is_none_is_written_down_as_it_is() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(None)

    transcript = await visit(app, HTTPClient(), raise_app_exceptions=False)
    assert transcript.lines == ["send None: raises TypeError"]
    assert transcript.muted == []


async def test_what_others_deliver_is_written_down_as_it_is() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() is None

    async def odd(scope: Any, receive: Any, send: Any) -> None:
        async def nothing() -> None:
            return None

        await DisconnectMiddleware(app)(scope, nothing, send)

    assert (await visit(odd, HTTPClient())).lines == ["receive: None"]


async def test_an_app_of_the_double_callable_is_visited() -> None:
    class App:
        def __init__(self, scope: Any) -> None:
            self.scope = scope

        async def __call__(self, receive: Any, send: Any) -> None:
            await streamer(self.scope, receive, send)

    assert (await visit(App, HTTPClient())).status == 200


async def test_the_state_of_the_client_stands_in_for_a_lifespan() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["state"] == {"db": "here"}

    await visit(app, HTTPClient(state={"db": "here"}))


async def test_a_visit_that_is_cancelled_ends_the_app() -> None:
    story = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            story.append("ended")

    with anyio.move_on_after(0.02) as scope:
        await visit(app, HTTPClient())
    assert scope.cancelled_caught
    with anyio.fail_after(5):
        while not story:
            await anyio.sleep(0.001)
    assert story == ["ended"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_that_ends_under_the_app_ends_it(anyio_backend: Any) -> None:
    story = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            story.append("ended")

    async def cancelled_visit() -> None:
        with trio.move_on_after(0.01):
            await visit(app, HTTPClient())

    await anyio.to_thread.run_sync(trio.run, cancelled_visit)
    assert story == ["ended"]


async def test_two_visits_at_a_time_do_not_meet() -> None:
    transcripts = []

    async def play(messages: int) -> None:
        transcripts.append(await visit(streamer, HTTPClient(leaves_after_messages=messages)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(play, 1)
        tasks.start_soon(play, 3)
    assert sorted(len(transcript.sent) for transcript in transcripts) == [1, 3]


# A framework


class Chunks:
    """Not a generator, of which trio complains if it is left in the middle, as StreamingResponse leaves it."""

    def __init__(self) -> None:
        self.left = 20

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        self.left -= 1
        if not self.left:
            raise StopAsyncIteration
        return b"chunk"


async def stream(request: Request) -> StreamingResponse:
    return StreamingResponse(Chunks())


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    for _ in range(20):
        await websocket.send_text("hello")
        await anyio.lowlevel.checkpoint()


STARLETTE = Starlette(routes=[Route("/stream", stream), WebSocketRoute("/chat", chat)])


@pytest.mark.parametrize("server", servers.ALL, ids=str)
async def test_a_stream_under_the_middleware_ends_in_order_on_every_server(
    server: Server, anyio_backend: tuple[str, Any]
) -> None:
    if server is servers.GUNICORN_27_0_1 and anyio_backend[0] == "trio":
        return  # it does not run there, and a peek on trio cancels a receive, which it takes for a departure
    transcript = await visit(DisconnectMiddleware(STARLETTE), HTTPClient("/stream", leaves_after_messages=3), server)
    assert (transcript.status, transcript.body, transcript.ended) == (200, b"chunkchunk", "returned")
    assert "raises" not in str(transcript)


@pytest.mark.parametrize("server", [servers.UVICORN_0_28_0, servers.UVICORN_0_28_1, servers.SPEC_RAISING], ids=str)
async def test_a_bare_stream_does_not_end_in_order_on_some(server: Server) -> None:
    transcript = await visit(
        STARLETTE, HTTPClient("/stream", leaves_after_messages=3), server, raise_app_exceptions=False
    )
    if server is servers.UVICORN_0_28_1:
        assert len(transcript.wasted) == 18, "it claims 2.4 and stays silent: nobody stops it"
    else:
        assert type(transcript.raised).__name__ == "ClientDisconnect"


async def test_a_bare_websocket_shows_each_servers_own_exception() -> None:
    words = set()
    for server in servers.ALL:
        transcript: Transcript = await visit(
            STARLETTE,
            WebSocketClient("/chat", leaves_after_messages=2),
            server,
            raise_app_exceptions=False,
            patience=0.5,
        )
        words.add(transcript.lines[-1].partition(" raises ")[2])
    assert words >= {
        "uvicorn.protocols.utils.ClientDisconnected",
        "websockets.exceptions.ConnectionClosedError",
        "gunicorn.asgi.websocket.WebSocketDisconnected",
        "RuntimeError",
        "",
    }


# From synchronous code


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_synchronous_code_visits_in_a_loop_of_its_own(backend: Any) -> None:
    loops = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        import sniffio

        loops.append(sniffio.current_async_library())
        await streamer(scope, receive, send)

    transcript = visit_now(
        app, HTTPClient(leaves_after_messages=1), servers.SPEC_RAISING, backend=backend, raise_app_exceptions=False
    )
    assert loops == [backend]
    assert str(transcript.raised) == "the client has disconnected"
    with pytest.raises(OSError):
        visit_now(app, HTTPClient(leaves_after_messages=1), servers.SPEC_RAISING, backend=backend)


def test_what_an_app_leaves_behind_does_not_hold_up_synchronous_code() -> None:
    tasks = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.ensure_future(stubborn()))
        await asyncio.sleep(0)

    assert visit_now(app, HTTPClient()).ended == "returned"
    assert not tasks[0].done()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_synchronous_visit_does_not_run_inside_an_event_loop(anyio_backend: Any) -> None:
    with pytest.raises(RuntimeError, match="await visit"):
        visit_now(streamer, HTTPClient())


@pytest.mark.parametrize("server", [servers.HYPERCORN_0_18_0_HTTP2, servers.ANYCORN_0_20_1_HTTP2], ids=str)
async def test_a_last_message_that_the_server_blocks_is_woken_by_the_middleware(server: Server) -> None:
    """Which looks for it in the app's task, as under a real server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    transcript = await visit(DisconnectMiddleware(app), HTTPClient(leaves_after_messages=1), server)
    assert (transcript.ended, transcript.wasted) == ("returned", [FINAL])


async def test_an_app_of_the_double_callable_is_visited_too() -> None:
    def app(scope: Any) -> Any:
        async def call(receive: Any, send: Any) -> None:
            await send(START)

        return call

    def with_options(scope: Any, options: Any = None) -> Any:
        return app(scope)

    assert (await visit(app, HTTPClient())).sent == [START]
    assert (await visit(with_options, HTTPClient())).sent == [START]


# What is asked for


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        (("app", HTTPClient()), TypeError, "'app'"),
        ((streamer, "/"), TypeError, r"not '/': pass HTTPClient\('/', leaves_after_messages=1\)"),
        ((streamer, 7), TypeError, "client must be an HTTPClient or a WebSocketClient, not 7$"),
        ((streamer, HTTPClient(), "uvicorn"), TypeError, r"such as disconnect_mw.testing.servers.UVICORN_0_28_0, not"),
        ((lambda: streamer, HTTPClient()), TypeError, r"<lambda>, which takes no arguments: .* pass what it returns"),
        ((lambda environ, start_response: [], HTTPClient()), TypeError, "as a WSGI application does: pass it in an"),
        ((Starlette, HTTPClient()), TypeError, "not the class Starlette: pass the instance"),
    ],
)
async def test_what_is_not_of_its_kind_is_an_error(arguments: Any, error: Any, word: str) -> None:
    with pytest.raises(error, match=word):
        await visit(*arguments)


@pytest.mark.parametrize("patience", [-1, 0, float("nan")])
async def test_patience_is_a_number_of_seconds(patience: float) -> None:
    with pytest.raises(ValueError, match="patience"):
        await visit(streamer, HTTPClient(), patience=patience)


def test_there_are_two_backends() -> None:
    with pytest.raises(ValueError, match="'asyncio' or 'trio', not 'curio'"):
        visit_now(streamer, HTTPClient(), backend="curio")  # type: ignore[arg-type]  # on purpose


def test_nothing_but_the_package_is_imported() -> None:
    program = """
import sys
from disconnect_mw.testing import HTTPClient, visit_now
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
print(visit_now(app, HTTPClient()).status, {"trio", "anyio", "pytest", "uvicorn", "starlette"} & set(sys.modules))
"""
    answer = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30)
    assert (answer.stdout, answer.stderr) == ("204 set()\n", "")


def test_what_was_put_into_the_middleware_before_the_kit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log filter's hook, say."""
    monkeypatch.setattr(_transcript, "_before", lambda scope, receive, send: ("their receive", "their send"))
    assert _transcript._wrap({}, None, None) == ("their receive", "their send")  # type: ignore[arg-type]
