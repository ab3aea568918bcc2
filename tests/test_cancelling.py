"""P6, P10: the app of a client that has left is cancelled as `asyncio.timeout` does it, at once or after its grace."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import math
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import (
    CancelOnDisconnect,
    ClientDisconnected,
    DisconnectMiddleware,
    _connection,
    _runtime,
    _watch,
    connection,
)

from .support.messages import ACCEPT, CHUNK, CLOSE, DISCONNECT, EMPTY_FINAL, FINAL, START, START_499, TEXT
from .support.serving import (
    GRACE_AT_HAND,
    SECONDS,
    App,
    Until,
    call,
    cancellations,
    grace_at_hand,
    is_trio,
    left,
    look_soon,
    on_asyncio,
    serve,
    shielded,
    turns,
)
from .support.simulated_server import UVICORN_0_28_0, SimulatedServer, http, websocket

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    look_soon(monkeypatch)


def ended(scope: Any) -> str | None:
    exchange = connection(scope).exchange
    return None if exchange is None else exchange.ended


async def known(scope: Any) -> None:
    """Wait until the departure is known."""
    assert await connection(scope).wait_disconnected() is not None


# In the server's own task, once


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.mark.parametrize("options", [{}, {"policy": "cancel"}, {"policy": "cancel", "grace": 60}])
@pytest.mark.parametrize("leaves", [True, False])
async def test_the_app_runs_in_the_servers_own_task_and_context(options: Any, leaves: bool) -> None:
    """P0."""
    far = http()
    where: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        where.append((anyio.get_current_task(), variable.get()))
        variable.set("the app's")
        if leaves and options == {"policy": "cancel"}:
            await left(far)

    variable.set("the server's")
    await serve(app, far, **options)
    assert where == [(anyio.get_current_task(), "the server's")]
    assert variable.get() == "the app's"


async def test_the_app_is_cancelled_and_its_finally_may_await() -> None:
    far = http()
    done: list[str] = []
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            with shielded():
                await turns()
                await anyio.sleep(0.01)
            done.append("cleaned up")

    assert await serve(app, far, scope, policy="cancel") is None
    assert (done, ended(scope)) == (["cleaned up"], "cancelled")
    assert far.sent == [START_499, EMPTY_FINAL]


@on_asyncio
async def test_it_is_cancelled_once() -> None:
    far = http()
    cancelled: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        far.leave()
        for _ in range(2):
            try:
                await anyio.sleep(0.05)  # many a look
                await receive()
                await send(CHUNK)
                await turns()
            except asyncio.CancelledError:
                cancelled.append(cancellations())
        return "to its end"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") == "to its end"
    assert cancelled == [1]
    assert ended(scope) == "returned"


async def test_what_is_sent_under_cancel_is_muted() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await receive()
        far.leave()
        assert await receive() == DISCONNECT
        with shielded(), contextlib.suppress(asyncio.CancelledError):
            await send(CHUNK)
        assert await send(CHUNK) is None

    await serve(app, far, policy="cancel")
    assert far.sent == [START, EMPTY_FINAL]


# Wherever the app waits


async def in_a_child_task() -> None:
    await asyncio.create_task(asyncio.sleep(2 * SECONDS))


async def in_many() -> None:
    await asyncio.gather(asyncio.sleep(2 * SECONDS), in_a_child_task())


async def in_many_of_which_one_has_ended() -> None:
    """asyncio makes a bare CancelledError of it, which nothing connects with the one that caused it."""
    await asyncio.gather(asyncio.sleep(2 * SECONDS), asyncio.sleep(0), return_exceptions=True)


async def in_time() -> None:
    await asyncio.wait_for(asyncio.sleep(2 * SECONDS), 2 * SECONDS)


async def in_a_queue() -> None:
    await asyncio.Queue[None]().get()


async def in_a_condition() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


async def in_turns() -> None:
    while True:
        await asyncio.sleep(0)


async def in_a_generator() -> None:
    async def steps() -> AsyncIterator[None]:
        try:
            yield
            await anyio.sleep_forever()
        finally:
            with shielded():
                await turns()

    async with contextlib.aclosing(steps()) as these:  # type: ignore[type-var]  # it is a generator
        async for _ in these:
            pass


async def in_a_context_manager() -> None:
    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        try:
            yield
        finally:
            with shielded():
                await anyio.sleep(0.002)

    async with connected(), connected():
        await anyio.sleep_forever()


async def slowly() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.005)


async def in_a_group() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slowly)


async def in_nested_groups() -> None:
    async with anyio.create_task_group(), anyio.create_task_group() as tasks:
        tasks.start_soon(in_a_group)
        await slowly()


async def in_a_scope() -> None:
    with anyio.move_on_after(2 * SECONDS), anyio.fail_after(2 * SECONDS):
        await anyio.sleep_forever()


async def in_a_stream() -> None:
    send_stream, receive_stream = anyio.create_memory_object_stream[None]()
    async with send_stream, receive_stream:
        await receive_stream.receive()


PORTABLE_WAITS: list[Any] = [
    anyio.sleep_forever,
    in_a_generator,
    in_a_context_manager,
    slowly,
    in_a_group,
    in_nested_groups,
    in_a_scope,
    in_a_stream,
]
ASYNCIO_WAITS: list[Any] = [
    in_a_child_task,
    in_many,
    in_many_of_which_one_has_ended,
    in_time,
    in_a_queue,
    in_a_condition,
    in_turns,
]


async def in_asyncios_group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(slowly())
        tasks.create_task(in_many())


async def in_asyncios_timeout() -> None:
    async with asyncio.timeout(2 * SECONDS), asyncio.timeout(None):
        await slowly()


ASYNCIO_WAITS += [in_asyncios_group, in_asyncios_timeout]


async def assert_is_absorbed(wait: Callable[[], Any]) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await wait()

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") is None
    assert ended(scope) == "cancelled"


@pytest.mark.parametrize("wait", PORTABLE_WAITS)
async def test_the_cancellation_is_absorbed_wherever_the_app_waits(wait: Any) -> None:
    await assert_is_absorbed(wait)


@on_asyncio
@pytest.mark.parametrize("wait", ASYNCIO_WAITS)
async def test_the_cancellation_is_absorbed_wherever_an_app_on_asyncio_waits(wait: Any) -> None:
    await assert_is_absorbed(wait)


@on_asyncio
async def test_the_cancellation_is_absorbed_after_a_clean_up_with_cancellations_of_its_own() -> None:
    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            task = asyncio.ensure_future(anyio.sleep_forever())
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            with anyio.move_on_after(0.001):
                await anyio.sleep_forever()

    await assert_is_absorbed(wait)


# What the app makes of it


async def test_an_app_that_swallows_the_cancellation_ends_as_it_likes() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        try:
            await left(far)
        except anyio.get_cancelled_exc_class():
            pass
        return "all the same"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") == "all the same"
    assert ended(scope) == "returned"


@on_asyncio
async def test_an_app_that_takes_the_cancellation_back_itself_goes_on() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        try:
            await left(far)
        except asyncio.CancelledError:
            task: Any = asyncio.current_task()
            task.uncancel()
        await turns()
        return "all the same"

    assert await serve(app, far, policy="cancel") == "all the same"


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x")])
async def test_what_the_app_raises_of_its_own_from_it_passes(error: Exception) -> None:
    """P5."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            raise error

    scope = far.scope()
    with pytest.raises(type(error)) as caught:
        await serve(app, far, scope, policy="cancel")
    assert caught.value is error
    exchange = connection(scope).exchange
    assert exchange is not None
    assert (exchange.ended, exchange.exception) == ("raised", type(error).__name__)


