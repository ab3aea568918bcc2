"""P6: the app of a client that has left is cancelled as `asyncio.timeout` does it, once and wherever it waits."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from disconnect_mw import (
    CancelOnDisconnect,
    ClientDisconnected,
    DisconnectMiddleware,
    _backends,
    _cancellation,
    _telling,
    connection,
)

from .support.messages import ACCEPT, CHUNK, CLOSE, DISCONNECT, EMPTY_FINAL, FINAL, REQUEST, START, START_499, TEXT
from .support.records import ended, gone
from .support.serving import (
    GRACE_AT_HAND,
    SECONDS,
    cancellations,
    checked,
    grace_at_hand,
    left,
    on_asyncio,
    serve,
    shielded,
    turns,
)
from .support.simulated_server import http, websocket
from .support.waits import ASYNCIO_WAITS, PORTABLE_WAITS, slowly

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


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
        await DisconnectMiddleware(app, policy="mute", grace=60)(far.scope(), far.receive, far.send)


# Many at once


@on_asyncio
@pytest.mark.parametrize("count", [1, 4, 5, 300])
async def test_at_most_4_apps_are_cancelled_in_one_turn(count: int) -> None:
    """Each of them has its clean-up in the next, and who shares the loop waits for no more than these."""
    left, cancelled = asyncio.Event(), [0]
    loop, turn = asyncio.get_running_loop(), [0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled[-1] += 1

    async def visit() -> None:
        messages = [REQUEST]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await left.wait()
            return DISCONNECT

        await DisconnectMiddleware(app, policy="cancel")(http().scope(), receive, http().send)

    def next_turn() -> None:
        turn[0] += 1
        cancelled.append(0)
        if turn[0] < count + 40:
            loop.call_soon(next_turn)

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(visit)
        await checked()
        left.set()
        loop.call_soon(next_turn)
    assert sum(cancelled) == count
    assert max(cancelled) <= 4
    assert len([number for number in cancelled if number]) == -(-count // 4)


@on_asyncio
async def test_an_app_that_cannot_be_cancelled_holds_no_other_up() -> None:
    backend, token = _backends.current()
    called: list[str] = []

    def fails() -> None:
        called.append("fails")
        raise ValueError

    def asks() -> None:
        if _cancellation.admits(backend, token, True, asks):
            called.append("cancelled")

    for _ in range(4):
        asks()
    for cancel in (fails, asks):
        assert not _cancellation.admits(backend, token, True, cancel)
    await turns()
    assert called == [*["cancelled"] * 4, "fails", "cancelled"]
    assert token not in _cancellation._turns


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
        far.leave()
        await gone(connection(scope))
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


# Whatever loop there is, and without one


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
    assert _telling._UNTIL_WARNED == 10


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
