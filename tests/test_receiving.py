"""P2 and the receiving half of P0, P1: one reader at a time, nothing lost, the disconnect latched."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.requests import Request

from disconnect_mw import DisconnectMiddleware, _watcher, connection
from disconnect_mw._backends import _asyncio
from disconnect_mw._frames import chain

from .support.messages import ACCEPT, CLOSE, DISCONNECT, FINAL, REQUEST, START, http_scope
from .support.simulated_server import GUNICORN, HYPERCORN, UVICORN_0_28_0, ServerBehaviour, SimulatedServer, websocket

pytestmark = pytest.mark.anyio

# On trio a peek asks the server itself, from the cancelled scope that it comes from, as it does without us.
on_asyncio = pytest.mark.parametrize("anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})])

FIRST = {"type": "http.request", "body": b"first", "more_body": True}
LAST = {"type": "http.request", "body": b"last", "more_body": False}


async def run(server: SimulatedServer, app: Callable[[Any, Any, Any], Awaitable[Any]], **options: Any) -> Any:
    with anyio.fail_after(5):
        return await DisconnectMiddleware(app, **options)(http_scope(), server.receive, server.send)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class Listeners:
    """Tasks that each await one receive()."""

    def __init__(self, tasks: anyio.abc.TaskGroup, receive: Any, count: int) -> None:
        self.answers: list[Any] = []
        self.scopes = [anyio.CancelScope() for _ in range(count)]

        async def listen(scope: anyio.CancelScope) -> None:
            with scope:
                self.answers.append(await receive())

        for scope in self.scopes:
            tasks.start_soon(listen, scope)


@pytest.mark.parametrize("incoming", [[REQUEST], [FIRST]], ids=["after the body", "during the upload"])
async def test_every_waiting_task_wakes_although_the_server_tells_only_once(incoming: list[Any]) -> None:
    server = SimulatedServer(HYPERCORN, list(incoming))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as tasks:
            listeners = Listeners(tasks, receive, 3)
            await turns()
            server.leave()
        assert listeners.answers == [DISCONNECT] * 3
        assert [await receive() for _ in range(3)] == [DISCONNECT] * 3

    await run(server, app)


@pytest.mark.parametrize("incoming", [[], [FIRST], [REQUEST]], ids=["unread", "during the upload", "after the body"])
async def test_a_receive_that_waits_learns_of_a_send_that_failed(incoming: list[Any]) -> None:
    """The server itself never tells it."""
    server = SimulatedServer(UVICORN_0_28_0, list(incoming))

    async def deaf() -> Any:
        server.has_left = False
        return await server.receive()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(len(incoming)):
            await receive()
        async with anyio.create_task_group() as tasks:
            listeners = Listeners(tasks, receive, 2)
            await turns()
            server.has_left = True
            await send(START)
        assert listeners.answers == [DISCONNECT] * 2

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), deaf, server.send)


async def test_an_interrupted_task_can_be_cancelled_and_timed_as_before() -> None:
    """The interruption leaves no cancellation behind in the task."""
    server = SimulatedServer(UVICORN_0_28_0, [])

    async def deaf() -> Any:
        await anyio.sleep_forever()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            assert await receive() == DISCONNECT
            await turns()
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
            seen.append("listened")

        seen: list[str] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await turns()
            server.has_left = True
            await send(START)
        assert seen == ["listened"]

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), deaf, server.send)


@on_asyncio
async def test_two_sends_that_fail_at_once_wake_a_waiting_receive_once() -> None:
    """And a server whose receive swallows that, as gunicorn's once did, changes nothing."""
    failing = anyio.Event()

    async def swallowing() -> Any:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            return FIRST

    async def send(message: Any) -> None:
        await failing.wait()
        raise ConnectionResetError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            listeners = Listeners(tasks, receive, 1)
            await turns()
            for _ in range(2):
                tasks.start_soon(send, START)
            await turns()
            failing.set()
        assert listeners.answers == [DISCONNECT]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), swallowing, send)