async def test_what_a_task_of_the_apps_raises_from_it_passes() -> None:
    """P5, P6: of the group only the cancellation is ours."""
    far = http()
    scope = far.scope()
    error = ValueError("x")

    async def fails() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails)
            tasks.start_soon(slowly)
            await left(far)

    with pytest.raises(ExceptionGroup) as caught:
        await serve(app, far, scope, policy="cancel")
    assert caught.value.exceptions == (error,)
    exchange = connection(scope).exchange
    assert exchange is not None
    assert (exchange.ended, exchange.exception) == ("raised", "ExceptionGroup")


@on_asyncio
@pytest.mark.parametrize("raised", ["while the first is handled", "from None", "later"])
async def test_a_new_cancelled_error_in_place_of_ours_ends_at_the_edge(raised: str) -> None:
    """As under asyncio.timeout."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        except asyncio.CancelledError:
            if raised == "from None":
                raise asyncio.CancelledError from None
            if raised == "while the first is handled":
                raise asyncio.CancelledError  # noqa: B904
        raise asyncio.CancelledError

    outcome = asyncio.ensure_future(serve(app, far, policy="cancel"))
    await asyncio.wait({outcome})
    assert not outcome.cancelled()
    outcome.result()


@on_asyncio
@pytest.mark.parametrize("leaves", [True, False])
async def test_a_cancelled_error_of_the_apps_own_passes_while_nobody_is_cancelled(leaves: bool) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if leaves:
            await receive()
            far.leave()
            await receive()
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await DisconnectMiddleware(app, policy="cancel", grace=60)(far.scope(), far.receive, far.send)


# Somebody else's cancellation passes


class Cancelling(SimulatedServer):
    """A server that cancels the app in the very turn in which it delivers the disconnect, but before."""

    task: Any = None

    async def receive(self) -> Any:
        message = await super().receive()
        if message == DISCONNECT and self.task is not None:
            self.task.cancel()
        return message


@on_asyncio
@pytest.mark.parametrize("wait", [anyio.sleep_forever, *PORTABLE_WAITS, *ASYNCIO_WAITS])
@pytest.mark.parametrize(
    "moment", ["before", "in the same turn, theirs first", "in the same turn, ours first", "after"]
)
async def test_a_cancellation_from_elsewhere_passes(moment: str, wait: Any) -> None:
    far = Cancelling()
    began = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        try:
            await wait()
        finally:
            if moment == "before":
                far.leave()
                await known(scope)
                await anyio.sleep(0.005)  # it is tried again
            elif moment == "after":
                task.cancel()
                await asyncio.sleep(0)

    def hook(disconnect: Any) -> None:
        if moment == "in the same turn, ours first":
            task.cancel()

    middleware = DisconnectMiddleware(app, policy="cancel", on_disconnect=hook)
    task = asyncio.ensure_future(middleware(far.scope(), far.receive, far.send))
    if moment == "in the same turn, theirs first":
        far.task = task
    await began.wait()
    if moment == "before":
        await turns()
        task.cancel()
    else:
        far.leave()
    await asyncio.wait({task}, timeout=SECONDS)
    assert task.cancelled()


@on_asyncio
@pytest.mark.parametrize("clean_up", [anyio.sleep_forever, *ASYNCIO_WAITS])
async def test_a_cancellation_from_elsewhere_passes_in_the_middle_of_the_clean_up(clean_up: Any) -> None:
    far = http()
    cleaning = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            cleaning.set()
            await clean_up()

    task = asyncio.ensure_future(DisconnectMiddleware(app, policy="cancel")(far.scope(), far.receive, far.send))
    await asyncio.wait_for(cleaning.wait(), SECONDS)
    await turns()
    task.cancel()
    await asyncio.wait({task}, timeout=SECONDS)
    assert task.cancelled()


@on_asyncio
@pytest.mark.parametrize("grace", [None, 60])
async def test_a_cancellation_from_elsewhere_is_told_as_one(grace: Any) -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            await turns()

    def hook(disconnect: Any) -> None:
        task.cancel()

    middleware = DisconnectMiddleware(app, policy="cancel", grace=grace, on_disconnect=hook)
    task = asyncio.ensure_future(middleware(scope, far.receive, far.send))
    await asyncio.wait({task}, timeout=SECONDS)
    assert (task.cancelled(), ended(scope)) == (True, "cancelled")


@pytest.mark.parametrize("moment", ["before", "in the same turn", "after"])
@pytest.mark.parametrize("wait", PORTABLE_WAITS)
async def test_a_cancel_scope_around_the_server_is_heard(moment: str, wait: Any) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if moment == "before":
            outer.cancel()
        far.leave()
        try:
            await wait()
        finally:
            with anyio.CancelScope(shield=True):
                await known(scope)
                if moment == "after":
                    outer.cancel()
                await turns()

    def hook(disconnect: Any) -> None:
        if moment == "in the same turn":
            outer.cancel()

    with anyio.fail_after(SECONDS):
        with anyio.CancelScope() as outer:
            await DisconnectMiddleware(app, policy="cancel", on_disconnect=hook)(far.scope(), far.receive, far.send)
            await anyio.lowlevel.checkpoint()
            raise AssertionError("the server's own scope has no effect")
        assert outer.cancelled_caught
        await turns()
        assert cancellations() == 0


@pytest.mark.parametrize("groups", range(3))
async def test_a_cancel_scope_around_the_server_is_heard_in_the_middle_of_the_clean_up(groups: int) -> None:
    far = http()
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            run: Any = None
            for _ in range(groups):
                run = (await stack.enter_async_context(anyio.create_task_group())).start_soon
            if run is None:
                await works()
            else:
                run(works)
                await anyio.sleep_forever()

    async def works() -> None:
        try:
            await left(far)
        finally:
            with anyio.CancelScope(shield=True):
                until.note("cleans up")
                await until("cancelled")
                await turns()

    async def cancel() -> None:
        await until("cleans up")
        await turns()
        outer.cancel()
        await turns()
        until.note("cancelled")

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            with anyio.CancelScope() as outer:
                await DisconnectMiddleware(app, policy="cancel")(far.scope(), far.receive, far.send)
                await anyio.lowlevel.checkpoint()
                raise AssertionError("the server's own scope has no effect")
            assert outer.cancelled_caught
            await turns()
            assert cancellations() == 0


@on_asyncio
async def test_ours_waits_until_somebody_elses_is_taken_back() -> None:
    """The two could not be told apart."""
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task: Any = asyncio.current_task()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        far.leave()
        await known(scope)
        await asyncio.sleep(0.01)
        steps.append("not cancelled")
        task.uncancel()
        await anyio.sleep_forever()

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") is None
    assert (steps, ended(scope)) == (["not cancelled"], "cancelled")


@on_asyncio
@pytest.mark.parametrize("ends", ["ours", "others as well", "another in its place"])
async def test_one_that_was_swallowed_holds_ours_off_for_a_while_only(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken back by us."""
    monkeypatch.setattr(_runtime, "_UNTIL_SWALLOWED", 0.01)
    far = http()
    scope = far.scope()
    times: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task: Any = asyncio.current_task()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        far.leave()
        await known(scope)
        times.append(anyio.current_time())
        try:
            await anyio.sleep_forever()
        finally:
            times.append(anyio.current_time())
            if ends == "others as well":
                task.cancel()
                await turns()
            if ends == "another in its place":
                raise asyncio.CancelledError from None

    async def server() -> int:
        await DisconnectMiddleware(app, policy="cancel")(scope, far.receive, far.send)
        await turns()
        return cancellations()

    task = asyncio.ensure_future(server())
    await asyncio.wait({task}, timeout=SECONDS)
    assert task.cancelled() == (ends != "ours")
    if ends == "ours":
        assert task.result() == 1
    assert ended(scope) == "cancelled"
    assert times[1] - times[0] >= 0.008


