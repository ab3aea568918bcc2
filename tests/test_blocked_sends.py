"""P10: no send stays blocked when the client has left, and only a server that blocks is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections import Counter
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, _blocked_sends, _watcher

from .support.apps import leaves_generators, through
from .support.messages import ACCEPT, CHUNK, DISCONNECT, FINAL, REQUEST, START
from .support.serving import on_asyncio
from .support.silent_server import http, http_scope, look_soon_at_silent_servers, run, silent, websocket

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    look_soon_at_silent_servers(monkeypatch, __name__)


class Blocking:
    """A server whose `send` of a body or a text never comes back, once it has said so."""

    def __init__(self) -> None:
        self.is_blocked = anyio.Event()
        self.is_gone = anyio.Event()
        self._has_begun = False

    async def receive(self) -> Any:
        if not self._has_begun:
            self._has_begun = True
            return dict(REQUEST)
        await self.is_gone.wait()
        return dict(DISCONNECT)

    async def send(self, message: Any) -> None:
        if message.get("body"):
            self.is_blocked.set()
            await anyio.sleep_forever()


async def told(receive: Any, server: Blocking) -> None:
    """Wait for the disconnect, once a send is blocked."""
    await server.is_blocked.wait()
    server.is_gone.set()
    assert await receive() == DISCONNECT


@pytest.mark.parametrize("policy", ["mute", "raise"])
@pytest.mark.parametrize("listens", ["before", "after"])
async def test_a_send_that_is_blocked_wakes_when_the_disconnect_is_known(listens: str, policy: Any) -> None:
    server = Blocking()
    outcomes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)

        async def stream() -> None:
            for _ in range(2):
                try:
                    outcomes.append(await send(CHUNK))
                except ClientDisconnected as exception:
                    outcomes.append(exception)

        async with anyio.create_task_group() as tasks:
            if listens == "before":
                tasks.start_soon(told, receive, server)
                await anyio.sleep(0)
            tasks.start_soon(stream)
            if listens == "after":
                await server.is_blocked.wait()
                tasks.start_soon(told, receive, server)
        await anyio.sleep(0)  # no cancellation is left behind

    with anyio.fail_after(5):
        await DisconnectMiddleware(app, policy=policy)(http_scope("2"), server.receive, server.send)
    if policy == "mute":
        assert outcomes == [None, None]
    else:
        assert [type(outcome) for outcome in outcomes] == [ClientDisconnected] * 2
        assert [outcome.__cause__ for outcome in outcomes] == [None] * 2


def test_where_no_such_server_is_loaded_none_can_block(monkeypatch: pytest.MonkeyPatch) -> None:
    for modules, can_block in ((("not.loaded",), False), (("not.loaded", "asyncio"), True)):
        monkeypatch.setattr(_blocked_sends, "BLOCKING", modules)
        monkeypatch.setattr(_blocked_sends, "_modules", (0, False))
        assert _blocked_sends.can_block() is can_block


async def through_a_generator(send: Any) -> AsyncGenerator[None, None]:
    await send(CHUNK)
    yield


async def test_a_send_is_found_wherever_the_tasks_wait_for_it() -> None:
    """In an async generator, say, of which nothing that the task awaits tells."""
    server = Blocking()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told, receive, server)
            async with contextlib.aclosing(through_a_generator(send)) as steps:
                async for _ in steps:
                    pass

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope("2"), server.receive, server.send)


@leaves_generators
async def test_a_send_through_middleware_that_only_hands_on_wakes_too() -> None:
    """BaseHTTPMiddleware: the send waits for a task of that middleware, which the server blocks."""
    server = Blocking()
    outcomes: list[Any] = []
    is_back = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told, receive, server)
            outcomes.extend([await send(CHUNK), await send(CHUNK)])
        is_back.set()

    handing_on = BaseHTTPMiddleware(DisconnectMiddleware(app), through)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handing_on, http_scope("2"), server.receive, server.send)
            await is_back.wait()
            tasks.cancel_scope.cancel()  # what is outside of the install stays blocked
    assert outcomes == [None, None]


@pytest.mark.parametrize("policy", ["mute", "raise"])
async def test_a_last_message_that_is_blocked_over_http_2_comes_back(policy: Any) -> None:
    """Hypercorn, once the connection is lost: nobody asks, and without a look the app would wait for ever."""
    server = Blocking()
    server.is_gone.set()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await send(START)
        await send(FINAL)
        return "done"

    with anyio.fail_after(5):
        run = DisconnectMiddleware(app, policy=policy)(http_scope("2"), server.receive, server.send)
        assert await run == "done"


async def test_a_send_that_is_muted_is_no_send_that_is_blocked() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        assert await receive() == DISCONNECT
        with anyio.move_on_after(0.05):
            while True:
                await send(CHUNK)

    await run(far, app)


async def test_a_send_that_the_server_wakes_itself_is_not_cut_short() -> None:
    server = Blocking()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        if message.get("body"):
            server.is_blocked.set()
            await server.is_gone.wait()
            await anyio.sleep(0)
            sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told, receive, server)
            tasks.start_soon(send, CHUNK)
        await anyio.sleep(0.05)

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope("2"), server.receive, send)
    assert sent == [CHUNK]


async def test_a_cancellation_from_outside_passes_through_a_blocked_send() -> None:
    """P6, also in the turn in which the send is woken."""
    server = Blocking()
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)

        async def stream(scope: anyio.CancelScope) -> None:
            with scope:
                await send(CHUNK)
                passed.append("came back")

        async with anyio.create_task_group() as tasks:
            cancelled = anyio.CancelScope()
            tasks.start_soon(stream, cancelled)
            await server.is_blocked.wait()
            tasks.start_soon(told, receive, server)
            await anyio.sleep(0)
            cancelled.cancel()

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope("2"), server.receive, server.send)
    assert passed == []


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
@pytest.mark.parametrize("order", ["ours first", "theirs first"])
async def test_a_cancellation_in_the_very_turn_of_ours_passes(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Blocking()
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)

        async def stream() -> None:
            await send(CHUNK)
            ended.append("came back")

        bystander = asyncio.ensure_future(send(CHUNK))
        task = asyncio.ensure_future(stream())
        await server.is_blocked.wait()
        wake = _blocked_sends.blocked._callback

        def both(connections: Any, backend: Any, token: Any) -> None:
            if order == "theirs first":
                task.cancel()
            wake(connections, backend, token)
            if order == "ours first":
                task.cancel()

        monkeypatch.setattr(_blocked_sends.blocked, "_callback", both)
        await told(receive, server)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await bystander is None

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope("2"), server.receive, server.send)
    assert ended == []


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_what_others_do_in_their_send_is_never_cut_short(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A middleware outside that saves its session, say: only a server's own code is interrupted."""
    monkeypatch.setattr(_blocked_sends, "BLOCKING", tuple(name for name in _blocked_sends.BLOCKING if name != __name__))
    far = http()
    saved: list[str] = []

    async def outer_send(message: Any) -> None:
        await far.send(message)
        far.leave()
        await anyio.sleep(0.05)
        saved.append(message["type"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await send(START)

    scope = {**far.scope(), "http_version": version}
    await DisconnectMiddleware(app)(scope, far.receive, outer_send)
    assert "http.response.start" in saved


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
@pytest.mark.parametrize("ends", ["with a send", "at once"])
async def test_an_interruption_that_was_swallowed_leaves_no_count_behind(ends: str) -> None:
    server = Blocking()

    async def swallowing_send(message: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await server.send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        asking = asyncio.ensure_future(told(receive, server))
        await send(CHUNK)
        await asking
        if ends == "with a send":
            await send(CHUNK)
            assert_nothing_is_left()

    def assert_nothing_is_left() -> None:
        task: Any = asyncio.current_task()
        assert task.cancelling() == 0

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope("2"), server.receive, swallowing_send)
    assert_nothing_is_left()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_a_wake_that_was_swallowed_keeps_nothing_alive() -> None:
    async def exchange() -> weakref.ref[Any]:
        server = Blocking()

        async def swallowing_send(message: Any) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await server.send(message)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(START)
            asking = asyncio.ensure_future(told(receive, server))
            await send(CHUNK)
            await asking

        with anyio.fail_after(5):
            await DisconnectMiddleware(app)(http_scope("2"), server.receive, swallowing_send)
        return weakref.ref(server)

    left = await exchange()
    await asyncio.sleep(0)
    gc.collect()
    assert left() is None


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
@pytest.mark.parametrize("meets", ["ours", "nothing"])
async def test_a_cancellation_from_outside_still_counts_when_the_clean_up_has_sent(
    meets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's own time-outs and task groups tell by `Task.cancelling` which cancellation is theirs (P6)."""
    server = Blocking()
    counts: list[int] = []

    async def send_to_server(message: Any) -> None:
        with contextlib.suppress(*[] if meets == "ours" else [asyncio.CancelledError]):
            await server.send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)

        async def stream() -> None:
            try:
                await send(CHUNK)
                await send(CHUNK)  # takes back what was swallowed
                await asyncio.sleep(5)
            finally:
                await send(CHUNK)
                task: Any = asyncio.current_task()
                counts.append(task.cancelling())

        task = asyncio.ensure_future(stream())
        await server.is_blocked.wait()
        wake = _blocked_sends.blocked._callback
        is_woken = asyncio.Event()

        def both(connections: Any, backend: Any, token: Any) -> None:
            wake(connections, backend, token)
            is_woken.set()
            if meets == "ours":
                task.cancel()

        monkeypatch.setattr(_blocked_sends.blocked, "_callback", both)
        await told(receive, server)
        await is_woken.wait()
        if meets == "nothing":
            await anyio.wait_all_tasks_blocked()
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope("2"), server.receive, send_to_server)
    assert counts == [1]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_an_interruption_that_is_swallowed_is_nobody_elses() -> None:
    server, may_end = Blocking(), asyncio.Event()

    async def stubborn_send(message: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await server.send(message)
        if message.get("body"):
            await may_end.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        sending = asyncio.ensure_future(send(CHUNK))
        await told(receive, server)
        await asyncio.sleep(0.05)
        assert await send(CHUNK) is None
        may_end.set()
        assert await sending is None

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope("2"), server.receive, stubborn_send)


async def test_a_send_that_waits_in_nobodys_code_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bare queue, say, as a test has it: somebody may still empty that."""
    with_room = anyio.create_memory_object_stream[Any](1)
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(empty_late, with_room[1])
            tasks.start_soon(leave_soon, receive)
            await send(START)
            await send(CHUNK)

    async def leave_soon(receive: Any) -> None:
        await anyio.sleep(0.01)
        far.leave()
        await receive()

    async def empty_late(stream: Any) -> None:
        await anyio.sleep(0.05)
        async with stream:
            seen.extend([await stream.receive(), await stream.receive()])

    seen: list[Any] = []
    async with with_room[0]:
        await DisconnectMiddleware(app)(far.scope(), far.receive, with_room[0].send)
    assert seen == [START, CHUNK]


async def test_a_watcher_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(things: Any, backend: Any, token: Any) -> None:
        raise ValueError("a bug of the watcher's")

    monkeypatch.setattr(_watcher.first_checks, "_callback", fail)
    far = websocket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(DisconnectMiddleware(silent), far.scope(), far.receive, far.send)
        with anyio.fail_after(5):
            while not any("a timer of disconnect_mw failed: please report this" in text for text in caplog.messages):
                await anyio.sleep(0.001)


async def test_nobody_reads_any_more_when_the_apps_own_close_goes_out() -> None:
    """granian's send waits as long as anybody is in its receive."""
    far = websocket()
    reading: list[bool] = []

    async def receive() -> Any:
        reading.append(True)
        try:
            return await far.receive()
        finally:
            reading.append(False)

    async def send(message: Any) -> None:
        if message["type"] == "websocket.close":
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            assert not reading[-1], "it has been looked at, and that is over"
        await far.send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        with anyio.fail_after(5):
            while reading != [True, False, True]:  # the connect, and then it waits
                await anyio.sleep(0.005)
        await send({"type": "websocket.close"})

    await DisconnectMiddleware(app)(far.scope(), receive, send)
    assert reading == [True, False, True, False]


@on_asyncio
@pytest.mark.parametrize("policy", ["mute", "cancel", "raise"])
async def test_no_departure_looks_at_all_tasks(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: whatever server is loaded, and whether the send is blocked or not."""

    def all_tasks() -> Any:
        raise AssertionError("all tasks were looked at")

    monkeypatch.setattr(asyncio, "all_tasks", all_tasks)
    server = Blocking()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        listening = asyncio.create_task(told(receive, server))
        with contextlib.suppress(ClientDisconnected):
            await send(CHUNK)
        await listening
        await anyio.sleep(2 * _blocked_sends.blocked.seconds)

    with anyio.fail_after(5):
        await DisconnectMiddleware(app, policy=policy)(http_scope("2"), server.receive, server.send)


@on_asyncio
async def test_thousands_of_blocked_sends_are_woken_a_few_in_each_turn() -> None:
    """P9: when a proxy is lost, all the streams of its connections are."""
    count = 3 * _blocked_sends._SENDERS_A_TURN
    woken: list[int] = []
    servers = [Blocking() for _ in range(count)]
    turn = 0
    loop = asyncio.get_running_loop()

    def count_turns() -> None:
        nonlocal turn
        turn += 1
        if len(woken) < count:
            loop.call_soon(count_turns)

    async def play(server: Blocking) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(START)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await send(CHUNK)
                woken.append(turn)

        await DisconnectMiddleware(app)(http_scope("2"), server.receive, server.send)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(play, server)
            for server in servers:
                await server.is_blocked.wait()
            count_turns()
            for server in servers:
                server.is_gone.set()
    assert max(Counter(woken).values()) <= _blocked_sends._SENDERS_A_TURN


def test_a_send_that_has_ended_meanwhile_is_not_woken() -> None:
    ended: Any = SimpleNamespace(scope=None)
    _blocked_sends._wake_blocked([ended], None, None)  # type: ignore[arg-type]  # nothing is asked of it


def test_a_send_that_waits_in_nobodys_code_is_not_blocked_by_a_server() -> None:
    assert not _blocked_sends._is_blocked([])