async def test_a_websocket_that_polls_without_waiting_gets_every_message() -> None:
    server = SimulatedServer(incoming=[])
    messages = [{"type": "websocket.receive", "text": str(number)} for number in range(5)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got = []
        for message in messages:
            with anyio.move_on_after(0):
                got.append(await receive())
            server.deliver(message)
            await turns()
        for _ in range(5):
            with anyio.move_on_after(0):
                got.append(await receive())
        assert got == messages

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)({**http_scope(), "type": "websocket"}, server.receive, server.send)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_survived_a_cancellation_is_not_cancelled_for_ours() -> None:
    """Nor is it woken: its cancellation and ours could not be told apart."""
    server = SimulatedServer(UVICORN_0_28_0, [])

    async def deaf() -> Any:
        await asyncio.Event().wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> Any:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            return await receive()

        listener = asyncio.create_task(listen())
        await turns()
        listener.cancel()
        await turns()
        server.has_left = True
        await send(START)
        await turns()
        assert not listener.done()
        listener.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listener

    await DisconnectMiddleware(app)(http_scope(), deaf, server.send)


@on_asyncio
async def test_a_cancellation_that_meets_the_interruption_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever turn of the loop it comes in: before, in the same one, after."""
    monkeypatch.setattr(_asyncio, "_SECONDS_BETWEEN_SEARCHES", 0)
    met: list[int] = []

    async def deaf() -> Any:
        await asyncio.Event().wait()

    async def failing(message: Any) -> None:
        raise ConnectionResetError

    for delay in range(20):

        async def app(scope: Any, receive: Any, send: Any) -> None:
            listener = asyncio.create_task(receive())
            await asyncio.sleep(0)
            sending = asyncio.create_task(send(START))
            for _ in range(delay):
                await asyncio.sleep(0)
            if listener.cancel():
                met.append(delay)
                with pytest.raises(asyncio.CancelledError):
                    await listener
            else:
                assert await listener == DISCONNECT
            await sending

        with anyio.fail_after(5):
            await DisconnectMiddleware(app)(http_scope(), deaf, failing)
    assert met == list(range(len(met)))
    assert 0 < len(met) < 20


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_cancelled_reader_hands_over_and_no_message_is_lost(cancelled: int) -> None:
    server = SimulatedServer(incoming=[])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            listeners = Listeners(tasks, receive, 3)
            await turns()
            listeners.scopes[cancelled].cancel()
            await turns()
            server.deliver(FIRST, LAST)
        assert listeners.answers == [FIRST, LAST]

    await run(server, app)


async def test_only_one_task_at_a_time_is_at_the_server() -> None:
    server = SimulatedServer(incoming=[])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            Listeners(tasks, receive, 5)
            await turns()
            assert server.reads == 1
            server.leave()

    await run(server, app)


async def test_a_read_that_times_out_loses_no_message() -> None:
    server = SimulatedServer(incoming=[])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            with anyio.move_on_after(0):
                await receive()
        server.deliver(FIRST, FIRST, LAST)
        assert [await receive(), await receive(), await receive()] == [FIRST, FIRST, LAST]
        with anyio.move_on_after(0) as scope:
            await receive()
        assert scope.cancelled_caught

    await run(server, app)


@on_asyncio
async def test_what_came_for_a_peek_is_kept_for_the_reader() -> None:
    """Starlette's is_disconnected() drops what it finds, so it must not find what a bare receive would not give it."""
    server = SimulatedServer(incoming=[])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        for _ in range(2):
            assert not await request.is_disconnected()
        server.deliver({**FIRST, "more_body": False})
        await turns()
        assert not await request.is_disconnected()
        assert await request.body() == b"first"

    await run(server, app)


@pytest.mark.parametrize("behaviour", [HYPERCORN, UVICORN_0_28_0])
async def test_a_departure_that_the_server_knows_is_seen_by_the_first_peek(behaviour: ServerBehaviour) -> None:
    server = SimulatedServer(behaviour)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        server.leave()
        assert [await request.is_disconnected() for _ in range(2)] == [True, True]

    await run(server, app)