# Nothing may leak to the server's own code


@pytest.mark.parametrize("options", [{"policy": "cancel"}, {"grace": 0}, {"policy": "cancel", "grace": 0.0001}])
@pytest.mark.parametrize("learns", ["by its own receive", "by its own send", "by another task's receive"])
@pytest.mark.parametrize("ends", ["returns", "raises"])
@pytest.mark.parametrize("steps", range(6))
async def test_an_app_that_ends_in_the_turn_of_the_cancellation_leaves_none_to_its_server(
    options: Any, learns: str, ends: str, steps: int
) -> None:
    """The departure becomes known; then it ends, after so many turns."""
    far = SimulatedServer(UVICORN_0_28_0)
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await send(START)
        if learns == "by its own receive":
            far.leave()
            await receive()
        elif learns == "by its own send":
            far.leave()
            await send(CHUNK)
        else:
            tasks.start_soon(listen, receive)
            await turns()
            far.leave()
        await turns(steps)
        if ends == "raises":
            raise ValueError
        return "done"

    async def listen(receive: Any) -> None:
        got.append(await receive())

    async with anyio.create_task_group() as tasks:
        try:
            got.append(await serve(app, far, **options))
        except ValueError:
            got.append("raised")
    assert {"done", "raised", None} & {*filter(lambda one: one != DISCONNECT, got)}


@on_asyncio
@pytest.mark.parametrize("steps", range(4))
async def test_an_app_whose_future_comes_in_the_turn_of_the_cancellation_leaves_none_to_its_server(steps: int) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        reading = asyncio.ensure_future(receive())
        await turns()
        far.leave()

        def step(count: int) -> None:
            if count:
                loop.call_soon(step, count - 1)
            elif not future.done():
                future.set_result(None)

        step(steps)
        try:
            await future
        finally:
            reading.cancel()
        return "done"

    assert await serve(app, far, policy="cancel") in ("done", None)


@pytest.mark.parametrize("end", ["at once", "at its next await"])
async def test_an_app_that_learns_of_it_by_itself_is_cancelled_at_its_next_await(end: str) -> None:
    far = http()
    steps: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        steps.append(await receive())
        if end == "at its next await":
            await anyio.lowlevel.checkpoint()
        return "done"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") == ("done" if end == "at once" else None)
    assert (steps, ended(scope)) == ([DISCONNECT], "returned" if end == "at once" else "cancelled")


