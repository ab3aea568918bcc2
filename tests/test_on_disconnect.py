"""`client.on_disconnect(callback, *arguments)`: called once when the client leaves, from any thread."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from disconnect_mw import DisconnectMiddleware, connection
from disconnect_mw._connection import Connection

from .support.apps import leaving
from .support.messages import CHUNK, FINAL, START, http_scope
from .support.serving import ON_ASYNCIO, SECONDS, Until, is_trio, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


def far_of(send: Any) -> Any:
    return send.__self__.server_receive.__self__


def ends(what: Callable[[], bool]) -> Callable[[], Any]:
    async def wait() -> None:
        with anyio.fail_after(SECONDS):
            while not what():
                await anyio.sleep(0.001)

    return wait


async def test_it_is_called_once_when_the_client_leaves_on_the_loop_of_the_exchange() -> None:
    called: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        variable.set("of the handler")
        handle = connection(scope).on_disconnect(
            lambda *arguments: called.append((arguments, threading.get_ident(), variable.get())), 1, "two"
        )
        await leaving(scope, receive, send)
        assert repr(handle) == "<DisconnectCallback called>"
        assert handle.cancel() is False

    await serve(app, http())
    assert called == [((1, "two"), threading.get_ident(), "of the handler")]


async def test_it_is_found_out_although_the_app_never_receives() -> None:
    called: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        connection(scope).on_disconnect(called.append, 1)
        connection(scope).on_disconnect(called.append, 2)
        far_of(send).leave()
        await ends(lambda: len(called) == 2)()

    await serve(app, http())
    assert called == [1, 2]


async def test_it_is_called_at_once_if_the_client_has_left() -> None:
    called: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await leaving(scope, receive, send)
        connection(scope).on_disconnect(called.append, 1)
        assert called == [1]

    scope = http_scope()
    await serve(app, http(), scope)
    handle = connection(scope).on_disconnect(called.append, 2)  # the exchange is over
    assert called == [1, 2]
    assert handle.cancel() is False


async def test_it_is_not_called_while_the_client_is_there() -> None:
    called: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).on_disconnect(called.append, 1)
        await send(START)
        await send(CHUNK)
        await send(FINAL)
        far_of(send).leave()
        await receive()
        await receive()
        connection(scope).on_disconnect(called.append, 2)
        await turns()

    scope = http_scope()
    await serve(app, http(), scope)
    connection(scope).on_disconnect(called.append, 3)
    await turns()
    assert called == []


async def test_nothing_is_held_afterwards() -> None:
    kept: list[Any] = []

    class Callback:
        def __call__(self) -> None:
            """Never called."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        callback = Callback()
        kept.append((weakref.ref(callback), connection(scope).on_disconnect(callback)))

    gc.disable()
    try:
        await serve(app, http())
        (reference, handle) = kept[0]
        assert reference() is None
        assert handle.cancel() is True
    finally:
        gc.enable()


async def test_a_handle_cancels_and_leaving_it_does() -> None:
    called: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        handle = client.on_disconnect(called.append, 1)
        assert repr(handle) == "<DisconnectCallback waiting>"
        assert handle.cancel() is True
        assert handle.cancel() is True
        for _ in range(3):
            with client.on_disconnect(called.append, 2):
                pass
        waiters = client._found.root.parts.waiters  # type: ignore[union-attr]  # it is a connection
        assert waiters is not None and waiters._waiters == ()
        await leaving(scope, receive, send)

    await serve(app, http())
    assert called == []


async def test_threads_register_and_cancel() -> None:
    """A sync handler runs in a thread; its callback is called on the loop, which is not busy meanwhile."""
    called: list[Any] = []
    is_called = threading.Event()
    here = threading.get_ident()

    def note() -> None:
        called.append(threading.get_ident())
        is_called.set()

    def handler(client: Any, far: Any) -> None:
        with client.on_disconnect(called.append, "not this one"):
            pass
        with client.on_disconnect(note):
            anyio.from_thread.run_sync(far.leave)
            assert is_called.wait(SECONDS)
        client.on_disconnect(called.append, "late")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await anyio.to_thread.run_sync(handler, connection(scope), far_of(send))
        await ends(lambda: len(called) == 2)()

    await serve(app, http())
    assert called == [here, "late"]