async def test_polling_sees_the_departure() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        assert [await request.is_disconnected() for _ in range(5)] == [False] * 5
        server.leave()
        await turns()
        assert await request.is_disconnected()

    await run(server, app)


async def test_a_known_disconnect_is_answered_without_suspending() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        assert await receive() == DISCONNECT
        for _ in range(3):
            with pytest.raises(StopIteration) as stop:
                receive().send(None)
            assert stop.value.value == DISCONNECT

    await run(server, app)


async def test_what_the_app_does_to_its_disconnect_message_does_not_matter() -> None:
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        server.leave()
        for _ in range(3):
            (await receive())["type"] = "changed"
        assert await receive() == DISCONNECT

    await run(server, app)


class Reads:
    """The server's `receive`, and which task made each read: "app" or "ours"."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._task = anyio.get_current_task()
        self.by: list[str] = []
        self.waiting = 0

    async def receive(self) -> Any:
        self.by.append("app" if anyio.get_current_task() == self._task else "ours")
        self.waiting += 1
        try:
            return await self._server.receive()
        finally:
            self.waiting -= 1


async def test_the_apps_own_task_reads_the_body_although_the_watcher_checks(soon: None) -> None:
    """What outer middleware does in its `receive` runs in the task of the app, as bare."""
    server = SimulatedServer(incoming=[])
    reads = Reads(server)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.fail_after(5):
            while not (send.__self__.parts.watcher and send.__self__.parts.watcher.has_checked):
                await anyio.sleep(0.001)
        server.deliver(FIRST, FIRST, LAST)
        assert [await receive() for _ in range(3)] == [FIRST, FIRST, LAST]
        assert reads.by[:3] == ["app"] * 3

    scope = {**http_scope(), "headers": [(b"transfer-encoding", b"chunked")]}
    await DisconnectMiddleware(app, policy="raise")(scope, reads.receive, server.send)


async def test_a_task_of_ours_reads_where_a_cancellation_would_reach_the_server() -> None:
    """After a cancelled read until the next message, and after the body."""
    server = SimulatedServer(GUNICORN, [])
    reads = Reads(server)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def cancelled() -> None:
            with anyio.move_on_after(0.001) as scope:
                await receive()
            assert scope.cancelled_caught

        await cancelled()
        await cancelled()
        server.deliver(FIRST)
        assert await receive() == FIRST
        server.deliver(LAST)
        assert await receive() == LAST
        await cancelled()
        assert reads.by == ["app", "ours", "app", "ours"]
        assert server.cancelled_reads == 1

    await DisconnectMiddleware(app)(http_scope(), reads.receive, server.send)


async def test_the_apps_own_task_reads_a_websocket_again_once_a_message_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_watcher.first_checks, "seconds", 3600)
    server = websocket(messages=[])
    reads = Reads(server)
    message = {"type": "websocket.receive", "text": "tick"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        with anyio.move_on_after(0.001):
            await receive()
        server.deliver(message, message)
        assert [await receive(), await receive()] == [message, message]
        assert reads.by == ["app", "app", "ours", "app"]

    await DisconnectMiddleware(app)(server.scope(), reads.receive, server.send)


async def test_the_apps_own_task_reads_after_its_close(soon: None) -> None:
    """And the read of ours that the close has ended is no failure of that one."""
    server = websocket(messages=[])
    reads = Reads(server)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        with anyio.fail_after(5):
            while reads.by != ["app", "ours"]:
                await anyio.sleep(0.001)
        await send(CLOSE)
        await turns()
        assert (await receive())["type"] == "websocket.disconnect"
        assert reads.by == ["app", "ours", "app"]

    await DisconnectMiddleware(app)(server.scope(), reads.receive, server.send)


async def test_a_read_that_the_apps_close_has_ended_lets_no_second_one_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watcher.first_checks, "seconds", 3600)
    server = websocket(messages=[])
    reads = Reads(server)

    async def silent() -> Any:
        await anyio.sleep_forever()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        server.receive = silent  # type: ignore[method-assign]  # even after the close
        for _ in range(2):
            with anyio.move_on_after(0.001):
                await receive()
        assert reads.by == ["app", "app", "ours"]
        await send(CLOSE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await turns()
            tasks.start_soon(receive)
            await turns()
            assert reads.waiting == 1
            tasks.cancel_scope.cancel()

    await DisconnectMiddleware(app)(server.scope(), reads.receive, server.send)


@on_asyncio
async def test_a_server_that_swallows_the_end_of_our_read_is_not_read_again() -> None:
    """As gunicorn's once did; the exchange is over."""
    reads = 0

    async def swallowing() -> Any:
        nonlocal reads
        reads += 1
        if reads > 1:
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep_forever()
        return dict(REQUEST)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        assert not await request.is_disconnected()
        await turns()

    await DisconnectMiddleware(app)(http_scope(), swallowing, SimulatedServer().send)
    await turns()
    assert reads == 2