async def test_a_failed_send_of_the_apps_own_cancels_it() -> None:
    far = SimulatedServer(UVICORN_0_28_0)
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        far.leave()
        while True:
            await send(CHUNK)
            sent.append(CHUNK)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert (sent, ended(scope)) == ([], "cancelled")


# Not after the last message


async def test_an_app_whose_response_is_complete_is_not_cancelled() -> None:
    """P3: background tasks run."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await send(START)
        await send(FINAL)
        far.leave()
        assert await receive() == DISCONNECT
        await anyio.sleep(0.01)
        return "background done"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") == "background done"
    assert (ended(scope), far.sent) == (None, [START, FINAL])


async def test_an_app_that_has_told_the_void_its_last_message_is_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        await receive()
        await send(START)
        await send(CHUNK)
        await send(FINAL)
        await end_of_grace()
        await turns()
        return "background done"

    assert await serve(app, far, policy="cancel", grace=GRACE_AT_HAND) == "background done"


async def test_a_response_that_owes_its_trailers_is_not_complete() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "trailers": True})
        await send(FINAL)
        await left(far)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"


@pytest.mark.parametrize("closes", ["while the client is there", "into the void"])
async def test_a_websocket_app_that_has_closed_is_not_cancelled(closes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    far = websocket()
    end_of_grace = grace_at_hand(monkeypatch)

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await send(ACCEPT)
        if closes == "into the void":
            far.leave()
            await receive()
        await send(CLOSE)
        far.leave()
        await receive()
        if closes == "into the void":
            await end_of_grace()
        await turns()
        return "tidied up"

    assert await serve(app, far, websocket_policy="cancel", grace=GRACE_AT_HAND) == "tidied up"


@pytest.mark.parametrize("ends_after", ["accept", "a message"])
async def test_a_websocket_app_is_cancelled(ends_after: str) -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        if ends_after == "a message":
            await send(TEXT)
        await left(far)

    scope = far.scope()
    assert await serve(app, far, scope, websocket_policy="cancel") is None
    assert ended(scope) == "cancelled"


async def test_a_websocket_app_that_only_sends_is_cancelled_under_cancel() -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        far.leave()
        while True:
            await send(TEXT)
            await anyio.sleep(0.001)

    scope = far.scope()
    await serve(app, far, scope, websocket_policy="cancel")
    assert ended(scope) == "cancelled"


# Grace


GRACE = 0.03


@pytest.mark.parametrize(
    "options", [{"policy": "cancel"}, {"policy": "mute"}, {"policy": "raise"}, {"websocket_policy": "raise"}]
)
async def test_the_grace_puts_the_cancellation_off(options: Any) -> None:
    far = websocket() if "websocket_policy" in options else http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if "websocket_policy" in options:
            await send(ACCEPT)
        far.leave()
        await receive()
        await anyio.sleep_forever()

    scope = far.scope()
    await serve(app, far, scope, grace=GRACE, **options)
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"
    assert GRACE - 0.003 <= exchange.seconds < 1


@pytest.mark.parametrize("policy", ["mute", "raise", "cancel"])
async def test_no_grace_at_all_cancels_at_once_under_any_policy(policy: Any) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        await anyio.lowlevel.checkpoint()
        raise AssertionError("it goes on")

    scope = far.scope()
    await serve(app, far, scope, policy=policy, grace=0)
    assert ended(scope) == "cancelled"


async def test_an_app_that_ends_within_its_grace_is_not_cancelled() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        await receive()
        await anyio.sleep(0.002)
        return "saved"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel", grace=60) == "saved"
    assert ended(scope) == "returned"


async def test_an_endless_grace_cancels_never_and_what_is_sent_is_muted(caplog: pytest.LogCaptureFixture) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        await receive()
        await send(START)
        await anyio.sleep(0.03)
        return "saved"

    assert await serve(app, far, policy="cancel", grace=math.inf) == "saved"
    assert [message["type"] for message in far.wasted] == ["http.response.start", "http.response.body"], "the skeleton"


@pytest.mark.parametrize("options", [{}, {"grace": math.inf}, {"policy": "cancel", "grace": math.inf}])
async def test_an_endless_grace_needs_nobody_to_look(options: Any) -> None:
    """Nor does none under `mute`. Under `cancel` somebody looks: what is sent is to be muted."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(0.01)

    await serve(app, far, **options)
    assert (far.reads > 0) == ("policy" in options)


async def test_the_grace_ends_with_the_app() -> None:
    """A timer that was still there would hold the server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        send.__self__.server_receive.__self__.leave()
        await receive()

    far = http()
    gc.disable()
    try:
        await serve(app, far, policy="cancel", grace=3600)
        left = weakref.ref(far)
        del far
        assert left() is None
    finally:
        gc.enable()


# Installed more than once


def on_a_loop_of_its_own(app: App, seen: list[Any]) -> App:
    """As an adapter has it, with a thread of its own."""

    async def adapter(scope: Any, receive: Any, send: Any) -> None:
        async def inner_receive() -> Any:
            return anyio.from_thread.run(receive)

        async def inner_send(message: Any) -> None:
            anyio.from_thread.run(send, message)

        await anyio.to_thread.run_sync(lambda: asyncio.run(app(scope, inner_receive, inner_send)))  # type: ignore[arg-type]  # it is a coroutine
        seen.append("adapter goes on")

    return adapter


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that is done to a connection is done on its own event loop; what was done."""
    done: list[str] = []

    def watched(name: str) -> Any:
        do = getattr(_connection.Connection, name)

        def do_at_home(self: Any, *arguments: Any) -> Any:
            assert _runtime.event_loop() is self.loop, name
            done.append(name)
            return do(self, *arguments)

        return do_at_home

    for name in ("learn", "end_app", "plan_end", "tell_readers", "watch", "look"):
        monkeypatch.setattr(_connection.Connection, name, watched(name))
    return done


