"""P7, P10: where the application does not ask for its client, somebody looks."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trio.testing
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, _backends, _blocked_sends, _timers, _watcher
from disconnect_mw._backends._base import BY_HAND
from disconnect_mw.testing import HTTPClient, HTTPServerBehaviour, HTTPSimulatedServer, servers

from .support.messages import ACCEPT, CHUNK, DISCONNECT, FINAL, REQUEST, START, TEXT
from .support.serving import SECONDS, briefly, checked, turns
from .support.silent_server import http, http_scope, look_soon_at_silent_servers, run, silent, websocket

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    look_soon_at_silent_servers(monkeypatch, __name__)


async def ticks(send: Any, message: Any) -> None:
    """Send until that raises, as a feed does."""
    while True:
        await send(message)
        await anyio.sleep(0.001)


@pytest.mark.parametrize("reads_connect", [True, False])
async def test_a_websocket_app_that_only_sends_stops_on_a_silent_server(reads_connect: bool) -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if reads_connect:
            assert (await receive())["type"] == "websocket.connect"
        await send(ACCEPT)
        far.leave()
        with pytest.raises(ClientDisconnected):
            await ticks(send, TEXT)

    await run(far, app)


async def test_an_http_app_that_only_sends_stops_under_raise_on_a_silent_server() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        far.leave()
        await ticks(send, CHUNK)

    await run(far, app, policy="raise")


async def test_a_disconnect_after_the_end_of_the_body_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a second later: the end of the body is read after the first check, and there is no other in this test."""
    monkeypatch.setattr(_watcher._checks, "seconds", 3600)
    far = http(incoming=[])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.fail_after(5):
            while not (send.__self__.parts.watcher and send.__self__.parts.watcher.has_checked):
                await anyio.sleep(0.001)
        far.deliver({**REQUEST, "more_body": True}, REQUEST)
        while (await receive())["more_body"]:
            pass
        await send(START)
        far.leave()
        with pytest.raises(ClientDisconnected):
            await ticks(send, CHUNK)

    await run(far, app, policy="raise")


async def test_nobody_looks_at_what_is_shorter_than_it_takes_until_the_first_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although it began when others had their turn."""
    monkeypatch.setattr(_watcher.first_checks, "seconds", 0.3)
    reads: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(0.05)

    async def exchange() -> int:
        far = http()
        await run(far, app, policy="cancel")
        return far.reads

    async def short_exchange() -> None:
        reads.append(await briefly(exchange, 0.3))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(short_exchange)
            await anyio.sleep(0.04)
    assert reads == [0] * 10


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # which is not used
async def test_the_time_is_the_event_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's may have its own: that of the machine stands still."""
    for batch, seconds in ((_watcher.first_checks, 0.05), (_watcher._checks, 1)):
        monkeypatch.setattr(batch, "seconds", seconds)
    seen: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await trio.sleep(600)
        finally:
            seen.append(trio.current_time())

    async def main() -> None:
        far = http()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                functools.partial(DisconnectMiddleware(app, policy="cancel"), far.scope(), far.receive, far.send)
            )
            await trio.sleep(10)
            far.leave()
        assert seen[0] - began < 20

    def run_trio() -> None:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    await anyio.to_thread.run_sync(run_trio)


async def test_what_was_read_ahead_is_delivered_in_order() -> None:
    far = websocket(messages=("first", "second", "third"))
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await checked()
        reads = far.reads
        await checked()
        assert far.reads == reads == 2, "the handshake and one message ahead"
        while (message := await receive())["type"] != "websocket.disconnect":
            seen.append(message.get("text"))
            if message.get("text") == "third":
                far.leave()

    await run(far, app)
    assert seen == [None, "first", "second", "third"]


async def test_nothing_of_a_body_is_read_that_the_app_has_not_asked_for() -> None:
    far = http(client=HTTPClient(headers=[(b"transfer-encoding", b"chunked")], body=[b"a", b"b", b"c"]))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await checked()
        assert far.reads == 0
        await receive()
        await checked()
        assert far.reads == 1
        await receive()
        await receive()
        await checked()
        assert far.reads == 4, "only the disconnect can still come"

    await run(far, app, policy="raise")


@pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})])
@pytest.mark.parametrize("behind", [False, True])
async def test_an_app_that_answers_without_having_read_an_upload_stops(behind: bool) -> None:
    """One message of the body is looked at: Starlette's stream, which does not listen at 2.4, would be one for ever."""
    far = http(client=HTTPClient(headers=[(b"content-length", b"1")], body=[b"a"]))

    async def generate() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x"
            await anyio.sleep(0.001)
            if len(far.sent) > 3:
                far.leave()

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        async with contextlib.aclosing(generate()) as chunks:
            await StreamingResponse(chunks)(scope, receive, send)

    app: Any = DisconnectMiddleware(stream, policy="raise")
    if behind:
        app = BaseHTTPMiddleware(app, dispatch=pass_on)
    with anyio.fail_after(5):
        await app(far.scope(), far.receive, far.send)


