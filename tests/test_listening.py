"""P12: an app that listens is told, and ends its own way. It is cancelled where that does not help."""

from __future__ import annotations

import asyncio
import math
import sys
import types
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request

from disconnect_mw import DisconnectMiddleware, _backends, _cancellation, _reader, connection
from disconnect_mw.testing import HTTPSimulatedServer, WebSocketSimulatedServer, servers

from .support.messages import ACCEPT, CHUNK, DISCONNECT, FINAL, START
from .support.records import ended, gone
from .support.serving import GRACE_AT_HAND, SECONDS, Until, grace_at_hand, left, on_asyncio, serve, shielded, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]

SECONDS_TO_REACT = _cancellation._SECONDS_TO_REACT


async def listen(receive: Any, then: Callable[[], Any]) -> None:
    """Receive until that is the disconnect, as a framework's listener does."""
    while (await receive()) != DISCONNECT:
        pass
    then()


def nothing() -> None: ...


def note_timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of the timers that are set from now on."""
    seconds: list[float] = []
    backend, _ = _backends.current()
    call_later = backend.call_later

    def later(self: Any, after: float, callback: Callable[[], None]) -> Any:
        seconds.append(after)
        return call_later(after, callback)

    monkeypatch.setattr(type(backend), "call_later", later)
    return seconds


# Who listens


async def test_a_framework_that_listens_ends_the_handler_whose_clean_up_is_not_cut() -> None:
    """Quart's and Django's way: a group of the listener and the handler."""
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, tasks.cancel_scope.cancel)
            await turns()
            far.leave()
            try:
                await anyio.sleep_forever()
            finally:
                steps.append("cancelled")
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(2 * SECONDS_TO_REACT)
                    await turns(40)
                steps.append("cleaned up")
        return "its own way"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") == "its own way"
    assert (steps, ended(scope)) == (["cancelled", "cleaned up"], "returned")


async def test_an_app_that_polls_is_told_by_its_next_look() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        message = await receive()
        far.leave()
        while message != DISCONNECT:
            with anyio.move_on_after(0.001):
                message = await receive()
            await anyio.sleep(0.01)
        await anyio.sleep(2 * SECONDS_TO_REACT)
        return "its own way"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") == "its own way"
    assert ended(scope) == "returned"


@pytest.mark.parametrize("seconds", [0.001, -math.inf], ids=["for a time", "in a cancelled scope, as Starlette"])
async def test_a_poll_that_comes_later_than_a_listener_has_to_react_is_waited_for(seconds: float) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        with anyio.move_on_after(seconds):
            await receive()
        far.leave()
        await anyio.sleep(4 * SECONDS_TO_REACT)
        message = await receive()
        await anyio.sleep(2 * SECONDS_TO_REACT)
        return message

    assert await serve(app, far, policy="cancel") == DISCONNECT


async def test_a_websocket_that_has_polled_once_is_told_by_its_next_poll() -> None:
    """Its poll was the app's own read, not one that waits for ours as after the body of a request."""
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        await send(ACCEPT)
        with anyio.move_on_after(0.001):
            await receive()
        far.leave()
        await anyio.sleep(4 * SECONDS_TO_REACT)
        message = await receive()
        await anyio.sleep(2 * SECONDS_TO_REACT)
        return message["type"]

    assert await serve(app, far, websocket_policy="cancel") == "websocket.disconnect"


async def test_a_task_whose_own_read_raises_in_place_of_the_disconnect_is_told() -> None:
    """granian 1.7.6. So it may clean up."""
    far = WebSocketSimulatedServer(servers.GRANIAN_1_7_6.websocket)

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        await send(ACCEPT)
        far.leave()
        message = await receive()
        await anyio.sleep(2 * SECONDS_TO_REACT)
        return message["type"]

    assert await serve(app, far, websocket_policy="cancel") == "websocket.disconnect"


async def test_an_app_that_polled_long_ago_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reader, "_BETWEEN_POLLS", 0.005)
    timers = note_timers(monkeypatch)
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with anyio.move_on_after(0.001):
            await receive()
        await anyio.sleep(0.02)
        await left(far)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert (ended(scope), SECONDS_TO_REACT in timers) == ("cancelled", False)


async def test_an_app_that_stops_polling_is_cancelled_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reader, "_BETWEEN_POLLS", 0.1)
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with anyio.move_on_after(0.001):
            await receive()
        await left(far)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"
    assert exchange.seconds >= 0.1