async def test_a_thread_that_cancels_before_the_loop_had_its_turn_is_heard() -> None:
    called: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)

        def register() -> None:
            assert client.on_disconnect(called.append, 1).cancel() is True

        thread = threading.Thread(target=register)
        thread.start()
        thread.join(SECONDS)  # the loop has no turn
        await leaving(scope, receive, send)

    await serve(app, http())
    assert called == []


class NotingEvent(threading.Event):
    """Knows that a thread waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waited_for = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.is_waited_for.set()
        return super().wait(timeout)


async def test_in_thread_it_blocks_no_loop_and_a_thread_that_cancels_waits_for_its_end() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()
    called: list[bool] = []
    here = threading.get_ident()

    def blocks() -> None:
        begun.set()
        assert may_end.wait(SECONDS)
        called.append(threading.get_ident() != here)
        ended.set()

    def cancel(handle: Any) -> bool:
        cancelled: bool = handle.cancel()
        assert ended.is_set()
        return cancelled

    async def app(scope: Any, receive: Any, send: Any) -> None:
        handle = connection(scope).on_disconnect(blocks, in_thread=True)
        await leaving(scope, receive, send)
        await ends(begun.is_set)()
        assert handle.cancel() is False  # on the loop, which must not be blocked
        handle._ended = waits = NotingEvent()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, cancel, handle)
            await ends(waits.is_waited_for.is_set)()
            may_end.set()

    await serve(app, http())
    assert called == [True]


async def test_one_that_is_due_in_a_thread_can_still_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    from disconnect_mw import _callbacks

    submitted: list[Callable[[], None]] = []

    class Pool:
        def submit(self, function: Callable[[], None]) -> None:
            submitted.append(function)

    monkeypatch.setattr(_callbacks, "_threads", Pool)
    called: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        handles = [client.on_disconnect(called.append, number, in_thread=True) for number in (1, 2)]
        await leaving(scope, receive, send)
        assert handles[0].cancel() is True

    await serve(app, http())
    for function in submitted:
        function()
    assert called == [2]


async def test_where_no_thread_can_start_that_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from disconnect_mw import _callbacks

    class Pool:
        def submit(self, function: Callable[[], None]) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_callbacks, "_threads", Pool)

    async def app(scope: Any, receive: Any, send: Any) -> str:
        connection(scope).on_disconnect(print, in_thread=True)
        await leaving(scope, receive, send)
        return "done"

    assert await serve(app, http()) == "done"
    assert caplog.messages == ["on_disconnect failed: builtins.print"]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_an_awaitable_is_awaited_on_the_loop(in_thread: bool) -> None:
    until = Until()

    async def abort(request_id: str) -> None:
        await turns()
        until.note((request_id, threading.get_ident()))

    function = (lambda request_id: abort(request_id)) if in_thread else abort

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).on_disconnect(function, "r1", in_thread=in_thread)
        await leaving(scope, receive, send)
        with anyio.fail_after(SECONDS):
            await until(("r1", threading.get_ident()))

    await serve(app, http())


async def test_an_exchange_that_is_over_has_no_loop_for_an_awaitable() -> None:
    closed: list[str] = []

    class Result:
        def __await__(self) -> Any:
            raise AssertionError("there is no loop")

    scope = http_scope()
    await serve(leaving, http(), scope)

    def call() -> Result:
        closed.append("called")
        return Result()

    connection(scope).on_disconnect(call)
    assert closed == ["called"]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_what_it_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture, in_thread: bool) -> None:
    def failing() -> None:
        raise KeyError

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        client.on_disconnect(failing, in_thread=in_thread)
        await leaving(scope, receive, send)
        await ends(lambda: bool(caplog.messages))()
        return "done"

    assert await serve(app, http()) == "done"
    assert re.fullmatch(r"on_disconnect failed: tests\.test_on_disconnect\..*failing", caplog.messages[0])


async def test_a_cancelled_error_of_a_callback_is_logged_and_another_base_exception_passes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await leaving(scope, receive, send)
        client = connection(scope)
        client.on_disconnect(raising, asyncio.CancelledError)
        with pytest.raises(Stop):
            client.on_disconnect(raising, Stop)

    await serve(app, http())
    assert len(caplog.messages) == 1


class Stop(BaseException):
    pass


def raising(kind: type[BaseException]) -> None:
    raise kind


@pytest.mark.parametrize("kind", [Stop, SystemExit, asyncio.CancelledError])
async def test_in_a_thread_whatever_it_raises_is_logged(caplog: pytest.LogCaptureFixture, kind: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).on_disconnect(raising, kind, in_thread=True)
        await leaving(scope, receive, send)
        await ends(lambda: bool(caplog.messages))()

    await serve(app, http())
    assert caplog.messages == ["on_disconnect failed: tests.test_on_disconnect.raising"]


@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("is_later", [False, True])
async def test_a_cancelled_error_of_an_async_callback_is_logged(
    caplog: pytest.LogCaptureFixture, is_later: bool, in_thread: bool
) -> None:
    """It awaits what other code has cancelled."""

    async def failing() -> None:
        if is_later:
            await turns()
        raise asyncio.CancelledError

    async def app(scope: Any, receive: Any, send: Any) -> str:
        connection(scope).on_disconnect(lambda: failing(), in_thread=in_thread)
        await leaving(scope, receive, send)
        await ends(lambda: bool(caplog.messages))()
        return "done"

    assert await serve(app, http()) == "done"
    assert len(caplog.messages) == 1


def test_an_async_callback_that_is_cancelled_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """As `asyncio.run` does it, at the end."""
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).on_disconnect(waits)
        await leaving(scope, receive, send)

    asyncio.run(serve(app, http()))
    assert (ended, caplog.messages) == (["cancelled"], [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_after_a_fork_callbacks_have_threads_as_well() -> None:
    """A server that preloads the app forks its workers."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 10)
    assert (shown.stdout, shown.stderr) == ("parent\nchild\n", "")