@pytest.mark.parametrize("outer", [{"policy": "cancel"}, {"policy": "cancel", "grace": 0.01}, {}])
async def test_an_inner_app_on_an_event_loop_of_its_own_is_cancelled_there(outer: Any, at_home: list[str]) -> None:
    far = http()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        anyio.from_thread.run_sync(far.leave)
        try:
            await asyncio.sleep(2 * SECONDS)
        finally:
            await asyncio.sleep(0.001)
            seen.append("cleaned up")

    inner = DisconnectMiddleware(app, policy="mute" if outer else "cancel")
    scope = far.scope()
    await serve(on_a_loop_of_its_own(inner, seen), far, scope, **outer)
    assert (seen, ended(scope)) == (["cleaned up", "adapter goes on"], "cancelled")
    assert outer or "watch" in at_home


async def test_an_inner_app_on_an_event_loop_of_its_own_has_a_shield(at_home: list[str]) -> None:
    far = http()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with connection(scope).shield():
            anyio.from_thread.run_sync(far.leave)
            while connection(scope).connected:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            seen.append("committed")
        await asyncio.sleep(2 * SECONDS)

    scope = far.scope()
    await serve(on_a_loop_of_its_own(DisconnectMiddleware(app), seen), far, scope, policy="cancel")
    assert (seen, ended(scope)) == (["committed", "adapter goes on"], "cancelled")
    assert {*at_home} >= {"learn", "end_app", "plan_end", "tell_readers", "look"}


def stack(app: App, outer: Any, inner: Any, seen: list[Any]) -> App:
    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        await turns()
        seen.append(response.status_code)
        return response

    return DisconnectMiddleware(BaseHTTPMiddleware(DisconnectMiddleware(app, **inner), dispatch), **outer)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({}, {"policy": "cancel"}),
        ({"policy": "cancel"}, {}),
        ({"policy": "cancel"}, {"policy": "cancel"}),
        ({"grace": GRACE}, {}),
        ({}, {"grace": GRACE}),
    ],
)
async def test_the_inner_app_is_cancelled_in_its_own_task_and_what_stands_outside_is_not(
    outer: Any, inner: Any
) -> None:
    far = http()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(anyio.get_current_task() == server)
        try:
            await left(far)
        finally:
            with shielded():
                await turns()
                await anyio.sleep(0.002)
            seen.append("cleaned up")

    server = anyio.get_current_task()
    scope = far.scope()
    await call(stack(app, outer, inner, seen), far, scope)
    assert seen == [False, "cleaned up", 499]
    assert ended(scope) == "cancelled"
    assert far.sent == [START_499, EMPTY_FINAL]


@pytest.mark.parametrize("installs", [2, 3])
async def test_installs_in_one_task_cancel_it_once(installs: int) -> None:
    far = http()
    cleaned: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            with shielded():
                await turns()
            cleaned.append("up")

    wrapped: App = app
    for _ in range(installs):
        wrapped = CancelOnDisconnect(wrapped)
    scope = far.scope()
    assert await call(wrapped, far, scope) is None
    assert (cleaned, ended(scope)) == (["up"], "cancelled")


async def test_what_stands_outside_is_cancelled_when_no_inner_app_is_left() -> None:
    far = http()
    steps: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        steps.append("inner")

    async def between(scope: Any, receive: Any, send: Any) -> None:
        await DisconnectMiddleware(inner)(scope, receive, send)
        await left(far)

    scope = far.scope()
    assert await serve(between, far, scope, policy="cancel") is None
    assert (steps, ended(scope)) == (["inner"], "cancelled")


