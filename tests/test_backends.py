"""P8: what there is of an event loop is used, and nothing is imported for it; P10: what is bounded is."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import importlib.util
import subprocess
import sys
import types
from collections.abc import Generator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing

from disconnect_mw import DisconnectMiddleware, _backends, _middleware, _reader
from disconnect_mw._backends import Woken
from disconnect_mw._backends._asyncio import _MARK, ASYNCIO, _EagerCoroutine, _is_marked
from disconnect_mw._backends._base import BY_HAND
from disconnect_mw._backends._trio import TRIO

from .support.messages import CHUNK, DISCONNECT, EMPTY_FINAL, REQUEST, START, START_499, http_scope
from .support.simulated_server import SimulatedServer


@types.coroutine
def pause() -> Generator[None, None, None]:
    yield


def drive(coroutine: Any, steps: int = 100) -> Any:
    """Run a coroutine to its end, with no event loop."""
    for _ in range(steps):
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
    raise AssertionError(f"{coroutine} goes on after {steps} steps")


@pytest.mark.parametrize("installs", [1, 2])
def test_an_app_that_is_driven_by_hand_gets_through_a_departure(installs: int) -> None:
    sent: list[Any] = []
    incoming = [REQUEST, DISCONNECT]

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == REQUEST
        await send(START)
        assert await receive() == DISCONNECT
        await send(CHUNK)

    installed: Any = app
    for _ in range(installs):
        installed = DisconnectMiddleware(installed)
    drive(installed(http_scope(), receive, send))
    assert sent == [START, EMPTY_FINAL]


def test_two_readers_that_are_driven_by_hand_take_turns() -> None:
    there: list[Any] = []

    async def receive() -> Any:
        while not there:
            await pause()
        return there.pop(0)

    first = {"type": "http.request", "body": b"first", "more_body": True}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        listeners = [receive(), receive()]
        for listener in listeners:
            listener.send(None)
        there.append(first)
        assert drive(listeners[0]) == first
        listeners[1].send(None)
        there.append(DISCONNECT)
        assert drive(listeners[1]) == DISCONNECT

    drive(DisconnectMiddleware(app)(http_scope(), receive, SimulatedServer.send))


def test_a_complaint_is_heard_where_nobody_can_be_asked() -> None:
    async def send(message: Any) -> None:
        raise RuntimeError("Invalid header")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(RuntimeError, match="Invalid header"):
            await send(START)

    drive(DisconnectMiddleware(app)(http_scope(), SimulatedServer.receive, send))


@pytest.mark.anyio
async def test_a_trio_that_cannot_say_whether_it_runs_is_recognised(
    anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can from 0.29 on; apps of asyncio have an older one imported too."""
    monkeypatch.delattr(trio.lowlevel, "in_trio_run")
    found = _backends.current()[1]
    monkeypatch.undo()
    assert found is not None
    assert type(found).__name__ == "TrioToken" if anyio_backend_name == "trio" else found is _backends.running_loop()


def test_a_read_by_hand_that_ends_after_the_departure_is_known_answers_it() -> None:
    """P2: nobody can interrupt it, and what the server has given by then comes too late."""
    news: list[Any] = []

    async def receive() -> Any:
        while not news:
            await pause()
        return news.pop(0)

    async def send(message: Any) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "the client has gone")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reading = receive()
        assert reading.send(None) is None
        await send(START)
        news.append({"type": "http.request", "body": b"late", "more_body": True})
        assert drive(reading) == DISCONNECT

    drive(DisconnectMiddleware(app)(http_scope(), receive, send))


def test_a_read_by_hand_that_is_given_up_keeps_no_other_from_the_server() -> None:
    incoming = [REQUEST]

    async def receive() -> Any:
        while not incoming:
            await pause()
        return incoming.pop(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == REQUEST
        reading = receive()
        reading.send(None)
        reading.close()
        incoming.append(DISCONNECT)
        assert await receive() == DISCONNECT

    drive(DisconnectMiddleware(app)(http_scope(), receive, SimulatedServer.send))


@pytest.mark.anyio
async def test_where_nobody_tests_nothing_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_middleware, "inside", None)
    server = SimulatedServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert send.__self__ is receive.__self__
        await send(START)

    await DisconnectMiddleware(app)(http_scope(), server.receive, server.send)
    assert server.sent == [START]


def test_without_trio_none_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trio")
    assert not _backends.is_trio_running()


def test_a_trio_that_is_being_imported_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
    assert not _backends.is_trio_running()


