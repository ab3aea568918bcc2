"""What the running event loop calls a checkpoint, an event, a task, an interruption.

Nothing is imported that is not already running: an event loop is found through `sys.modules`. Where none runs at all (a
coroutine driven by hand) a checkpoint is a bare `yield` and nothing can be started.
"""

from __future__ import annotations

import contextvars
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio


class Event(Protocol):
    def set(self) -> None: ...

    def wait(self) -> Awaitable[Any]: ...


class _PolledEvent:
    """An event for coroutines that are driven by hand: whoever waits looks again each time it is driven."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    async def wait(self) -> None:
        while not self._is_set:
            await checkpoint()


@types.coroutine
def checkpoint() -> Generator[None, None, None]:
    """Give every other task of the loop its turn, and let a cancellation in: what `asyncio.sleep(0)` does."""
    yield


def running_loop() -> asyncio.AbstractEventLoop | None:
    """As `asyncio.get_running_loop`, without the exception where none runs."""
    global running_loop, current_task
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    # From now on the names are asyncio's own functions: they are called for each message that is received.
    running_loop = asyncio._get_running_loop
    current_task = asyncio.current_task
    return running_loop()


def current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    """The task that is running, so that `interrupt` can wake it later."""
    return sys.modules["asyncio"].current_task(loop)  # running_loop has put asyncio's own here already


def new_event() -> Event:
    if running_loop() is None:
        return _PolledEvent()
    return sys.modules["asyncio"].Event()


class _Stepped(Coroutine[Any, Any, Any]):
    """A coroutine whose first step was made before the task that runs it was scheduled."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._ended = False
        self._yielded: Any = None
        self._is_first = True

    def step(self) -> None:
        try:
            self._yielded = self._coroutine.send(None)
        except StopIteration:
            self._ended = True

    def send(self, value: Any) -> Any:
        if self._ended:
            raise StopIteration
        if self._is_first:
            self._is_first = False
            return self._yielded
        return self._coroutine.send(value)

    def throw(self, *exception: Any) -> Any:
        if self._ended:
            raise StopIteration
        self._is_first = False
        return self._coroutine.throw(*exception)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("a task drives this, nobody awaits it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # cr_frame and the like, for whoever inspects the task


def start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run `coroutine` in a task of its own, its first step at once; None, and nothing run, where no loop is running.

    At once, because Starlette's `request.is_disconnected()` peeks from a cancelled scope: what a task would find out one
    turn later it never sees. The coroutine must not raise.
    """
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


async def run_for(seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine`, which must not raise, for at most `seconds`; then it is cancelled and left alone."""
    loop = running_loop()
    if loop is None:
        return await coroutine
    ended = new_event()
    is_over = False

    async def run() -> None:
        nonlocal is_over
        try:
            await coroutine
        finally:
            is_over = True
            ended.set()

    task = start(run())
    if not is_over:
        timer = loop.call_later(seconds, ended.set)
        try:
            await ended.wait()
        finally:
            timer.cancel()
            if not is_over and task is not None:
                task.cancel()


_MARK = "disconnect_mw: the client has gone"


def interrupt(task: asyncio.Task[Any]) -> None:
    """Wake `task` from whatever it awaits; it finds a cancellation there, and calls `absorb`."""
    task.cancel(_MARK)


def absorb(task: asyncio.Task[Any], exception: BaseException | None) -> bool:
    """Take an interruption back. Was it the only cancellation? If not, the other one must pass (P6)."""
    if sys.version_info >= (3, 11):
        return task.uncancel() == 0
    return exception is None or exception.args == (_MARK,)  # 3.10 does not count cancellations
