"""What asyncio and trio each call a checkpoint, a waiter, a task, an interruption.

Nothing is imported that is not already running: the event loop is found through `sys.modules`. Where none runs at all
(a coroutine driven by hand) a checkpoint is a bare `yield`, a waiter is polled, and nothing can be started.
"""

from __future__ import annotations

import contextvars
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import asyncio


class Started(Protocol):
    def cancel(self) -> Any: ...


Waiter: TypeAlias = "_Polled | _Event | asyncio.Future[None]"


def _running_trio() -> Any:
    """The module, if it is trio that runs this."""
    trio = sys.modules.get("trio")
    return trio if trio is not None and trio.lowlevel.in_trio_run() else None


def _find_loop() -> asyncio.AbstractEventLoop | None:
    global running_loop, current_task
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    # From now on the names are asyncio's own functions: they are called for the messages that are received. Until 3.12
    # current_task is a Python function around this look-up, as dear as all the rest of a receive.
    running_loop = asyncio._get_running_loop
    current_task = asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get
    return running_loop()


running_loop: Callable[[], asyncio.AbstractEventLoop | None] = _find_loop
"""As `asyncio.get_running_loop`, without the exception where none runs."""

current_task: Callable[[Any], asyncio.Task[Any] | None]
"""The task that a loop runs, so that `interrupt` can wake it. It is there once `running_loop` has found a loop."""


@types.coroutine
def _turn() -> Generator[None, None, None]:
    yield  # what asyncio.sleep(0) does


def checkpoint() -> Awaitable[None]:
    """Give every other task of the loop its turn, and let a cancellation in."""
    trio = _running_trio()
    return _turn() if trio is None else trio.lowlevel.checkpoint()


# Waiting


class _Polled:
    """For coroutines that are driven by hand: it is looked at each time that they are driven."""

    __slots__ = ("is_awake",)

    def __init__(self) -> None:
        self.is_awake = False

    def __await__(self) -> Generator[None, None, None]:
        while not self.is_awake:
            yield


class _Event:
    """trio's."""

    __slots__ = ("event",)

    def __init__(self, trio: Any) -> None:
        self.event = trio.Event()

    def __await__(self) -> Generator[Any, Any, None]:
        return self.event.wait().__await__()  # type: ignore[no-any-return]  # reached through sys.modules


def new_waiter() -> Waiter:
    """What one task awaits until somebody calls `wake` with it. An asyncio.Event would be five times as large."""
    trio = _running_trio()
    if trio is not None:
        return _Event(trio)
    loop = running_loop()
    return _Polled() if loop is None else loop.create_future()


def wake(waiter: Waiter) -> None:
    if isinstance(waiter, _Event):
        waiter.event.set()
    elif isinstance(waiter, _Polled):
        waiter.is_awake = True
    elif not waiter.done():
        waiter.set_result(None)


# Starting