def test_without_asyncio_nothing_is_a_queue_or_a_cancellation_of_its(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, cancellation = asyncio.Queue[None](), asyncio.CancelledError()
    assert _backends.is_asyncio_queue(queue) and _backends.is_cancelled_error(cancellation)
    monkeypatch.delitem(sys.modules, "asyncio")
    assert not (_backends.is_asyncio_queue(queue) or _backends.is_cancelled_error(cancellation))


def test_without_asyncio_there_is_no_loop() -> None:
    program = """if True:
        import sys
        sys.modules["asyncio"] = None
        from disconnect_mw import _backends
        del sys.modules["asyncio"]
        assert _backends.running_loop() is None
        assert "asyncio" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_the_loop_is_found_once_asyncio_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("disconnect_mw._backends")
    assert spec is not None and spec.loader is not None
    runtime = importlib.util.module_from_spec(spec)  # another than the one that is in use
    spec.loader.exec_module(runtime)
    with monkeypatch.context() as context:
        context.delitem(sys.modules, "asyncio")
        assert runtime.running_loop() is None
    assert runtime.running_loop() is None

    async def main() -> None:
        assert runtime.running_loop() is asyncio.get_running_loop()
        assert runtime.asyncio_backend.current_task(asyncio.get_running_loop()) is asyncio.current_task()

    asyncio.run(main())


# A task whose first step is made at once


def run_asyncio(main: Any) -> None:
    asyncio.run(asyncio.wait_for(main(), 5))


def test_a_coroutine_that_does_not_wait_has_ended_when_start_returns() -> None:
    async def main() -> None:
        seen = []

        async def quick() -> None:
            seen.append(asyncio.current_task())

        task = ASYNCIO.spawn(quick())
        assert seen == [task]
        assert asyncio.current_task() is not task
        await asyncio.sleep(0)
        assert isinstance(task, asyncio.Task)
        assert task.done()

    run_asyncio(main)


def test_a_coroutine_that_waits_goes_on_in_its_task_and_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def main() -> None:
        seen: list[Any] = []
        bell = asyncio.Event()
        variable.set("outside")

        async def slow() -> None:
            seen.append((asyncio.current_task(), variable.get()))
            variable.set("inside")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bell.wait)
            seen.append((asyncio.current_task(), "outside"))

        task = ASYNCIO.spawn(slow())
        assert variable.get() == "outside"
        await asyncio.sleep(0)
        bell.set()
        assert isinstance(task, asyncio.Task)
        await task
        assert seen == [(task, "outside")] * 2

    run_asyncio(main)


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_started_coroutine_is_cancelled_at_any_time(turns: int) -> None:
    async def main() -> None:
        ended = []

        async def slow() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        task = ASYNCIO.spawn(slow())
        assert isinstance(task, asyncio.Task)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]

    run_asyncio(main)


def test_one_that_has_ended_is_cancelled_to_no_effect() -> None:
    async def main() -> None:
        async def quick() -> None: ...

        task = ASYNCIO.spawn(quick())
        assert isinstance(task, asyncio.Task)
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert task.done()

    run_asyncio(main)


def test_it_can_be_started_where_no_task_runs() -> None:
    async def main() -> None:
        done = asyncio.Event()

        async def quick() -> None:
            done.set()

        asyncio.get_running_loop().call_soon(lambda: ASYNCIO.spawn(quick()))
        await done.wait()

    run_asyncio(main)


def test_a_stepped_coroutine_is_a_coroutine() -> None:
    async def slow() -> None:
        await pause()

    stepped = _EagerCoroutine(slow(), contextvars.copy_context())
    stepped.start()
    assert stepped.cr_frame is not None, "for whoever inspects the task"
    with pytest.raises(TypeError, match="it cannot be awaited"):
        stepped.__await__()
    assert stepped.send(None) is None
    stepped.close()
    with pytest.raises(StopIteration):
        drive_ended = _EagerCoroutine(quick(), contextvars.copy_context())
        drive_ended.start()
        drive_ended.throw(asyncio.CancelledError)


async def quick() -> None: ...


# Bounds


@pytest.mark.anyio
async def test_what_is_run_for_a_time_is_cancelled_after_it() -> None:
    ended = []

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.fail_after(5):
        await _backends.current()[0].move_on_after(0.01, slow())
        await anyio.lowlevel.checkpoint()
    assert ended == [True]


@pytest.mark.anyio
async def test_what_is_run_for_a_time_and_cancelled_from_outside_passes_the_cancellation_on() -> None:
    ended = []

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.move_on_after(0.01) as scope:
        await _backends.current()[0].move_on_after(60, slow())
    await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert ended == [True]


def test_by_hand_nothing_bounds_it() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def gone() -> Any:
        return dict(DISCONNECT)

    async def send(message: Any) -> None:
        seen.append(message)

    drive(DisconnectMiddleware(app)(http_scope(), gone, send))
    assert seen == [START_499, EMPTY_FINAL]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_in_search_of_a_disconnect_only_so_much_is_read() -> None:
    chunk = {"type": "http.request", "body": b"x", "more_body": True}
    server = SimulatedServer(incoming=[chunk] * 1000)

    async def picky(message: Any) -> None:
        raise RuntimeError("Invalid header")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(RuntimeError):
            await send(START)
        assert server.reads == _reader._MESSAGES_TO_ASK
        assert [await receive() for _ in range(1000)] == [chunk] * 1000

    await DisconnectMiddleware(app)(http_scope(), server.receive, picky)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
@pytest.mark.parametrize("exit", [KeyboardInterrupt, SystemExit])
async def test_an_exit_in_the_servers_receive_is_no_message_for_the_app(exit: type[BaseException]) -> None:
    incoming = [REQUEST]

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        raise exit

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(exit):
            await receive()

    await DisconnectMiddleware(app)(http_scope(), receive, SimulatedServer().send)


# Several event loops in one process


def test_trio_and_no_loop_come_after_asyncio_in_one_process() -> None:
    """P8: from 3.12 on `asyncio.current_task` raises where no loop of asyncio runs."""
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())
        await send(START)

    async def gone() -> Any:
        return dict(DISCONNECT)

    async def send(message: Any) -> None: ...

    middleware = DisconnectMiddleware(app)
    asyncio.run(middleware(http_scope(), gone, send))
    trio.run(middleware, http_scope(), gone, send)
    drive(middleware(http_scope(), gone, send))
    assert heard == [DISCONNECT] * 3


def test_trio_that_is_a_guest_of_asyncio_is_trio() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for _ in range(3):
            await send(CHUNK)
        await trio.lowlevel.checkpoint()
        ended.append("app")

    async def gone() -> Any:
        await trio.lowlevel.checkpoint()
        return dict(DISCONNECT)

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            DisconnectMiddleware(app),
            http_scope(),
            gone,
            send,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        (await done).unwrap()

    asyncio.run(asyncio.wait_for(main(), 5))
    assert ended == ["app"]


# What each backend does where there is nothing to do


def test_by_hand_nothing_is_started_called_later_or_cancelled() -> None:
    ran: list[str] = []

    async def run() -> None:
        ran.append("run")

    BY_HAND.spawn_background(run(), contextvars.copy_context())
    with pytest.raises(RuntimeError, match="no event loop runs"):
        BY_HAND.call_later(0, lambda: None)
    error = LookupError()
    assert (BY_HAND.token(), BY_HAND.absorb(None, error), ran) == (None, False, [])
    assert BY_HAND.split_cancellation(error) == (None, error)
    assert (BY_HAND.has_ended(None), BY_HAND.coroutine(None)) == (True, None)


def test_on_asyncio_a_future_is_awaited_in_time_and_nothing_is_taken_back_from_a_task_that_was_not_woken() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        loop.call_soon(future.set_result, "in time")
        assert await ASYNCIO.fail_after(5, future) == "in time"
        ASYNCIO.uncancel(asyncio.current_task())

    run_asyncio(main)


def test_a_cancellation_that_a_task_has_made_of_ours_is_ours() -> None:
    ours = asyncio.CancelledError(_MARK)
    made_of_it = asyncio.CancelledError()
    made_of_it.__context__ = ours
    assert _is_marked(made_of_it)
    assert not _is_marked(asyncio.CancelledError())


def test_on_trio_a_task_that_is_not_at_the_server_is_not_woken() -> None:
    async def server() -> None:
        await trio.sleep_forever()

    async def main() -> None:
        call = TRIO.wakeable(server)
        task = trio.lowlevel.current_task()
        assert not TRIO.wake(task, call)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wakes, call, task)
            with trio.fail_after(5), pytest.raises(Woken):
                await call()

    async def wakes(call: Any, task: Any) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert TRIO.wake(task, call)

    trio.run(main)


def test_by_hand_nothing_is_woken() -> None:
    assert not BY_HAND.wake(None, SimulatedServer.receive)


def test_by_hand_there_is_no_cancelled_scope() -> None:
    assert not BY_HAND.is_in_cancelled_scope()


def test_an_app_that_callbacks_of_asyncio_drive_is_served() -> None:
    """granian 1.7.6 runs it in no task."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(EMPTY_FINAL)

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        ended = asyncio.Event()
        call = DisconnectMiddleware(app)(http_scope(), None, send)

        def step() -> None:
            with pytest.raises(StopIteration):
                call.send(None)
            ended.set()

        asyncio.get_running_loop().call_soon(step)
        await ended.wait()

    asyncio.run(main())
    assert sent == [START, EMPTY_FINAL]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_an_exit_counts_as_a_cancellation_by_others(error: BaseException) -> None:
    assert ASYNCIO.split_cancellation(error) == (error, None)