@on_asyncio
async def test_a_task_of_ours_that_has_ended_in_its_first_step_is_not_held() -> None:
    tasks: list[Any] = []
    incoming = [DISCONNECT, REQUEST]

    async def receive() -> Any:
        tasks.append(weakref.ref(asyncio.current_task()))
        return incoming.pop()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert await receive() == DISCONNECT
        await turns()
        gc.collect()
        own, ours = tasks
        assert (own(), ours()) == (asyncio.current_task(), None)

    await DisconnectMiddleware(app)(http_scope(), receive, SimulatedServer().send)


@on_asyncio
async def test_a_disconnect_that_comes_while_a_receive_gives_its_turn_is_answered() -> None:
    """And not what was read before: after the disconnect every answer is the disconnect."""
    server = SimulatedServer(incoming=[])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        for _ in range(2):
            assert not await request.is_disconnected()
        server.deliver(REQUEST)
        await turns()
        server.leave()
        assert await receive() == DISCONNECT

    await run(server, app)


@on_asyncio
async def test_a_peek_never_cancels_the_servers_receive_after_the_body() -> None:
    """gunicorn's asgi worker takes such a cancellation for a departure, with the client still there."""
    server = SimulatedServer(GUNICORN)
    reads_cancelled_by_the_app = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal reads_cancelled_by_the_app
        request = Request(scope, receive)
        await request.body()
        for _ in range(3):
            assert not await request.is_disconnected()
            await turns()
        reads_cancelled_by_the_app = server.cancelled_reads
        assert server.reads == 2

    await run(server, app)
    await turns()
    assert reads_cancelled_by_the_app == 0
    assert server.cancelled_reads == 1, "the reader is ended with the exchange"


@on_asyncio
async def test_a_listener_that_is_cancelled_late_leaves_no_reader_behind() -> None:
    """The application cancels its listener and returns before that has had its turn."""
    server = SimulatedServer(GUNICORN)

    async with anyio.create_task_group() as outer:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            listeners = Listeners(outer, receive, 1)
            await turns()
            listeners.scopes[0].cancel()

        await run(server, app)
    await turns()
    assert server.cancelled_reads == 1


async def test_a_listener_that_outlives_the_app_is_answered() -> None:
    server = SimulatedServer()

    async with anyio.create_task_group() as outer:
        listeners: list[Listeners] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            listeners.append(Listeners(outer, receive, 1))
            await turns()

        await run(server, app)
        server.leave()
    assert listeners[0].answers == [DISCONNECT]


async def test_an_exception_of_the_servers_receive_reaches_whoever_receives() -> None:
    """granian 1.7.6 raises RuntimeError from receive."""
    failures = [RuntimeError("ASGI flow error"), RuntimeError("again")]

    async def receive() -> Any:
        if failures:
            raise failures.pop(0)
        return dict(DISCONNECT)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for text in ("ASGI flow error", "again"):
            with pytest.raises(RuntimeError, match=text):
                await receive()
        assert await receive() == DISCONNECT

    await DisconnectMiddleware(app)(http_scope(), receive, SimulatedServer().send)