class _Stepped(Coroutine[Any, Any, Any]):
    """A coroutine whose first step is made before the task that runs it has its turn."""

    __slots__ = ("_coroutine", "_has_ended", "_is_ahead", "_yielded")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._has_ended = False
        self._is_ahead = False
        self._yielded: Any = None

    def step(self) -> None:
        try:
            self._yielded = self._coroutine.send(None)
        except StopIteration:
            self._has_ended = True
        except BaseException:  # an exit; the coroutine raises nothing else
            self._has_ended = True
            raise
        else:
            self._is_ahead = True

    def send(self, value: Any) -> Any:
        if self._has_ended:
            raise StopIteration
        if self._is_ahead:
            self._is_ahead = False
            return self._yielded
        return self._coroutine.send(value)

    def throw(self, *exception: Any) -> Any:
        if self._has_ended:
            raise StopIteration
        self._is_ahead = False
        return self._coroutine.throw(*exception)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("a task drives this, nobody awaits it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # cr_frame and the like, for whoever inspects the task


def start(coroutine: Coroutine[Any, Any, None]) -> Started | None:
    """Run `coroutine`, which must not raise, in a task of its own; None, and nothing run, where no event loop runs.

    On asyncio its first step is made at once, because Starlette's `request.is_disconnected()` peeks from a cancelled
    scope: what a task found out one turn later it would never see.
    """
    trio = _running_trio()
    if trio is not None:
        return _start_in_trio(trio, coroutine)
    loop = running_loop()
    if loop is None:
        coroutine.close()
        return None
    import asyncio

    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    # By hand what eager_start does: the step must find the new task as the current one, because what the server's
    # receive opens there (a time-out, an anyio task group in a middleware outside) binds itself to it.
    stepped = _Stepped(coroutine)
    context = contextvars.copy_context()
    task = context.run(asyncio.Task, stepped, loop=loop)
    current = asyncio.current_task(loop)
    if current is not None:
        asyncio.tasks._leave_task(loop, current)
    asyncio.tasks._enter_task(loop, task)
    try:
        context.run(stepped.step)
    finally:
        asyncio.tasks._leave_task(loop, task)
        if current is not None:
            asyncio.tasks._enter_task(loop, current)
    return task


def _start_in_trio(trio: Any, coroutine: Coroutine[Any, Any, None]) -> Started:
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await coroutine

    trio.lowlevel.spawn_system_task(run, context=contextvars.copy_context())
    return scope  # type: ignore[no-any-return]  # reached through sys.modules


def cancelled_scope() -> Any:
    """On trio: in it everything that would wait is cancelled. None elsewhere."""
    trio = _running_trio()
    if trio is None:
        return None
    scope = trio.CancelScope()
    scope.cancel()
    return scope


def is_queue(thing: object) -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(thing, asyncio.Queue)


def is_cancelled_error(exception: BaseException) -> bool:
    """Is it asyncio's, which anybody may raise? (Nobody but trio can raise trio's.)"""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(exception, asyncio.CancelledError)


async def run_for(seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine`, which must not raise, for at most `seconds`; then it is cancelled and left alone."""
    trio = _running_trio()
    if trio is not None:
        with trio.move_on_after(seconds):
            await coroutine
        return
    loop = running_loop()
    if loop is None:
        return await coroutine
    ended = loop.create_future()

    async def run() -> None:
        try:
            await coroutine
        finally:
            wake(ended)

    task = start(run())
    if ended.done() or task is None:
        return
    timer = loop.call_later(seconds, wake, ended)
    try:
        await ended
    finally:
        timer.cancel()
        task.cancel()  # which does nothing to one that has ended


# Interrupting

_MARK = "disconnect_mw: the client has gone"


class _Interrupted(Exception):
    pass


class InterruptibleReceive:
    """On trio, which has no way to wake another's task, the server's `receive` inside a cancel scope."""

    def __init__(self, trio: Any, receive: Callable[[], Awaitable[Any]]) -> None:
        self._trio = trio
        self._receive = receive
        self._scope: Any = None

    async def __call__(self) -> Any:
        with self._trio.CancelScope() as self._scope:
            return await self._receive()
        raise _Interrupted

    def cancel(self) -> None:
        self._scope.cancel()


def interruptible(receive: Callable[[], Awaitable[Any]]) -> InterruptibleReceive | None:
    """`receive` in a form that `interrupt` takes, where there is no asyncio task; None where nothing can be done."""
    trio = _running_trio()
    return None if trio is None else InterruptibleReceive(trio, receive)


def interrupt(reader: Any) -> bool:
    """Wake `reader`, a task or an `InterruptibleReceive`; it finds an exception, and asks `absorb` about it.

    False, and nothing done, for a task of which somebody else has asked a cancellation that was not taken back: the two
    could not be told apart.
    """
    if isinstance(reader, InterruptibleReceive):
        reader.cancel()
    elif sys.version_info >= (3, 11):
        if reader.cancelling():
            return False
        reader.cancel(_MARK)
    else:  # 3.10 does not count cancellations; but one that came before has ended what the task waits for,
        if reader._fut_waiter is None or reader._fut_waiter.done():
            return False
        reader.cancel(_MARK)
        reader._cancel_message = _MARK  # and the next one overwrites this
    return True


def absorb(reader: Any, exception: BaseException | None) -> bool:
    """Take an interruption back. Was it the only one? If not, the other cancellation must pass (P6)."""
    if isinstance(reader, InterruptibleReceive):
        return exception is None or isinstance(exception, _Interrupted)
    if sys.version_info >= (3, 11):
        return reader.uncancel() == 0  # type: ignore[no-any-return]  # a task's
    return reader._cancel_message == _MARK  # type: ignore[no-any-return]  # a task's
