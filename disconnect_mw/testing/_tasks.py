"""The task that the application under test runs in, on asyncio and on trio: its end, its cancellation, its awaits."""

from __future__ import annotations

import abc
import contextvars
import sys
import types
from collections.abc import Coroutine, Generator, Iterator
from typing import Any, Literal

from .. import _backends, _frames
from .._backends import Waiter

# One suspended frame, and the line that it is at.
Frame = tuple[types.FrameType, int]

# Seconds and times that an application which is cancelled has to end, before it is left alone.
_SECONDS_TO_END = 0.1
_CANCELLATIONS = 5

# Whose exchange a task belongs to: a task inherits the context of the one that started it.
_EXCHANGE: contextvars.ContextVar[object] = contextvars.ContextVar("disconnect_mw.testing")


class _Broken(BaseException):
    pass


class _Breakable:
    """Awaits a coroutine, and can let go of it in the middle."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.is_broken = False

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Any = self.coroutine.send
        value: Any = None
        while True:
            try:
                wish = step(value)
            except StopIteration as stop:
                return stop.value
            try:
                step, value = self.coroutine.send, (yield wish)
            except BaseException as exception:  # asyncio throws; trio sends a value that raises
                step, value = self.coroutine.throw, exception
            if self.is_broken:
                raise _Broken


# Coroutines that were let go of. One that does not let itself be cancelled does not let itself be closed either, and
# Python would complain of that when it collects them.
_BROKEN: list[_Breakable] = []


class AppTask(abc.ABC):
    """Runs `coroutine` in a task of its own."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._breakable = _Breakable(coroutine)
        self._waiter: Waiter | None = None
        self.ended: Literal["returned", "raised", "cancelled"] | None = None
        self.raised: BaseException | None = None
        self._ended_at = 0.0

    @abc.abstractmethod
    def start(self) -> None: ...

    @abc.abstractmethod
    def now(self) -> float:
        """The clock of the event loop, in seconds."""

    @abc.abstractmethod
    def cancel(self, insists: bool = False) -> None:
        """Ask the application to end, as a server would; or insist on it, whatever shields it."""

    @abc.abstractmethod
    def chains(self) -> list[list[Frame]]:
        """Where the application and each task that it has started are suspended; the outermost frame first."""

    @abc.abstractmethod
    async def _wait(self, waiter: Waiter, seconds: float) -> None: ...

    def ended_at_or_now(self) -> float:
        return self.now() if self.ended is None else self._ended_at

    def wake(self) -> None:
        """Have `wait` come back."""
        if self._waiter is not None:
            self._waiter.set()

    async def wait(self, seconds: float) -> None:
        """Until the application has ended, or `wake` was called; for so many seconds at most."""
        self._waiter = _backends.current()[0].create_waiter()
        try:
            await self._wait(self._waiter, max(seconds, 0))
        finally:
            self._waiter = None

    async def abandon(self) -> None:
        """Cancel the application; wait for its end, but not for ever."""
        attempt = 0
        while self.ended is None and attempt <= _CANCELLATIONS:
            if attempt == _CANCELLATIONS:
                self._breakable.is_broken = True
                _BROKEN.append(self._breakable)
            self.cancel(insists=attempt > 0)
            await self.wait(_SECONDS_TO_END)
            attempt += 1

    def _end(self, how: Literal["returned", "raised", "cancelled"], raised: BaseException | None = None) -> None:
        self.ended = how
        self.raised = raised
        self._ended_at = self.now()
        self.wake()


class AsyncioTask(AppTask):
    def start(self) -> None:
        import asyncio

        self._asyncio = asyncio
        self._loop = asyncio.get_running_loop()
        self._others = asyncio.all_tasks()
        self._context = contextvars.copy_context()
        self._context.run(_EXCHANGE.set, self)
        self._task = self._context.run(self._loop.create_task, self._run())

    async def _run(self) -> None:
        try:
            await self._breakable
        except (self._asyncio.CancelledError, _Broken):
            self._end("cancelled")
        except BaseException as exception:
            self._end("raised", exception)
        else:
            self._end("returned")

    def now(self) -> float:
        return self._loop.time()

    def cancel(self, insists: bool = False) -> None:
        self._task.cancel()

    async def _wait(self, waiter: Waiter, seconds: float) -> None:
        timer = self._loop.call_later(seconds, waiter.set)
        try:
            await waiter
        finally:
            timer.cancel()

    def chains(self) -> list[list[Frame]]:
        tasks = [task for task in self._asyncio.all_tasks() - self._others if task is not self._task]
        # Before 3.12 a task does not tell its context: then all that have come since are taken for the application's.
        context = self._context
        tasks = [task for task in tasks if getattr(task, "get_context", lambda: context)().get(_EXCHANGE) is self]
        tasks.sort(key=lambda task: task.get_name())
        return [list(_frames_of(thing)) for thing in (self._breakable.coroutine, *(task.get_coro() for task in tasks))]


class TrioTask(AppTask):
    def start(self) -> None:
        self._trio: Any = sys.modules["trio"]
        self._scope = self._trio.CancelScope()
        # A system task, because a nursery would wait for an application that does not let itself be cancelled.
        self._task = self._trio.lowlevel.spawn_system_task(self._run, context=contextvars.copy_context())

    async def _run(self) -> None:
        returned = False
        try:
            with self._scope:
                await self._breakable
                returned = True
        except self._trio.Cancelled:  # the whole loop is ending
            self._end("cancelled")
            raise
        except _Broken:
            self._end("cancelled")
        except BaseException as exception:
            self._end("raised", exception)
        else:
            self._end("returned" if returned else "cancelled")

    def now(self) -> float:
        return float(self._trio.current_time())

    def cancel(self, insists: bool = False) -> None:
        self._scope.cancel()
        if insists:
            self._open_shields()

    async def _wait(self, waiter: Waiter, seconds: float) -> None:
        with self._trio.move_on_after(seconds):
            await waiter

    def chains(self) -> list[list[Frame]]:
        others = self._tasks()[1:]
        return [list(_frames_of(self._breakable.coroutine)), *(list(task.iter_await_frames()) for task in others)]

    def _tasks(self) -> list[Any]:
        tasks = [self._task]
        for task in tasks:
            for nursery in task.child_nurseries:
                tasks.extend(sorted(nursery.child_tasks, key=lambda task: task.name))
        return tasks

    def _open_shields(self) -> None:
        # trio has no public way to a scope that another task shields itself with.
        for task in self._tasks():
            status = getattr(task, "_cancel_status", None)
            while status is not None:
                scope = getattr(status, "_scope", None)
                if scope is not None and scope.shield:
                    scope.shield = False
                status = getattr(status, "_parent", None)


def new_task(coroutine: Coroutine[Any, Any, Any]) -> AppTask:
    """For the event loop that runs."""
    return TrioTask(coroutine) if _backends.is_trio_running() else AsyncioTask(coroutine)


def _frames_of(coroutine: Any) -> Iterator[Frame]:
    """The frames of a suspended coroutine and of what it awaits."""
    for awaitable in _frames.chain(coroutine):
        frame = _frames.frame_of(awaitable)
        if frame is not None:
            yield frame, frame.f_lineno
