"""P10: a send that the client does not drain for `send_timeout` seconds counts as a disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

from disconnect_mw import (
    ClientDisconnected,
    DisconnectMiddleware,
    Exchange,
    _blocked_sends,
    _cancellation,
    _connection,
    connection,
)
from disconnect_mw._backends._asyncio import AsyncioBackend

from .support.messages import ACCEPT, CHUNK, CLOSE, DISCONNECT, FINAL, REQUEST, START, TEXT
from .support.serving import (
    ON_ASYNCIO,
    SECONDS,
    Until,
    call,
    cancellations,
    is_trio,
    look_soon,
    on_asyncio,
    serve,
    turns,
)
from .support.simulated_server import http, websocket

pytestmark = pytest.mark.anyio

TIMEOUT = 0.03


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    look_soon(monkeypatch)
    monkeypatch.setattr(_connection, "_SECONDS_TO_COMPLETE", 0.05)


class Stalling:
    """A server whose client reads no more: its send of content comes back when it may, which may be never."""

    def __init__(self, kind: str = "http", ends: bool = False) -> None:
        self._kind = kind
        self._begins = [dict(REQUEST) if kind == "http" else {"type": "websocket.connect"}]
        self._stalls: tuple[str, ...] = ("websocket.send",) if kind == "websocket" else ("http.response.body",)
        if ends:
            self._stalls += ("websocket.close",)
        self.until = Until()
        self.reached: list[Any] = []
        self.sent: list[Any] = []
        self.cancelled = 0

    def scope(self) -> dict[str, Any]:
        return http().scope() if self._kind == "http" else websocket().scope()

    async def receive(self) -> Any:
        if self._begins:
            return self._begins.pop()
        await anyio.sleep_forever()

    async def send(self, message: Any) -> None:
        self.reached.append(message)
        if message["type"] in self._stalls:
            self.until.note("stalls")
            try:
                await self.until("drained")
            except anyio.get_cancelled_exc_class():
                self.cancelled += 1
                raise
        self.sent.append(message)


def record_of(scope: Any) -> Exchange:
    exchange = connection(scope).exchange
    assert exchange is not None
    return exchange


async def test_a_send_that_is_not_drained_in_time_counts_as_a_disconnect() -> None:
    server = Stalling()
    scope = server.scope()
    times: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await send(START)
        times.append(anyio.current_time())
        assert await send(CHUNK) is None
        times.append(anyio.current_time())
        assert not connection(scope).connected
        assert await receive() == DISCONNECT
        assert await send(CHUNK) is None
        assert await send(FINAL) is None
        return "done"

    assert await serve(app, server, scope, send_timeout=TIMEOUT) == "done"
    assert TIMEOUT - 0.002 <= times[1] - times[0] < 1
    assert server.cancelled == 1
    exchange = record_of(scope)
    assert (exchange.disconnect.phase, exchange.status, exchange.ended) == ("during the response", 200, "returned")
    assert (exchange.messages_muted, exchange.bytes_muted) == (3, 7 + 7 + 7)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("waits", [False, True])
async def test_only_a_send_that_waits_has_a_timer(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Stalling()
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    call_later = loop.call_later

    def counting(delay: float, *arguments: Any, **options: Any) -> Any:
        timers.append(delay)
        return call_later(delay, *arguments, **options)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        if waits:
            loop.call_soon(server.until.note, "drained")
        else:
            server.until.note("drained")
        for _ in range(10):
            await send(CHUNK)
        await send(FINAL)

    monkeypatch.setattr(loop, "call_later", counting)
    await serve(app, server, send_timeout=60)
    assert server.sent == [START, *[CHUNK] * 10, FINAL]
    assert timers.count(60) == waits


async def test_the_response_is_not_made_to_look_whole() -> None:
    """Should the client be there after all: better a response that is cut than one that looks whole."""
    server = Stalling()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        await send(FINAL)

    await serve(app, server, send_timeout=TIMEOUT)
    assert (server.reached, server.sent) == ([START, CHUNK], [START])


async def test_two_sends_that_are_not_drained_make_no_whole_response() -> None:
    server = Stalling()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, CHUNK)
            tasks.start_soon(send, CHUNK)

    await serve(app, server, send_timeout=TIMEOUT)
    assert server.reached == [START, CHUNK, CHUNK]


@pytest.mark.parametrize("options", [{}, {"policy": "raise"}, {"policy": "cancel"}])
async def test_a_last_message_that_is_not_drained_counts_as_well(options: Any) -> None:
    server = Stalling()
    scope = server.scope()
    raised: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await send(START)
        try:
            await send(FINAL)
        except ClientDisconnected as exception:
            raised.append((exception.message, exception.__cause__))
        return "done"

    assert await serve(app, server, scope, send_timeout=TIMEOUT, **options) in ("done", None)
    assert len(raised) == ("raise" in options.values())
    assert record_of(scope).disconnect.phase == "during the response"
    assert server.sent == [START]


async def test_under_raise_the_send_raises() -> None:
    server = Stalling()
    scope = server.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(2):
            with pytest.raises(ClientDisconnected) as caught:
                await send(CHUNK)
            assert caught.value.message == DISCONNECT
        await send(CHUNK)

    assert await serve(app, server, scope, send_timeout=TIMEOUT, policy="raise") is None
    assert record_of(scope).ended == "suppressed"


async def test_under_cancel_the_app_is_cancelled() -> None:
    server = Stalling()
    scope = server.scope()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        steps.append("goes on to its next await")
        await anyio.sleep(1)
        steps.append("goes on")

    assert await serve(app, server, scope, send_timeout=TIMEOUT, policy="cancel") is None
    assert (steps, record_of(scope).ended) == (["goes on to its next await"], "cancelled")


async def test_other_tasks_are_told() -> None:
    server = Stalling()

    async def listen(receive: Any) -> None:
        assert await receive() == DISCONNECT

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            tasks.start_soon(connection(scope).wait_disconnected)
            await turns()
            await send(CHUNK)

    await serve(app, server, send_timeout=TIMEOUT)


async def test_a_hook_is_told_once() -> None:
    server = Stalling()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, CHUNK)
            tasks.start_soon(send, CHUNK)

    await serve(app, server, send_timeout=TIMEOUT, on_disconnect=told.append)
    assert [one.phase for one in told] == ["during the response"]


@pytest.mark.parametrize("policy", ["mute", "raise"])
async def test_a_websocket_that_is_not_drained_counts_as_lost(policy: Any) -> None:
    server = Stalling("websocket")
    scope = server.scope()
    raised: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        try:
            await send(TEXT)
        except ClientDisconnected as exception:
            raised.append(exception.message["code"])
        assert await receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        await send(CLOSE)

    await serve(app, server, scope, websocket_policy=policy, send_timeout=TIMEOUT)
    assert raised == ([1006] if policy == "raise" else [])
    assert (record_of(scope).disconnect.code, record_of(scope).disconnect.phase) == (1006, "while open")
    assert server.sent == [ACCEPT]


@pytest.mark.parametrize("policy", ["mute", "raise"])
async def test_a_close_that_is_not_taken_is_left_alone(policy: Any) -> None:
    server = Stalling("websocket", ends=True)

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await send(ACCEPT)
        assert await send(CLOSE) is None
        return "done"

    assert await serve(app, server, websocket_policy=policy, send_timeout=TIMEOUT) == "done"
    assert server.sent == [ACCEPT]


async def test_a_send_that_is_drained_in_time_is_untouched() -> None:
    server = Stalling()
    scope = server.scope()
    result = object()

    async def send_slowly(message: Any) -> Any:
        await anyio.sleep(0.002)
        server.sent.append(message)
        return result

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(8):
            assert await send(CHUNK) is result
        assert connection(scope).connected
        await send(FINAL)

    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app, send_timeout=0.5)(scope, server.receive, send_slowly)
    assert server.sent == [START, *[CHUNK] * 8, FINAL]
    assert connection(scope).exchange is None


async def test_the_time_is_that_of_one_message() -> None:
    server = Stalling()

    async def send_slowly(message: Any) -> Any:
        await anyio.sleep(0.06)
        server.sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(5):
            await send(CHUNK)
        await send(FINAL)

    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app, send_timeout=0.25)(server.scope(), server.receive, send_slowly)
    assert server.sent == [START, *[CHUNK] * 5, FINAL]


STILL = "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
"""trio, whose clock stands still while anything goes on: there the server's send is in a task of its own."""


