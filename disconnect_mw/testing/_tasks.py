"""The task of the app under test, on asyncio and on trio: how it ends, is cancelled, and what it awaits."""

from __future__ import annotations

import abc
import contextvars
import sys
import types
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Literal

from .. import _backends, _frames
from .._backends import Waiter

__tracebackhide__ = True  # pytest leaves the frames of this module out

# A suspended frame and its current line.
Frame = tuple[types.FrameType, int]

# An app that is cancelled has so many seconds to end. After so many cancellations its coroutine is abandoned.
_SECONDS_TO_END = 0.1
_CANCELLATIONS = 5

# The `AppTask` that a task belongs to. A task inherits the context of the task that started it.
_EXCHANGE: contextvars.ContextVar[object] = contextvars.ContextVar("disconnect_mw.testing")


class _Abandoned(BaseException):
    pass


class _Abandonable:
    """Awaits a coroutine until that ends or `is_abandoned` is set.

    No generator: what looks into tasks, as the middleware does, finds the coroutine in it.
    """

    __slots__ = ("coroutine", "is_abandoned")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine
        self.is_abandoned = False

    def __await__(self) -> Any:  # an iterator, with what asyncio and trio call of a generator
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        if self.is_abandoned:
            raise _Abandoned
        return self.coroutine.send(value)

    def throw(self, *exception: Any) -> Any:
        if self.is_abandoned:
            raise _Abandoned
        return self.coroutine.throw(*exception)


# Keeps abandoned coroutines alive. A coroutine that ignores its cancellation ignores `close` too, of which Python would
# warn when it collects it.
_ABANDONED: list[_Abandonable] = []


class AppTask(abc.ABC):
    """Runs the app's `coroutine` in a task of its own."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._abandonable = _Abandonable(coroutine)
        self._waiter: Waiter | None = None
        self.ended: Literal["returned", "raised", "cancelled"] | None = None
        self.raised: BaseException | None = None
        self.was_abandoned = False
        self._ended_at = 0.0

    @abc.abstractmethod
    def start(self) -> None: ...

    @abc.abstractmethod
    def now(self) -> float:
        """Return the time of the event loop's clock, in seconds."""

    @abc.abstractmethod
    def cancel(self, through_shields: bool = False) -> None:
        """Cancel the app, as a server does; with `through_shields` also where a scope of trio's shields it."""

    @abc.abstractmethod
    def await_chains(self) -> list[list[Frame]]:
        """Return where the app and each task that it has started are suspended, the outermost frame first."""

    @abc.abstractmethod
    async def _wait(self, waiter: Waiter, seconds: float) -> None: ...

    def ended_at_or_now(self) -> float:
        return self.now() if self.ended is None else self._ended_at

    def wake(self) -> None:
        """Have `wait` return."""
        if self._waiter is not None:
            self._waiter.set()

    async def wait(self, seconds: float) -> None:
        """Wait until the app has ended or `wake` is called, for so many seconds at most."""
        self._waiter = _backends.current()[0].create_waiter()
        try:
            await self._wait(self._waiter, max(seconds, 0))
        finally:
            self._waiter = None

    async def abandon(self) -> None:
        """Cancel the app until it ends, a limited number of times; then leave its coroutine where it is."""
        attempt = 0
        while self.ended is None and attempt <= _CANCELLATIONS:
            if attempt == _CANCELLATIONS:
                self._abandonable.is_abandoned = self.was_abandoned = True
                _ABANDONED.append(self._abandonable)
            self.cancel(through_shields=attempt > 0)
            await self.wait(_SECONDS_TO_END)
            attempt += 1

    def _set_ended(self, how: Literal["returned", "raised", "cancelled"], raised: BaseException | None = None) -> None:
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
            await self._abandonable
        except (self._asyncio.CancelledError, _Abandoned):
            self._set_ended("cancelled")
        except BaseException as exception:
            self._set_ended("raised", exception)
        else:
            self._set_ended("returned")

    def now(self) -> float:
        return self._loop.time()

    def cancel(self, through_shields: bool = False) -> None:
        self._task.cancel()

    async def _wait(self, waiter: Waiter, seconds: float) -> None:
        timer = self._loop.call_later(seconds, waiter.set)
        try:
            await waiter
        finally:
            timer.cancel()

    def await_chains(self) -> list[list[Frame]]:
        tasks = [task for task in self._asyncio.all_tasks() - self._others if task is not self._task]
        # Before 3.12 a task has no `get_context`: there every task that was started since counts as the app's.
        context = self._context
        tasks = [task for task in tasks if getattr(task, "get_context", lambda: context)().get(_EXCHANGE) is self]
        tasks.sort(key=lambda task: task.get_name())
        coroutines = [self._abandonable.coroutine, *(task.get_coro() for task in tasks)]
        return [list(frames_of(coroutine)) for coroutine in coroutines]