async def test_an_inner_app_that_comes_after_the_departure_is_not_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one cancellation has ended what stands outside; its clean-up may call an app."""
    monkeypatch.setattr(_runtime, "_UNTIL_SWALLOWED", 0)
    far = http()
    steps: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        with shielded():
            await turns()
            steps.append(await receive())

    async def between(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            with shielded():
                await DisconnectMiddleware(inner)(scope, receive, send)

    await serve(between, far, policy="cancel")
    assert steps == [DISCONNECT]


async def test_an_inner_app_that_comes_after_the_departure_is_cancelled_in_a_task_of_its_own() -> None:
    far = http()
    steps: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep(2 * SECONDS)
        finally:
            steps.append("inner cancelled")

    async def between(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(DisconnectMiddleware(inner), scope, receive, send)
                steps.append("cleaned up")

    await serve(between, far, policy="cancel")
    assert steps == ["inner cancelled", "cleaned up"]


async def test_an_inner_app_that_comes_after_the_departure_has_the_rest_of_the_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = http()
    steps: list[Any] = []
    end_of_grace = grace_at_hand(monkeypatch)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        try:
            await turns(20)
            steps.append("goes on")
            await end_of_grace()
            await anyio.sleep(2 * SECONDS)
        finally:
            steps.append("inner cancelled")

    async def between(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await known(scope)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(DisconnectMiddleware(inner), scope, receive, send)
        steps.append("between goes on")

    scope = far.scope()
    await serve(between, far, scope, grace=GRACE_AT_HAND)
    assert steps == ["goes on", "inner cancelled", "between goes on"]
    assert ended(scope) == "cancelled"


async def test_an_inner_app_that_is_complete_and_works_in_the_background_is_not_cancelled() -> None:
    """P3, although what stands outside has not sent it yet."""
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)
        far.leave()
        await connection(scope).wait_disconnected()
        await anyio.sleep(0.01)
        steps.append("background done")

    async def holding(scope: Any, receive: Any, send: Any) -> None:
        async def keep(message: Any) -> None:
            steps.append(message["type"])

        await DisconnectMiddleware(app)(scope, receive, keep)

    await serve(holding, far, policy="cancel")
    assert steps == ["http.response.start", "http.response.body", "background done"]


@on_asyncio
async def test_each_of_two_inner_apps_is_cancelled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the end of one is taken for an ordinary end by what stands around both."""
    monkeypatch.setattr(_connection, "_SECONDS_TO_END", 0.005)
    monkeypatch.setattr(_runtime, "_UNTIL_SWALLOWED", 0)
    far = http()
    steps: list[str] = []

    def app(name: str, seconds: float) -> DisconnectMiddleware:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                await anyio.sleep(seconds)
                steps.append(name)

        return DisconnectMiddleware(app)

    async def ignore(message: Any) -> None: ...

    async def between(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            for each in (app("one", 0), app("other", 0.03)):
                tasks.start_soon(each, dict(scope), receive, ignore)
            await turns()
            far.leave()

    await serve(between, far, policy="cancel")
    assert steps == ["one", "other"]


async def test_what_goes_on_around_an_inner_app_that_was_cancelled_is_cancelled_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes that for an ordinary end, and has a while to send what it makes of it."""
    monkeypatch.setattr(_connection, "_SECONDS_TO_END", 0.01)
    far = http()
    scope = far.scope()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    async def ignore(message: Any) -> None: ...

    async def between(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(DisconnectMiddleware(app), scope, receive, ignore)
        await turns()
        steps.append("goes on")
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("cancelled")

    await serve(between, far, scope, policy="cancel")
    assert (steps, ended(scope)) == (["goes on", "cancelled"], "cancelled")


async def test_an_inner_app_that_is_complete_is_not_cancelled() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)
        steps.append("background")

    async def holding(scope: Any, receive: Any, send: Any) -> None:
        """Between the two, it keeps the last message until the app has ended."""
        kept: list[Any] = []

        async def keep(message: Any) -> None:
            kept.append(message)

        await DisconnectMiddleware(app)(scope, receive, keep)
        far.leave()
        await known(scope)
        steps.append("out")

    await serve(holding, far, policy="cancel")
    assert steps == ["background", "out"]


# Frameworks


async def test_a_handler_of_starlette_is_cancelled_and_its_middleware_is_quiet() -> None:
    far = http()
    seen: list[Any] = []

    async def slow(request: Request) -> Response:
        try:
            await left(far)
        finally:
            seen.append("ended")
        raise AssertionError

    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        seen.append(response.status_code)
        return response

    app = Starlette(routes=[Route("/", slow)])
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    await call(app, far)
    assert seen == ["ended", 499]


async def test_a_generator_of_a_stream_ends_before_the_app_does() -> None:
    far = http()
    seen: list[str] = []

    async def tokens() -> AsyncIterator[str]:
        try:
            yield "token"
            await left(far)
        finally:
            seen.append("generator closed")

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(tokens(), background=BackgroundTask(seen.append, "background"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Starlette(routes=[Route("/", endpoint)])(scope, receive, send)
        finally:
            gc.collect()
            seen.append("app ended")

    await serve(app, far, policy="cancel")
    assert seen[0] == "generator closed"
    assert seen[-1] == "app ended"


async def test_a_background_task_of_starlette_runs_to_its_end() -> None:
    far = http()
    done: list[str] = []

    async def later() -> None:
        far.leave()
        await anyio.sleep(0.01)
        done.append("later")

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("hello", background=BackgroundTask(later))

    await serve(Starlette(routes=[Route("/", endpoint)]), far, policy="cancel", grace=0.001)
    assert done == ["later"]


# Frameworks that listen by themselves, and have the handler in a task of its own


def listening(handler: App, steps: list[Any], reacts: bool = True) -> App:
    """As Quart and Django do: the first of the two to end ends the other."""

    async def listen(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        steps.append("heard")
        if not reacts:
            await anyio.sleep_forever()

    async def framework(scope: Any, receive: Any, send: Any) -> str:
        both = [asyncio.ensure_future(handler(scope, receive, send)), asyncio.ensure_future(listen(receive))]
        try:
            _, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        except asyncio.CancelledError:
            steps.append("framework cancelled")
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            raise
        return "done"

    return framework


@on_asyncio
@pytest.mark.parametrize("grace", [None, 0.005])
async def test_a_framework_that_ends_its_handler_by_itself_is_not_cancelled(grace: Any) -> None:
    far = http()
    steps: list[Any] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            await turns(20)
            steps.append("cleaned up")

    scope = far.scope()
    assert await serve(listening(handler, steps), far, scope, policy="cancel", grace=grace) == "done"
    assert steps == ["heard", "cleaned up"]
    assert living() == 1 + len(asyncio.all_tasks() - {asyncio.current_task()})


class Plain:
    """What granian 1.7.6 gives to be awaited: asyncio's word for a future, and nothing but what a task needs."""

    _asyncio_future_blocking = False

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.get_loop = future.get_loop
        self.add_done_callback = future.add_done_callback
        self.cancel = future.cancel
        self.result = future.result

    def __await__(self) -> Any:
        self._asyncio_future_blocking = True
        yield self
        return self.result()


@on_asyncio
async def test_the_app_is_cancelled_in_what_cannot_be_asked_whether_it_is_cancelled() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await Plain(asyncio.get_running_loop().create_future())

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"


@on_asyncio
async def test_a_framework_that_hears_of_it_and_does_not_react_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "_SECONDS_TO_REACT", 0.005)
    far = http()
    steps: list[Any] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            await turns()
            steps.append("cleaned up")

    scope = far.scope()
    assert await serve(listening(handler, steps, reacts=False), far, scope, policy="cancel") is None
    assert (steps, ended(scope)) == (["heard", "framework cancelled", "cleaned up"], "cancelled")


@on_asyncio
async def test_a_framework_whose_handler_does_not_end_is_cancelled_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "_SECONDS_TO_REACT", 0.005)
    monkeypatch.setattr(_connection, "_SECONDS_TO_END_BY_ITSELF", 0.02)
    far = http()
    steps: list[Any] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        except asyncio.CancelledError:
            steps.append("handler cancelled")
        await anyio.sleep_forever()

    scope = far.scope()
    began = anyio.current_time()
    assert await serve(listening(handler, steps), far, scope, policy="cancel") is None
    assert anyio.current_time() - began >= 0.02
    assert (steps, ended(scope)) == (["heard", "handler cancelled", "framework cancelled"], "cancelled")