@pytest.mark.parametrize("anyio_backend", [*ON_ASYNCIO, STILL])
async def test_what_is_sent_at_once_takes_no_time() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        await send(FINAL)

    await serve(app, far, send_timeout=0.0001)
    assert far.sent == [START, CHUNK, FINAL]


class Refused(Exception):
    pass


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_what_the_servers_send_raises_passes(when: str) -> None:
    server = Stalling()

    async def refuse(message: Any) -> None:
        if when == "later":
            await anyio.sleep(0.002)
        raise Refused

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(Refused) as caught:
            await send({"type": "mystery"})
        assert caught.value.__cause__ is None

    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app, send_timeout=1)(server.scope(), server.receive, refuse)


async def test_the_servers_own_word_for_a_departure_is_heard() -> None:
    server = Stalling()
    scope = server.scope()

    async def broken(message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        raise BrokenPipeError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ClientDisconnected) as caught:
            await send(START)
        assert isinstance(caught.value.__cause__, BrokenPipeError)

    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app, policy="raise", send_timeout=1)(scope, server.receive, broken)
    assert record_of(scope).disconnect.phase == "before the response"


@on_asyncio
async def test_what_the_server_makes_of_the_end_of_the_time_is_heard() -> None:
    """Its own exception in the place of the interruption. On trio its send is given up."""
    server = Stalling()

    async def send_and_fail(message: Any) -> None:
        try:
            await server.send(message)
        finally:
            if message.get("body"):
                raise Refused

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with pytest.raises(Refused):
            await send(CHUNK)

    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app, send_timeout=TIMEOUT)(server.scope(), server.receive, send_and_fail)
    await turns()
    assert cancellations() == 0