async def test_a_receive_that_always_has_the_request_to_give_is_not_read_for_ever() -> None:
    """As a test's own stand-in for a server may."""
    reads = 0

    async def receive() -> Any:
        nonlocal reads
        reads += 1
        return dict(REQUEST)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await checked()

    await DisconnectMiddleware(app, policy="raise")(http_scope(), receive, HTTPSimulatedServer().send)
    assert reads == 2


async def test_an_app_that_reads_is_left_alone_and_is_looked_at_again_later() -> None:
    far = websocket(messages=("first",))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await checked()
            assert far.reads == 3, "it reads by itself"
            assert send.__self__.reader is None, "and by the shortest way"
            tasks.cancel_scope.cancel()
        far.leave()
        with pytest.raises(ClientDisconnected):
            await ticks(send, TEXT)

    await run(far, app)


async def test_a_request_that_ends_soon_is_never_looked_at() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    async def exchange() -> Any:
        far = http(client=HTTPClient())
        await run(far, app, policy="raise")
        return far

    far = await briefly(exchange, _watcher.first_checks.seconds)
    await checked()
    assert far.reads == 0


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_a_timer_calls_with_a_few_things_in_one_turn() -> None:
    """Not with what is removed before its turn, and with all of the others where one call fails."""
    called: list[tuple[int, list[str]]] = []
    turn = 0

    def callback(things: dict[str, int], backend: Any, token: Any) -> None:
        called.append((turn, [*things]))
        if len(called) == 1:
            unseen.pop("e")
            raise ValueError

    timer: _timers.SharedTimer[str] = _timers.SharedTimer(0.001, callback, a_turn=2)
    backend, token = _backends.current()
    for name in "abcdefg":
        unseen = timer.add(name, backend, token)
    while sum(len(names) for _, names in called) < 6:
        await anyio.sleep(0)
        turn += 1
    assert [names for _, names in called] == [["a", "b"], ["c", "d"], ["f", "g"]]
    assert len({number for number, _ in called}) == 3


async def test_what_others_do_in_receive_has_the_context_of_the_exchange() -> None:
    far = websocket()
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")
    found: list[str] = []

    async def outer_receive() -> Any:
        found.append(variable.get())
        return await far.receive()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await checked()

    variable.set("mine")
    await DisconnectMiddleware(app)(far.scope(), outer_receive, far.send)
    assert set(found) == {"mine"}


async def test_a_websocket_is_not_read_for_before_it_is_accepted() -> None:
    """granian 1.7.6 would give `websocket.connect` again and again."""
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await checked()
        assert far.reads == 0

    await run(far, app)


async def test_what_a_websocket_app_sends_under_ignore_reaches_the_server_no_longer_either() -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        far.leave()
        await checked()
        await send(TEXT)

    await run(far, app, websocket_policy="mute")
    assert TEXT not in far.sent


async def test_a_receive_gets_what_is_read_for_nobody_while_that_goes_on() -> None:
    far = http(HTTPServerBehaviour(), incoming=[])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await checked()
        assert far.reads == 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(far.deliver_soon, REQUEST)
            assert await receive() == REQUEST
        assert far.reads == 2, "only the disconnect can still come"

    await run(far, app, policy="raise")


@pytest.mark.parametrize("reads", ["by itself", "by a look"])
async def test_a_receive_that_raises_in_place_of_the_disconnect_delivers_it(reads: str) -> None:
    """granian 1.7.6."""
    far = websocket(servers.GRANIAN_1_7_6)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        far.leave()
        if reads == "by a look":
            await checked()
        for _ in range(3):
            assert await receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        assert far.reads == 2, "it is not asked again"

    await run(far, app)


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
async def test_a_peek_finds_what_a_task_has_read_where_a_cancelled_scope_gets_nothing(order: str) -> None:
    """As from trio's channels, and so from Hypercorn's receive: Starlette's is_disconnected() was False for ever."""
    is_gone = anyio.Event()
    there = [dict(REQUEST)]

    async def from_a_channel() -> Any:
        await anyio.lowlevel.checkpoint()
        if there:
            return there.pop()
        await is_gone.wait()
        return dict(DISCONNECT)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if order == "theirs first":
            await receive()
        seen: list[Any] = []
        for number in range(8):
            if number == 4:
                is_gone.set()
            with anyio.CancelScope() as peek:
                peek.cancel()
                seen.append(await receive())
            await anyio.sleep(0.001)
        assert seen[-1] == DISCONNECT

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), from_a_channel, HTTPSimulatedServer().send)