@on_asyncio
@pytest.mark.parametrize("timeout", [None, 0.001])
async def test_a_handler_that_waits_for_tasks_of_its_own_is_cancelled_soon(
    timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has received the disconnect who could end it."""
    monkeypatch.setattr(_connection, "_SECONDS_TO_REACT", 0.005)
    monkeypatch.setattr(_connection, "_SECONDS_TO_END_BY_ITSELF", 60)
    far = http()
    steps: list[str] = []

    async def work() -> None:
        await left(far)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.ensure_future(work())
        try:
            while True:
                await asyncio.wait({task}, timeout=timeout)
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise
        finally:
            task.cancel()

    scope = far.scope()
    await serve(DisconnectMiddleware(app), far, scope, policy="cancel")
    assert (steps, ended(scope)) == (["cancelled"], "cancelled")


@on_asyncio
@pytest.mark.parametrize("asks", ["waits", "polls"])
async def test_a_framework_that_waits_for_the_tasks_that_it_has_cancelled_has_reacted(
    asks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "_SECONDS_TO_REACT", 0.01)
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            while asks == "polls" and not await request.is_disconnected():
                await asyncio.sleep(0.001)
            if asks == "waits":
                await receive()

        async def handle() -> None:
            try:
                await left(far)
            finally:
                await asyncio.sleep(0.1)
                steps.append("handler cleaned up")

        request = Request(scope, receive)
        await request.body()
        tasks = {asyncio.ensure_future(listen()), asyncio.ensure_future(handle())}
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        steps.append("orderly end")

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert (steps, ended(scope)) == (["handler cleaned up", "orderly end"], "returned")


# Nothing is left behind


class Scope(dict):  # type: ignore[type-arg]  # a dict that can be referred to weakly
    pass


def living() -> int:
    """How many tasks there are."""
    if is_trio():
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def all_but(before: int) -> None:
    """Wait until there are no more tasks than that. On trio the watcher's timers are tasks, one for each loop."""
    with anyio.fail_after(SECONDS):
        while living() > before:
            await anyio.sleep(0.001)


ENDS = ["normal", "cancelled", "swallowed", "raised", "cancelled by others", "ignored"]


class Thing:
    """To be referred to weakly."""


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@on_asyncio
async def test_an_exception_that_its_task_keeps_keeps_nothing_else() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["thing"] = Thing()
        raise ValueError("the app's own")

    with without_collections():
        far = http()
        scope = far.scope()
        task = asyncio.ensure_future(DisconnectMiddleware(app)(scope, far.receive, far.send))
        await asyncio.wait({task}, timeout=SECONDS)
        assert isinstance(task.exception(), ValueError)
        thing = weakref.ref(scope["thing"])
        del scope, task, far
        assert thing() is None


@pytest.mark.parametrize("policy", ["mute", "raise", "cancel"])
async def test_the_apps_own_exception_has_its_context_wherever_it_is_called(policy: Any) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            far.leave()
            await known(scope)
            with shielded():
                raise IndexError("the root of the evil")
        except IndexError:
            raise KeyError("own")  # noqa: B904

    try:
        raise LookupError("no static file")
    except LookupError:
        with pytest.raises(KeyError) as caught:
            await serve(app, far, policy=policy, grace=60)
    root = caught.value.__context__
    assert isinstance(root, IndexError)
    assert isinstance(root.__context__, LookupError)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames.count("__call__") == 1


@on_asyncio
@pytest.mark.parametrize("error", [ValueError, ConnectionResetError])
async def test_an_exception_that_a_send_with_a_timeout_waited_for_keeps_nothing(error: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["thing"] = Thing()
        await send(START)

    with without_collections():
        far = http()
        scope = far.scope()
        drained: list[Any] = [asyncio.get_running_loop().create_future()]

        async def send(message: Any) -> None:
            await drained[0]

        task = asyncio.ensure_future(DisconnectMiddleware(app, send_timeout=60)(scope, far.receive, send))
        await turns()
        drained.pop().set_exception(error())
        await asyncio.wait({task}, timeout=SECONDS)
        assert isinstance(task.exception(), (ValueError, type(None)))
        thing = weakref.ref(scope["thing"])
        del scope, task, far, send
        await turns()
        assert thing() is None


@on_asyncio
async def test_a_listener_that_is_left_behind_and_gives_up_later_leaves_no_task() -> None:
    far = http()
    listeners: list[Any] = []

    async def listen(receive: Any) -> None:
        while True:
            with anyio.move_on_after(0.005):
                await receive()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listeners.append(asyncio.ensure_future(listen(receive)))
        await turns()
        await send(START)
        await send(FINAL)

    before = asyncio.all_tasks()
    await serve(app, far)
    await anyio.sleep(0.05)
    listeners[0].cancel()
    await asyncio.wait(listeners)
    await turns()
    assert asyncio.all_tasks() == before


async def test_what_waits_to_receive_beyond_the_end_keeps_nothing_when_it_has() -> None:
    """An app that leaves a task behind."""
    waits = anyio.Event()

    async def wait(receive: Any) -> None:
        waits.set()
        assert await receive() == DISCONNECT

    with without_collections():
        far = http()
        scope = far.scope()
        left_behind = weakref.ref(far)

        async with anyio.create_task_group() as tasks:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await receive()
                tasks.start_soon(wait, receive)
                await waits.wait()
                await turns()

            await DisconnectMiddleware(app)(scope, far.receive, far.send)
            far.leave()
        del far, scope, app
        await turns()
        assert left_behind() is None


@on_asyncio
async def test_what_meets_the_orderly_end_does_not_keep_what_the_app_raised() -> None:
    """A generator that was left would wait for the garbage collector, since BaseHTTPMiddleware keeps what it meets."""
    far = http()
    things: list[Any] = []
    blocks = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        far.leave()
        await known(scope)
        await send(START)

    async def send(message: Any) -> None:
        blocks.set()
        await anyio.sleep_forever()

    with without_collections():
        task = asyncio.ensure_future(DisconnectMiddleware(app, policy="raise")(far.scope(), far.receive, send))
        await asyncio.wait_for(blocks.wait(), SECONDS)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as met:
            assert things[0]() is None
            del met
        else:
            raise AssertionError("it is not heard")


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("end", ENDS)
async def test_scope_server_and_app_are_free_at_the_end_without_the_garbage_collector(
    end: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch.voids, "seconds", 3600)

    async def exchange() -> list[weakref.ref[Any]]:
        far: Any = http() if kind == "http" else websocket()
        scope = Scope(far.scope())

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            if kind == "websocket":
                await send(ACCEPT)
            await anyio.sleep(0.004)
            if end == "normal":
                return
            if end == "ignored":
                far.leave()
                await known(scope)
                return
            if end == "raised":
                raise ValueError
            if end == "cancelled by others":
                others.cancel()
            try:
                await left(far)
            except anyio.get_cancelled_exc_class():
                if end != "swallowed":
                    raise

        with anyio.CancelScope() as others:
            policy: Any = "mute" if end == "ignored" else "cancel"
            with contextlib.suppress(ValueError):
                await DisconnectMiddleware(app, policy=policy, websocket_policy=policy, send_timeout=5)(
                    scope, far.receive, far.send
                )
        return [weakref.ref(scope), weakref.ref(far), weakref.ref(app)]

    before = living()
    gc.disable()
    try:
        with anyio.fail_after(SECONDS):
            refs = await exchange()
        with anyio.fail_after(1):
            while [ref() for ref in refs] != [None, None, None]:
                await anyio.sleep(0.001)
        if end != "ignored":
            await all_but(before)
    finally:
        gc.enable()


async def test_a_departure_leaves_no_task_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch.voids, "seconds", 0.01)
    before = living()
    for policy, grace in (("cancel", None), ("cancel", 60), ("mute", 0), ("mute", None), ("raise", 60)):
        far = http()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            far.leave()
            await receive()
            await turns()

        await serve(app, far, policy=policy, grace=grace)
        await all_but(before)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_departure_that_only_what_the_app_left_behind_hears_of_is_told_and_holds_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_watch.departures, "seconds", 3600)
    monkeypatch.setattr(_watch.voids, "seconds", 3600)
    heard: list[Any] = []
    told: list[Any] = []

    async def listen(receive: Any) -> None:
        await receive()
        heard.append((await receive())["type"])

    async def exchange() -> weakref.ref[Any]:
        far: Any = http() if kind == "http" else websocket()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.start_soon(listen, receive)
            await turns()

        async with anyio.create_task_group() as tasks:
            await serve(app, far, on_disconnect=told.append)
            far.leave()
        return weakref.ref(far)

    left = await exchange()
    await turns()
    gc.collect()
    assert (heard, told, left()) == ([f"{kind}.disconnect"], [], None)
    assert caplog.messages == []