class TrioTask(AppTask):
    def start(self) -> None:
        self._trio: Any = sys.modules["trio"]
        self._scope = self._trio.CancelScope()
        # A system task, because a nursery would wait for an app that ignores its cancellation.
        self._task = self._trio.lowlevel.spawn_system_task(self._run, context=contextvars.copy_context())

    async def _run(self) -> None:
        returned = False
        try:
            with self._scope:
                await self._abandonable
                returned = True
        except self._trio.Cancelled:  # the whole loop is ending
            self._set_ended("cancelled")
            raise
        except _Abandoned:
            self._set_ended("cancelled")
        except BaseException as exception:
            self._set_ended("raised", exception)
        else:
            self._set_ended("returned" if returned else "cancelled")

    def now(self) -> float:
        return float(self._trio.current_time())

    def cancel(self, through_shields: bool = False) -> None:
        self._scope.cancel()
        if through_shields:
            self._remove_shields()

    async def _wait(self, waiter: Waiter, seconds: float) -> None:
        with self._trio.move_on_after(seconds):
            await waiter

    def await_chains(self) -> list[list[Frame]]:
        others = [task.iter_await_frames() for task in self._tasks()[1:]]
        return [list(frames_of(self._abandonable.coroutine)), *(list(filter(_has_line, frames)) for frames in others)]

    def _tasks(self) -> list[Any]:
        tasks = [self._task]
        for task in tasks:
            for nursery in task.child_nurseries:
                tasks.extend(sorted(nursery.child_tasks, key=lambda task: task.name))
        return tasks

    def _remove_shields(self) -> None:
        # trio has no public API for the scope with which another task shields itself.
        for task in self._tasks():
            status = getattr(task, "_cancel_status", None)
            while status is not None:
                scope = getattr(status, "_scope", None)
                if scope is not None and scope.shield:
                    scope.shield = False
                status = getattr(status, "_parent", None)


def new_task(coroutine: Coroutine[Any, Any, Any]) -> AppTask:
    """Return a task for the running event loop."""
    return TrioTask(coroutine) if _backends.is_trio_running() else AsyncioTask(coroutine)


async def sleep(seconds: float) -> None:
    if _backends.is_trio_running():
        await sys.modules["trio"].sleep(seconds)
    else:
        await sys.modules["asyncio"].sleep(seconds)


async def run_all(functions: Iterable[Callable[[], Coroutine[Any, Any, object]]], at_once: int) -> None:
    """Run all of them, so many at a time, each in one of as many tasks."""
    remaining = list(functions)[::-1]

    async def work() -> None:
        while remaining:
            await remaining.pop()()

    if _backends.is_trio_running():
        async with sys.modules["trio"].open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(work)
    else:
        async with sys.modules["asyncio"].TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())


def frames_of(coroutine: Any) -> Iterator[Frame]:
    """Return the frames of a suspended coroutine and of what it awaits."""
    frames = [frame for frame in map(_frames.frame_of, _frames.chain(coroutine)) if frame is not None]
    return filter(_has_line, [(frame, frame.f_lineno) for frame in frames])


def _has_line(frame: tuple[types.FrameType, int | None]) -> bool:
    """Whether it has one. Compiled code has frames without (BlackSheep's)."""
    return frame[1] is not None