FORKS = """
import asyncio, os, threading
from disconnect_mw import DisconnectMiddleware, connection

def play(name):
    said = threading.Event()

    def say():
        print(name, flush=True)
        said.set()

    async def app(scope, receive, send):
        connection(scope).on_disconnect(say, in_thread=True)
        await receive()
        await asyncio.to_thread(said.wait, 60)

    async def receive():
        return {"type": "http.disconnect"}

    asyncio.run(DisconnectMiddleware(app)({"type": "http", "path": "/", "headers": []}, receive, None))

play("parent")
child = os.fork()
if not child:
    play("child")
    os._exit(0)
os.waitpid(child, 0)
"""


async def test_a_websocket_has_it_and_nested_installs_call_it_once() -> None:
    called: list[int] = []
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).on_disconnect(called.append, 1)
        await receive()
        await send({"type": "websocket.accept"})
        far.leave()
        await receive()

    await serve(DisconnectMiddleware(app), far)
    assert called == [1]


async def test_an_inner_exchange_that_has_ended_is_called_no_more() -> None:
    called: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        connection(scope).on_disconnect(called.append, "inner")

    inside = DisconnectMiddleware(inner)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        view = connection(scope)
        view.on_disconnect(called.append, "outer")
        await inside(scope, receive, send)
        far_of(send).leave()
        await receive()

    await serve(app, http())
    assert called == ["outer"]


async def test_one_of_an_exchange_that_ended_before_the_loop_had_its_turn_is_dropped() -> None:
    views: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        views.append(connection(scope))

    await serve(app, http())
    (view,) = views
    assert isinstance(view._found, Connection)
    view.on_disconnect(views.append, 1)
    assert len(views) == 1
    assert is_trio() or view._found.parts.waiters is None


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None,), {}, "on_disconnect takes a function and its arguments, not None: do not call it"),
        (("abort",), {}, "on_disconnect takes a function and its arguments, not 'abort': do not call it"),
        ((turns,), {"in_thread": True}, "on_disconnect takes a plain function with in_thread=True, not an async one"),
    ],
)
async def test_what_cannot_be_called_is_refused_at_once(arguments: Any, options: Any, message: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(TypeError, match=re.escape(message)):
            connection(scope).on_disconnect(*arguments, **options)

    await serve(app, http())