async def test_nothing_is_logged_above_debug_of_a_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    far = http()
    caplog.set_level(logging.INFO)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    await serve(app, far, policy="cancel")
    assert [record.levelname for record in caplog.records if record.name == "disconnect_mw"] == ["INFO"]
    assert caplog.messages[-1].endswith("and was cancelled")


@on_asyncio
async def test_a_thread_that_the_app_waits_for_is_given_up() -> None:
    """Nobody can cancel it."""
    far = http()
    until = Until()
    loop = asyncio.get_running_loop()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.to_thread.run_sync(poll, connection(scope))

    def poll(client: Any) -> None:
        loop.call_soon_threadsafe(far.leave)
        while client.connected:
            time.sleep(0.001)
        loop.call_soon_threadsafe(until.note, "the thread has ended")

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"
    with anyio.fail_after(SECONDS):
        await until("the thread has ended")


def test_each_event_loop_has_timers_of_its_own() -> None:
    """Two that take turns."""
    loops = [asyncio.new_event_loop() for _ in range(2)]
    fars = [http() for _ in range(4)]
    scopes = [far.scope() for far in fars]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    async def begin(number: int) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(CancelOnDisconnect(app)(scopes[number], fars[number].receive, fars[number].send))
        await asyncio.sleep(0)
        return task

    tasks = [loops[number % 2].run_until_complete(begin(number)) for number in range(4)]
    for number, far in enumerate(fars):
        far.leave()
        loops[number % 2].run_until_complete(asyncio.wait_for(tasks[number], SECONDS))
    for loop in loops:
        loop.close()
    assert [ended(scope) for scope in scopes] == ["cancelled"] * 4


def test_without_an_event_loop_nothing_is_cancelled() -> None:
    """A coroutine driven by hand."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        assert await receive() == DISCONNECT
        await send(START)
        return "done"

    coroutine = DisconnectMiddleware(app, policy="cancel", grace=1)(far.scope(), far.receive, far.send)
    with pytest.raises(StopIteration) as stopped:
        for _ in range(20):
            coroutine.send(None)
    assert stopped.value.value == "done"


def test_the_words_for_it_are_not_needed() -> None:
    assert issubclass(CancelOnDisconnect, DisconnectMiddleware)
    assert not issubclass(ClientDisconnected, asyncio.CancelledError)
    assert _watch._UNTIL_WARNED == 10


@on_asyncio
async def test_what_runs_in_no_task_cannot_be_cancelled_and_goes_on() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        return "saved"

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def drive() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        coroutine: Any = DisconnectMiddleware(app, policy="cancel")(scope, receive, send)
        try:
            while True:
                coroutine.send(None)
        except StopIteration as end:
            ended.set_result(end.value)
        except BaseException as exception:
            ended.set_exception(exception)

    asyncio.get_running_loop().call_soon(drive)
    assert await asyncio.wait_for(ended, 5) == "saved"