@on_asyncio
async def test_of_many_tasks_that_wait_the_one_that_reads_is_woken() -> None:
    """The others wait until the disconnect is withheld no more."""
    server = SimulatedServer(UVICORN_0_28_0, [])

    async def deaf() -> Any:
        await anyio.sleep_forever()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            listeners = Listeners(tasks, receive, 8)
            await turns()
            server.has_left = True
            await send(START)
            await turns()
            assert listeners.answers == [REQUEST]
            await send(FINAL)
        assert listeners.answers == [REQUEST, *[DISCONNECT] * 7]

    with anyio.fail_after(5):
        await DisconnectMiddleware(app, policy="finish")(http_scope(), deaf, server.send)


@pytest.mark.parametrize("reads", [True, False])
async def test_an_app_gets_the_connect_of_a_websocket_once(reads: bool) -> None:
    """granian 1.7.6 delivers another one, once the peer has left."""
    incoming = [{"type": "websocket.connect"}] * 2

    async def repeating() -> Any:
        if not incoming:
            await anyio.sleep_forever()
        return incoming.pop()

    async def lost(message: Any) -> None:
        raise ConnectionResetError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen = [await receive()] if reads else []
        await send(ACCEPT)
        seen += [await receive() for _ in range(2)]
        kinds = [message["type"].partition(".")[2] for message in seen]
        assert kinds == (["connect", "disconnect", "disconnect"] if reads else ["connect", "disconnect"])

    with anyio.fail_after(5):
        await DisconnectMiddleware(app, websocket_policy="mute")({"type": "websocket", "path": "/"}, repeating, lost)


async def test_a_peek_gets_the_exception_of_the_servers_receive_which_is_not_called_again() -> None:
    reads = 0

    async def receive() -> Any:
        nonlocal reads
        reads += 1
        if reads == 1:
            return REQUEST
        raise LookupError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with anyio.CancelScope() as peek:
            peek.cancel()
            with pytest.raises(LookupError):
                await receive()
        await turns()
        assert reads == 2

    await DisconnectMiddleware(app)(http_scope(), receive, SimulatedServer().send)


async def test_an_exception_that_came_while_nobody_waited_is_kept_for_the_next() -> None:
    server = SimulatedServer(incoming=[])
    bell = anyio.Event()

    async def failing() -> Any:
        await bell.wait()
        raise RuntimeError("ASGI flow error")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            with anyio.move_on_after(0):
                await receive()
        bell.set()
        await turns()
        with pytest.raises(RuntimeError, match="ASGI flow error"):
            await receive()

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), failing, server.send)


@pytest.mark.parametrize("odd", [None, "text", 7, {}, {"type": "http.unheard.of"}, {"no": "type"}])
async def test_a_message_that_is_none_passes_as_it_is(odd: Any) -> None:
    server = SimulatedServer(incoming=[odd, FIRST, odd, LAST, odd])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got = [await receive() for _ in range(5)]
        assert got == [odd, FIRST, odd, LAST, odd]
        assert got[0] is odd

    await run(server, app)


async def test_nothing_keeps_the_scope_alive_after_the_exchange() -> None:
    class Scope(dict[str, Any]):
        pass

    scope = Scope(http_scope())
    alive = weakref.ref(scope)
    server = SimulatedServer(HYPERCORN)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        await request.is_disconnected()
        server.leave()
        await turns()
        assert await request.is_disconnected()
        await send(START)

    gc.disable()
    try:
        await DisconnectMiddleware(app)(scope, server.receive, server.send)
        del scope
        await turns()
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("more", [{}, {"more_body": False}], ids=["without more_body", "with it"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_body_that_comes_right_before_the_disconnect_is_delivered(method: str, more: Any) -> None:
    """P0: although another task waits for the disconnect, which is read as soon as the body is complete."""
    body = {"type": "http.request", "body": b"the whole body", **more}
    messages = [body, DISCONNECT]
    answers = []

    async def receive() -> Any:
        await anyio.sleep(0.01)
        return dict(messages.pop(0))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection(scope).wait_disconnected)
            answers.extend([await receive(), await receive()])

    length = [(b"content-length", b"14")] if method == "POST" else []
    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(method=method, headers=length), receive, SimulatedServer().send)
    assert answers == [body, DISCONNECT]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_has_not_made_its_first_step_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SimulatedServer(UVICORN_0_28_0, [])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reading = asyncio.create_task(receive())
        await turns()
        server.has_left = True
        others: list[Any] = []

        def all_tasks() -> list[Any]:
            others.append(asyncio.create_task(receive()))
            return [*others, reading]

        monkeypatch.setattr(asyncio, "all_tasks", all_tasks)
        await send(START)
        assert await reading == DISCONNECT
        monkeypatch.undo()
        assert others
        assert [await task for task in others] == [DISCONNECT] * len(others)

    async def deaf() -> Any:
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), deaf, server.send)