@on_asyncio
async def test_a_server_that_swallows_the_end_of_the_time_has_sent() -> None:
    server = Stalling()

    async def stubborn_send(message: Any) -> None:
        if message.get("body"):
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep_forever()
            await turns()
        server.sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        assert connection(scope).connected
        await turns()
        assert cancellations() == 0

    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app, send_timeout=TIMEOUT)(server.scope(), server.receive, stubborn_send)
        await turns()
    assert server.sent == [START, CHUNK]


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_on_trio_a_send_that_is_shielded_is_left_alone() -> None:
    """As Hypercorn's is from every cancel scope."""
    server = Stalling()
    scope = server.scope()

    async def shielded_send(message: Any) -> None:
        with anyio.CancelScope(shield=True):
            await server.send(message)

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await send(START)
        await send(CHUNK)
        assert not connection(scope).connected
        return "done"

    with anyio.fail_after(SECONDS):
        result = await DisconnectMiddleware(app, send_timeout=TIMEOUT)(scope, server.receive, shielded_send)
    assert (result, server.sent) == ("done", [START])
    server.until.note("drained")
    await turns()
    assert server.sent == [START, CHUNK]


@pytest.mark.parametrize("anyio_backend", [("trio", {})])
async def test_on_trio_the_app_is_cancelled_although_its_shielded_send_never_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is at the server in a task of its own; the app's task has come back."""
    monkeypatch.setattr(_cancellation, "_SECONDS_TO_LEAVE_SEND", 60)
    server = Stalling()

    async def shielded_send(message: Any) -> None:
        with anyio.CancelScope(shield=True):
            await server.send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        await anyio.sleep_forever()

    scope = server.scope()
    middleware = DisconnectMiddleware(app, send_timeout=TIMEOUT, policy="cancel")
    try:
        with anyio.fail_after(SECONDS):
            await middleware(scope, server.receive, shielded_send)
    finally:
        server.until.note("drained")
        await turns()
    assert record_of(scope).ended == "cancelled"


# Somebody else's cancellation


@on_asyncio
@pytest.mark.parametrize("moment", ["before", "in the same turn, theirs first", "in the same turn, ours first"])
async def test_a_cancellation_from_elsewhere_passes(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6."""
    server = Stalling()
    steps: list[str] = []
    wake = AsyncioBackend.wake

    def both(self: Any, task: Any, call: Any) -> Any:
        if moment == "in the same turn, theirs first":
            task.cancel()
        result = wake(self, task, call)
        if moment == "in the same turn, ours first":
            task.cancel()
        return result

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        steps.append("came back")

    monkeypatch.setattr(AsyncioBackend, "wake", both)
    middleware = DisconnectMiddleware(app, send_timeout=TIMEOUT)
    task = asyncio.ensure_future(middleware(server.scope(), server.receive, server.send))
    if moment == "before":
        await asyncio.wait_for(server.until("stalls"), SECONDS)
        task.cancel()
    await asyncio.wait({task}, timeout=SECONDS)
    assert (task.cancelled(), steps) == (True, [])


@on_asyncio
async def test_a_task_with_a_cancellation_that_was_not_taken_back_is_not_interrupted() -> None:
    """The two could not be told apart."""
    server = Stalling()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        task: Any = asyncio.current_task()
        task.cancel()
        try:
            await turns()
        except asyncio.CancelledError:
            tasks.start_soon(drain)
            await send(CHUNK)
        task.uncancel()

    async def drain() -> None:
        await anyio.sleep(3 * TIMEOUT)
        server.until.note("drained")

    async with anyio.create_task_group() as tasks:
        await serve(app, server, send_timeout=TIMEOUT)
    assert server.sent[:2] == [START, CHUNK]


async def test_a_cancel_scope_around_a_stalled_send_is_heard() -> None:
    server = Stalling()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await send(START)
        with anyio.CancelScope() as own:
            tasks.start_soon(cancel, own)
            await send(CHUNK)
        assert own.cancelled_caught
        assert connection(scope).connected
        return "done"

    async def cancel(own: anyio.CancelScope) -> None:
        await server.until("stalls")
        own.cancel()

    async with anyio.create_task_group() as tasks:
        assert await serve(app, server, send_timeout=60) == "done"
    assert server.cancelled == 1


async def test_the_end_of_a_stalled_app_leaves_nothing_behind() -> None:
    server = Stalling()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        with anyio.move_on_after(0.002):
            await send(CHUNK)

    gc.disable()
    try:
        await serve(app, server, send_timeout=3600)
        await turns()
        left = weakref.ref(server)
        del server
        assert left() is None
    finally:
        gc.enable()


async def test_a_departure_known_before_the_time_is_over_ends_the_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server would never wake it."""
    monkeypatch.setattr(_blocked_sends, "BLOCKING", (*_blocked_sends.BLOCKING, Until.__module__))
    server = Stalling()

    async def receive_gone() -> Any:
        if server._begins:
            return await server.receive()
        await server.until("stalls")
        return dict(DISCONNECT)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            assert await send(CHUNK) is None
        await turns()
        assert cancellations() == 0

    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app, send_timeout=60)(server.scope(), receive_gone, server.send)
        await turns()


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