async def test_a_peek_right_after_the_departure_sees_it_if_one_came_before() -> None:
    """On trio the task that the first has started gets its turn first."""
    is_gone = anyio.Event()
    there = [dict(REQUEST)]

    async def waiting_receive() -> Any:
        if there:
            return there.pop()
        await is_gone.wait()
        return dict(DISCONNECT)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen: list[Any] = []
        for _ in range(2):
            with anyio.CancelScope() as peek:
                peek.cancel()
                seen.append(await receive())
            await anyio.lowlevel.checkpoint()
            is_gone.set()
            await anyio.lowlevel.checkpoint()
        assert seen == [DISCONNECT]

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), waiting_receive, HTTPSimulatedServer().send)


async def test_an_app_that_asks_for_ever_does_not_starve_the_loop() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        with anyio.move_on_after(0.02) as asking:
            while True:
                await receive()
        assert asking.cancelled_caught

    await run(far, app)


async def departed() -> weakref.ref[Any]:
    """A simulated server whose exchange is over."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await receive()
        assert await receive() == DISCONNECT

    await DisconnectMiddleware(app)(far.scope(), far.receive, far.send)
    return weakref.ref(far)


async def test_nothing_of_a_departure_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocked_sends.blocked, "seconds", 1)
    left = await departed()
    gc.collect()
    assert left() is None


async def test_the_timer_keeps_no_context_alive() -> None:
    class Thing:
        pass

    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    thing = Thing()
    token = variable.set(thing)
    far = websocket()
    await DisconnectMiddleware(silent)(far.scope(), far.receive, far.send)
    variable.reset(token)
    left = weakref.ref(thing)
    del thing, token
    gc.collect()
    assert left() is None


async def test_nothing_that_was_watched_is_left_behind() -> None:
    class Scope(dict):  # type: ignore[type-arg]  # a dict that can be referred to weakly
        pass

    far = websocket()
    scope = Scope(far.scope())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await checked()

    await DisconnectMiddleware(app)(scope, far.receive, far.send)
    left = weakref.ref(scope)
    del scope
    await checked()
    gc.collect()
    assert left() is None


async def test_a_scope_that_is_none_keeps_nobody_from_looking_at_others(caplog: pytest.LogCaptureFixture) -> None:
    far, other = http(), http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        far.leave()
        await ticks(send, CHUNK)

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await checked()

    async def bad() -> None:
        await DisconnectMiddleware(waits, policy="raise")({**other.scope(), "headers": 7}, other.receive, other.send)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bad)
        await anyio.sleep(0)
        await run(far, app, policy="raise")
    assert any(text.startswith("an exchange could not be checked: please report this") for text in caplog.messages)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_an_exchange_that_was_watched_is_no_cycle() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await checked()

    far = websocket()
    gc.collect()
    gc.disable()
    try:
        await DisconnectMiddleware(app)(far.scope(), far.receive, far.send)
        await turns()  # the reader's task ends
        left = weakref.ref(far)
        del far
        assert left() is None
    finally:
        gc.enable()


def test_an_event_loop_that_is_closed_in_the_middle_is_not_kept() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    def begin() -> weakref.ref[Any]:
        loop = asyncio.new_event_loop()
        far = websocket()
        task = loop.create_task(DisconnectMiddleware(app)(far.scope(), far.receive, far.send))
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that it is destroyed is the point
        loop.close()
        return weakref.ref(loop)

    left = begin()
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_a_receive_in_time_loses_nothing_of_what_others_take_before_they_wait() -> None:
    """On trio, where a peek reads in a cancelled scope: who is not cancelled is no peek."""
    there = [{"type": "websocket.connect"}]
    is_there = anyio.Event()

    async def outer_receive() -> Any:
        if not there:
            await is_there.wait()
        message = there.pop(0)
        await anyio.lowlevel.checkpoint()
        return message

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with anyio.move_on_after(0.001):
            await receive()
        there.extend({"type": "websocket.receive", "text": str(number)} for number in range(3))
        is_there.set()
        seen: list[str] = []
        with anyio.fail_after(SECONDS):
            while len(seen) < 3:
                seen.append((await receive())["text"])
        assert seen == ["0", "1", "2"]

    await DisconnectMiddleware(app)({"type": "websocket", "asgi": {}}, outer_receive, websocket().send)


def test_a_watcher_that_is_closed_checks_no_more() -> None:
    """A timer may still hold it."""

    def check(context: contextvars.Context) -> None:
        raise NotImplementedError

    watcher = _watcher.Watcher(check, contextvars.copy_context())
    watcher.close()
    watcher.check()
    watcher.check_again(BY_HAND, None)