async def test_a_message_of_another_type_is_delivered_as_it_is() -> None:
    """P0: although it has a field of another's."""
    messages = [{"type": "http.other", "more_body": False}, dict(REQUEST)]

    async def receive() -> Any:
        return messages.pop(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert [await receive(), await receive()] == [{"type": "http.other", "more_body": False}, REQUEST]

    await DisconnectMiddleware(app)(http_scope(), receive, SimulatedServer().send)


async def test_a_websocket_task_that_reads_is_woken_by_a_send_that_failed() -> None:
    answers: list[Any] = []
    connect = [{"type": "websocket.connect"}]

    async def deaf() -> Any:
        if connect:
            return connect.pop()
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise ConnectionResetError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            answers.append(await receive())

        await receive()
        await send(ACCEPT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await turns()
            with contextlib.suppress(OSError):
                await send({"type": "websocket.send", "text": "tick"})

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)({**http_scope(), "type": "websocket"}, deaf, send)
    assert [answer["type"] for answer in answers] == ["websocket.disconnect"]


async def test_who_waits_for_the_disconnect_after_the_end_does_not_wait() -> None:
    server = SimulatedServer()
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(connection(scope))
        assert kept[0].connected
        await turns()

    with anyio.fail_after(5):
        await DisconnectMiddleware(app, policy="cancel")(http_scope(), server.receive, server.send)
        assert await kept[0].wait_disconnected() is None


@on_asyncio
async def test_tasks_that_read_are_found_among_many_without_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: nothing has noted them. The second waits until the search for the first is over, and a while longer."""
    monkeypatch.setattr(_asyncio, "_SECONDS_BETWEEN_SEARCHES", 0.001)
    monkeypatch.setattr(_asyncio, "_TASKS_A_TURN", 3)
    loop = asyncio.get_running_loop()
    turn = 0
    seen: list[int] = []

    def counting_chain(coroutine: Any) -> Any:
        seen.append(turn)
        return chain(coroutine)

    def count() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(count)

    async def deaf() -> Any:
        await asyncio.Event().wait()

    async def failing(message: Any) -> None:
        raise ConnectionResetError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reading = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send(START)
        monkeypatch.setattr(_asyncio, "chain", counting_chain)
        assert await reading == DISCONNECT

    count()

    async def later() -> None:
        while not seen:
            await asyncio.sleep(0)
        await middleware(http_scope(), deaf, failing)

    others = [asyncio.create_task(asyncio.Event().wait()) for _ in range(20)]
    middleware = DisconnectMiddleware(app)
    with anyio.fail_after(5):
        await asyncio.gather(*(middleware(http_scope(), deaf, failing) for _ in range(2)), later())
    assert len(seen) >= 20
    assert max(Counter(seen).values()) <= 3 + 1, "and the task of an exchange of its own"
    for task in others:
        task.cancel()


@on_asyncio
async def test_a_task_that_reads_is_woken_once_where_two_sends_fail() -> None:
    async def deaf() -> Any:
        await asyncio.Event().wait()

    async def failing(message: Any) -> None:
        await asyncio.sleep(0)
        raise ConnectionResetError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sends = [asyncio.create_task(send(START)) for _ in range(2)]
        assert await receive() == DISCONNECT
        await asyncio.gather(*sends)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # there is one

    with anyio.fail_after(5):
        await DisconnectMiddleware(app)(http_scope(), deaf, failing)