async def test_an_app_that_polls_seldom_is_waited_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as long again as it took from one poll to the next."""
    monkeypatch.setattr(_reader, "_BETWEEN_POLLS", 0.001)
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        for _ in range(2):
            with anyio.move_on_after(0.001):
                await receive()
            await anyio.sleep(2 * SECONDS_TO_REACT)
        far.leave()
        await anyio.sleep(SECONDS_TO_REACT / 2)
        return await receive()

    assert await serve(app, far, policy="cancel") == DISCONNECT


async def test_where_nobody_listens_the_app_is_cancelled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = note_timers(monkeypatch)
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await left(far)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert (ended(scope), SECONDS_TO_REACT in timers) == ("cancelled", False)


# How long whoever listens has


async def test_an_app_that_does_nothing_about_it_is_cancelled_after_50_ms_and_32_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timers = note_timers(monkeypatch)
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, nothing)
            await left(far)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"
    assert timers[timers.index(0.05) :].count(0) == 31, "the turn of the first timer is one"


async def test_an_app_that_has_gone_on_has_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = note_timers(monkeypatch)
    far = http()
    told = Until()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, lambda: told.note("told"))
            await turns()
            far.leave()
            await told("told")
            while 10.0 not in timers:
                await anyio.sleep(0.005)
            await turns(40)
        return "cleaned up"

    assert await serve(app, far, policy="cancel") == "cleaned up"


async def test_after_these_ten_seconds_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cancellation, "_SECONDS_TO_END_BY_ITSELF", GRACE_AT_HAND)
    end_of_them = grace_at_hand(monkeypatch)
    far = http()
    told = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, lambda: told.note("told"))
            await turns()
            far.leave()
            await told("told")
            await anyio.sleep(2 * SECONDS_TO_REACT)
            told.note("cleans up")
            await end_of_them()
            await anyio.sleep_forever()

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert (told.happened, ended(scope)) == (["told", "cleans up"], "cancelled")


@on_asyncio
async def test_a_group_that_is_ending_its_tasks_counts_as_going_on() -> None:
    """Django 6.1 and Quart 0.23 wait in one, before the disconnect and after, while the handler cleans up."""
    far = http()
    steps: list[str] = []

    class Ends(Exception): ...

    def end() -> None:
        raise Ends

    async def handler() -> None:
        try:
            await left(far)
        finally:
            await anyio.sleep(2 * SECONDS_TO_REACT)
            await turns(40)
            steps.append("cleaned up")

    async def app(scope: Any, receive: Any, send: Any) -> str:
        with pytest.RaisesGroup(Ends):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(listen(receive, end))
                tasks.create_task(handler())
        return "its own way"

    scope = far.scope()
    # In a task of its own, on which the group of 3.11 and 3.12 leaves a cancellation, bare too.
    task = asyncio.create_task(DisconnectMiddleware(app, policy="cancel")(scope, far.receive, far.send))
    assert await asyncio.wait_for(task, SECONDS) == "its own way"
    assert (steps, ended(scope)) == (["cleaned up"], "returned")


# Not where it would do harm


Awaiting = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Awaiting]:
    """Loads a module with this name; returns a function of it, which awaits."""

    def load(name: str) -> Awaiting:
        loaded = types.ModuleType(name)
        exec("async def run(wait):\n    return await wait()", loaded.__dict__)
        for part in (name.partition(".")[0], name):
            monkeypatch.setitem(sys.modules, part, loaded)
        return loaded.run  # type: ignore[no-any-return]  # it has just been made

    return load


@pytest.mark.parametrize("name", ["a2wsgi", "a2wsgi.wsgi"])
async def test_an_app_that_runs_in_a2wsgis_thread_is_not_cancelled(
    name: str, module: Callable[[str], Awaiting]
) -> None:
    """The thread would wait for ever for what the cancelled task feeds it."""
    far = http()
    run = module(name)

    async def in_thread() -> str:
        far.leave()
        await anyio.sleep(2 * SECONDS_TO_REACT)
        await turns(40)
        return "answered"

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        return await run(in_thread)

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") == "answered"
    assert not connection(scope).connected


async def test_where_a2wsgi_is_not_loaded_it_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "a2wsgi", raising=False)
    far = http()
    scope = far.scope()
    await serve(lambda scope, receive, send: left(far), far, scope, policy="cancel")
    assert ended(scope) == "cancelled"


@on_asyncio
async def test_nor_do_its_sends_raise(module: Callable[[str], Awaiting]) -> None:
    """They come from a task of their own."""
    far = http()
    run = module("a2wsgi")

    async def app(scope: Any, receive: Any, send: Any) -> str:
        async def sender() -> None:
            await send(START)
            far.leave()
            await gone(connection(scope))
            await send(CHUNK)
            await send(FINAL)

        await run(lambda: asyncio.create_task(sender()))
        return "answered"

    assert await serve(app, far, policy="raise") == "answered"


@on_asyncio
async def test_nor_is_it_cancelled_behind_other_middleware(module: Callable[[str], Awaiting]) -> None:
    """In a task of a group that the app's own task has open."""
    far = http()
    run = module("a2wsgi")
    answered: list[str] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        async def in_thread() -> None:
            await send(START)
            asyncio.get_running_loop().call_later(0.01, far.leave)
            await gone(connection(scope))
            await anyio.sleep(2 * SECONDS_TO_REACT)
            await turns(40)
            answered.append("at its end")

        await run(in_thread)

    async def dispatch(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    await serve(BaseHTTPMiddleware(BaseHTTPMiddleware(inside, dispatch), dispatch), far, policy="cancel")
    assert answered == ["at its end"]


async def test_a_module_whose_name_only_begins_like_that_is_no_exception(module: Callable[[str], Awaiting]) -> None:
    far = http()
    module("a2wsgi")
    run = module("a2wsgi_like")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await run(lambda: left(far))

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"


class Slow(HTTPSimulatedServer):
    """Its `send` comes back when `gives_back` is set, whoever has left."""

    gives_back: anyio.Event | None = None
    is_sending = False

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.gives_back is not None:
            self.is_sending = True
            await self.gives_back.wait()


async def test_the_cancellation_meets_the_app_at_its_next_await_not_in_send() -> None:
    """There it would find the app's generator suspended at a `yield`, and leave it to the garbage collector."""
    far = Slow(servers.UVICORN_0_54_0.http)
    steps: list[str] = []

    async def leave(known: Any) -> None:
        while not far.is_sending:
            await anyio.sleep(0.001)
        far.leave()
        await gone(known)
        assert far.gives_back is not None
        far.gives_back.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        far.gives_back = anyio.Event()
        tasks.start_soon(leave, connection(scope))
        try:
            await send(CHUNK)
            steps.append("sent")
            await anyio.sleep_forever()
        finally:
            steps.append("cancelled")

    scope = far.scope()
    async with anyio.create_task_group() as tasks:
        await serve(app, far, scope, policy="cancel")
    assert (steps, ended(scope)) == (["sent", "cancelled"], "cancelled")


async def test_a_send_that_does_not_come_back_is_cancelled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = note_timers(monkeypatch)
    far = Slow(servers.UVICORN_0_54_0.http)
    steps: list[str] = []

    async def leave() -> None:
        while not far.is_sending:
            await anyio.sleep(0.001)
        far.leave()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        far.gives_back = anyio.Event()
        tasks.start_soon(leave)
        try:
            await send(CHUNK)
        finally:
            steps.append("cancelled")

    scope = far.scope()
    async with anyio.create_task_group() as tasks:
        await serve(app, far, scope, policy="cancel")
    assert (steps, ended(scope)) == (["cancelled"], "cancelled")
    assert timers.count(0) >= 31, "turns"
    assert _cancellation._SECONDS_TO_LEAVE_SEND in timers, "as long as it takes until a blocked send is woken"


async def test_a_muted_send_is_no_reason_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that sends for ever into the void is cancelled in the turn that it gives."""
    far = http()
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(START)
        while True:
            await send(CHUNK)
            sent += 1
            if sent == 3:
                far.leave()
            if sent <= 3:
                await anyio.sleep(0.003)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"


async def test_an_app_that_is_told_after_its_last_message_is_left_alone() -> None:
    """P3."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        assert await receive() == DISCONNECT
        await send(START)
        await send(FINAL)
        with shielded():
            await anyio.sleep(2 * SECONDS_TO_REACT)
            await turns(40)
        return "background done"

    assert await serve(app, far, policy="cancel") == "background done"