async def test_what_others_do_in_their_send_has_the_context_of_the_sender() -> None:
    """P0."""
    far = http()
    seen: list[str] = []

    async def outer_send(message: Any) -> None:
        seen.append(variable.get())
        await anyio.lowlevel.checkpoint()
        await far.send(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        variable.set("the app's")
        await send(START)
        await send(FINAL)

    await DisconnectMiddleware(app, send_timeout=60)(far.scope(), far.receive, outer_send)
    assert seen == ["the app's"] * 2


async def test_a_send_after_the_last_message_that_stalls_is_the_apps_own_mistake() -> None:
    """P3: what the server says of it is heard. Nothing of ours comes out of it."""
    server = Stalling()
    server._stalls = ("http.response.late",)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)
        with anyio.move_on_after(5 * TIMEOUT):
            await send({"type": "http.response.late"})

    scope = server.scope()
    await serve(app, server, scope, send_timeout=TIMEOUT)
    assert connection(scope).exchange is None


# Where it is told, and nested installs


async def test_the_shorter_time_of_nested_installs_counts() -> None:
    for outer, inner in ((TIMEOUT, 60), (60, TIMEOUT), (None, TIMEOUT), (TIMEOUT, None)):
        server = Stalling()
        scope = server.scope()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send(CHUNK)
            assert not connection(scope).connected

        await serve(DisconnectMiddleware(app, send_timeout=inner), server, scope, send_timeout=outer)
        assert record_of(scope).disconnect.phase == "during the response"


async def test_the_line_tells_of_it_and_does_not_count_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="disconnect_mw")
    server = Stalling()
    scope = server.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)

    await serve(app, server, scope, send_timeout=TIMEOUT)
    assert (record_of(scope).messages_sent, record_of(scope).bytes_sent) == (1, 0)
    assert [record.levelname for record in caplog.records if record.name == "disconnect_mw"] == ["INFO"]


@pytest.mark.parametrize("where", ["one install", "an inner install that comes after the departure"])
async def test_once_the_client_has_gone_nothing_is_timed(where: str) -> None:
    far = http()
    steps: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        assert await send(START) is None
        steps.append("muted")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        if where == "one install":
            await inner(scope, receive, send)
        else:
            await DisconnectMiddleware(inner, send_timeout=TIMEOUT)(scope, receive, send)

    await serve(app, far, send_timeout=TIMEOUT)
    assert steps == ["muted"]


def test_without_an_event_loop_there_is_no_time() -> None:
    """A coroutine that is driven by hand."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await send(START)
        await send(FINAL)
        return "done"

    coroutine = DisconnectMiddleware(app, send_timeout=TIMEOUT)(far.scope(), far.receive, far.send)
    with pytest.raises(StopIteration) as stopped:
        for _ in range(20):
            coroutine.send(None)
    assert (stopped.value.value, far.sent) == ("done", [START, FINAL])


async def test_the_task_that_sends_is_the_apps_own() -> None:
    """P0, on asyncio; on trio nothing else can be left alone where it is shielded."""
    tasks: list[Any] = []
    far = http()

    async def outer_send(message: Any) -> None:
        tasks.append(anyio.get_current_task())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

    await DisconnectMiddleware(app, send_timeout=60)(far.scope(), far.receive, outer_send)
    assert (tasks == [anyio.get_current_task()]) == (not is_trio())


async def test_one_instance_times_each_exchange_by_itself() -> None:
    stalled, fine = Stalling(), http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        await send(FINAL)

    wrapped = DisconnectMiddleware(app, send_timeout=TIMEOUT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, wrapped, stalled)
        tasks.start_soon(call, wrapped, fine)
    assert (stalled.sent, fine.sent) == ([START], [START, CHUNK, FINAL])
