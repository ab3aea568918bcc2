"""asyncio, and uvloop. Imported once an event loop of asyncio runs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import sys
import time
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any

from .._frames import chain, ending_scopes, family, is_method_of, is_of_module, owners
from ._base import Backend, Call, Found, Handle, SendTimedOut, is_cancelled_error, turn

# The message of a cancellation by this middleware.
_MARK = "disconnect_mw: the client has disconnected"

# Seconds until the next try to cancel a task while another cancellation of it is pending; for how long one without
# `uncancel` counts as pending before it counts as swallowed (a TaskGroup of 3.11 and 3.12 that has failed leaves one
# behind); and for how long what a time-out or a cancel scope of the app has ended may clean up.
_UNTIL_TRIED_AGAIN = 0.05
_UNTIL_SWALLOWED = 1.0
_UNTIL_CLEANED_UP = 10.0

# Turns of the loop that what is to be over after some seconds has then: a busy loop may have given it none.
_TURNS_TO_MOVE_ON = 32

# Tasks that a search sees in one turn of the loop; and seconds between two, for each that the first has taken.
_TASKS_A_TURN = 100
_SECONDS_BETWEEN_SEARCHES = 100

# An anyio cancel scope does not know our cancellation for its own, but repeats itself within so many turns.
_TURNS_TO_REPEAT = 2


class AsyncioWaiter(asyncio.Future[None]):
    __slots__ = ()

    def set(self) -> None:
        if not self.done():
            self.set_result(None)


class AsyncioAppScope:
    """The task that runs the app."""

    __slots__ = ("_cancelled_before", "_task")

    def __init__(self, task: Any) -> None:
        self._task = task
        self._cancelled_before = 0

    def cancel(self, tried_for: float) -> float | None:
        """See `AppScope.cancel`. Postponed as `Cancellation.cancel` says."""
        task = self._task
        pending, ending = _cancelling(task), ending_scopes(task)
        # Those take theirs back when they are left.
        self._cancelled_before = 0 if ending else pending
        if _is_being_cancelled(task) or tried_for < self._seconds_to_wait(pending, ending):
            return _UNTIL_TRIED_AGAIN
        if task._fut_waiter is None and asyncio.current_task() is not None:
            return 0
        task.cancel(_MARK)
        return None

    def _seconds_to_wait(self, pending: int, ending: list[Any]) -> float:
        """Seconds for which other cancellations of the task may be under way before ours comes all the same.

        A TaskGroup that is ending its tasks has no limit: it would swallow ours (3.11, 3.12), or keep it until then.
        """
        if any(isinstance(scope, asyncio.TaskGroup) for scope in ending):
            return math.inf
        return _UNTIL_CLEANED_UP if ending else _UNTIL_SWALLOWED if pending else 0

    def absorb(self, exception: BaseException | None) -> bool:
        task, before, pending = self._task, self._cancelled_before, _cancelling(self._task)
        if pending > before:
            task.uncancel()
        elif pending and isinstance(exception, asyncio.CancelledError) and _MARK in exception.args:
            task.uncancel()  # it is ours that is left: what was pending before has been taken back
            before = pending - 1
        return _cancelling(task) <= before and is_cancelled_error(exception) and (not before or _is_marked(exception))

    async def others(self, exception: BaseException) -> BaseException:
        if is_cancelled_error(exception) and _MARK in exception.args:
            try:
                for _ in range(_TURNS_TO_REPEAT):
                    await turn()
            except BaseException as other:
                return other
        return exception

    def awaited(self) -> object:
        """With whether a task of its groups is being cancelled: Quart 0.23 waits in one for its handler."""
        coroutine = self._task.get_coro()
        tasks, _ = family(coroutine)
        return [*chain(coroutine)][-1], any(task.cancelling() for task in tasks)

    def is_in_module(self, name: str) -> bool:
        if name not in sys.modules:
            return False
        _, awaited = family(self._task.get_coro())
        return any(is_of_module(name, awaitable) for awaitable in awaited)

    def has_ended_app(self) -> bool:
        return False


def _cancelling(task: Any) -> int:
    """How many cancellations were requested without `uncancel`."""
    return int(task.cancelling())


def _is_being_cancelled(task: Any) -> bool:
    """Whether a cancellation of `task` is on its way, which it has not met yet."""
    # None has neither attribute, nor has the waiter of granian 1.7.6; that of a gather is cancelled only when all of
    # its tasks are.
    waiter = task._fut_waiter
    return bool(
        task._must_cancel or getattr(waiter, "cancelled", bool)() or getattr(waiter, "_cancel_requested", False)
    )


def _is_marked(exception: BaseException | None) -> bool:
    """Whether it is our cancellation, or was raised while that was handled, and no other came before."""
    while exception is not None and _MARK not in exception.args:
        exception = exception.__context__
    return exception is not None and not is_cancelled_error(exception.__context__)


class NotedCall:
    """The server's `send`, and the tasks that are in it: which of them waits is found without a look at all tasks."""

    __slots__ = ("__self__", "call", "tasks")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.__self__ = getattr(call, "__self__", None)  # as a bound method has it
        self.tasks: set[Any] = set()

    async def __call__(self, message: Any) -> Any:
        task = asyncio.current_task()
        self.tasks.add(task)
        try:
            return await self.call(message)
        finally:
            self.tasks.discard(task)
            task = None  # which may come to hold an exception whose traceback holds this frame


class AsyncioBackend(Backend):
    # Until 3.12 asyncio.current_task is a Python function around this look-up, and takes as long as all the rest of a
    # receive.
    __slots__ = ("current_task",)

    def __init__(self) -> None:
        self.current_task: Callable[[Any], Any] = (  # pyright: ignore[reportIncompatibleMethodOverride]  # positional
            asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]  # private
        )

    def token(self) -> Any:
        return asyncio._get_running_loop()

    def create_waiter(self) -> AsyncioWaiter:
        return AsyncioWaiter(loop=asyncio.get_running_loop())

    def spawn(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> Handle:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context() if context is None else context  # an empty one is false
        if sys.version_info >= (3, 12):
            return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)
        # By hand what eager_start does: the step must find the new task as the current one, because what the server's
        # receive opens there (a time-out, an anyio task group in a middleware outside) binds itself to it.
        started = _EagerCoroutine(coroutine, context)
        task = context.run(asyncio.Task, started, loop=loop)
        current = asyncio.current_task(loop)
        if current is not None:
            asyncio.tasks._leave_task(loop, current)
        asyncio.tasks._enter_task(loop, task)
        try:
            started.start()
        finally:
            asyncio.tasks._leave_task(loop, task)
            if current is not None:
                asyncio.tasks._enter_task(loop, current)
        return task

    def spawn_background(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        task: Any = self.spawn(coroutine, context)
        _background.add(task)
        task.add_done_callback(_background.discard)

    def call_soon(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        loop = asyncio.get_running_loop()
        context = contextvars.Context()
        if not seconds:  # in the next turn; a timer would come one turn later
            return loop.call_soon(callback, context=context)
        return loop.call_later(seconds, callback, context=context)

    def call_in(self, token: Any, callback: Callable[[], None]) -> None:
        if token is asyncio._get_running_loop():
            callback()
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended
            token.call_soon_threadsafe(callback)

    async def move_on_after(self, seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
        loop = asyncio.get_running_loop()
        ended = AsyncioWaiter(loop=loop)

        async def run() -> None:
            try:
                await coroutine
            finally:
                ended.set()

        task = self.spawn(run())
        if ended.done():
            return
        turns = _TURNS_TO_MOVE_ON
        handle: asyncio.Handle

        def end() -> None:
            nonlocal handle, turns
            turns -= 1
            if turns:
                handle = loop.call_soon(end)
            else:
                ended.set()

        handle = loop.call_later(seconds, end)
        try:
            await ended
        finally:
            handle.cancel()
            task.cancel()  # which does nothing to one that has ended

    async def fail_after(self, seconds: float, awaitable: Awaitable[Any]) -> Any:
        """See `Backend.fail_after`. A coroutine makes its first step before there is a timer: nearly all end in it."""
        if type(awaitable) is types.CoroutineType:
            try:
                awaitable = StartedCoroutine(awaitable, awaitable.send(None))
            except StopIteration as end:
                return end.value
        loop = asyncio.get_running_loop()
        task = self.current_task(loop)
        is_late = False

        def wake() -> None:
            nonlocal is_late
            is_late = self.wake(task, None)

        timer = loop.call_later(seconds, wake, context=contextvars.Context())
        try:
            result = await awaitable
            if is_late:
                self.uncancel(task)
            return result
        except BaseException as exception:
            if is_late and self.absorb(task, exception) and is_cancelled_error(exception):
                raise SendTimedOut from None
            raise
        finally:
            timer.cancel()
            task = None  # which may come to hold an exception whose traceback holds this frame

    def app_scope(self, task: Any) -> AsyncioAppScope | None:
        return None if task is None else AsyncioAppScope(task)

    def unwrap(self, call: Call) -> Call:
        return call.call if isinstance(call, NotedCall) else call

    def wake(self, task: Any, call: Call | None) -> bool:
        if task is None or task.cancelling():
            return False
        task.cancel(_MARK)
        return True

    def absorb(self, task: Any, exception: BaseException | None) -> bool:
        return bool(task.uncancel() == 0)

    def uncancel(self, task: Any) -> None:
        if task.cancelling():
            task.uncancel()

    def coroutine(self, task: Any) -> Any:
        return None if task is None else task.get_coro()

    def has_ended(self, task: Any) -> bool:
        return bool(task.done())

    def suspended_in(
        self, codes: Iterable[types.CodeType], owner: Any, call: Call, tasks: Iterable[Any]
    ) -> Iterator[tuple[Any, list[Any]]]:
        for task in tasks:
            awaited = list(chain(task.get_coro()))
            for index, awaitable in enumerate(awaited):
                if is_method_of(owner, codes, awaitable):
                    yield task, awaited[index + 1 :]

    def noted(self, call: Call) -> NotedCall:
        return NotedCall(call)

    def tasks_in(self, call: Any) -> list[Any]:
        return [*call.tasks] if type(call) is NotedCall else []

    def own_tasks(self, task: Any) -> list[Any]:
        return [] if task is None else [task]

    def search(self, codes: Iterable[types.CodeType], owner: Any, found: Found) -> None:
        loop = asyncio.get_running_loop()
        search = _searches.get(loop)
        if search is None:
            search = _searches[loop] = _Search(loop)
        search.add(codes, owner, found)

    def shield_scope(self) -> Any:
        anyio = sys.modules.get("anyio")
        return None if anyio is None else anyio.CancelScope()

    def is_in_cancelled_scope(self) -> bool:
        anyio = sys.modules.get("anyio")
        return anyio is not None and anyio.current_effective_deadline() == -math.inf

    def split_cancellation(self, exception: BaseException) -> tuple[BaseException | None, BaseException | None]:
        if isinstance(exception, (SystemExit, KeyboardInterrupt)):
            return exception, None
        if isinstance(exception, asyncio.CancelledError):
            task = asyncio.current_task()  # whose own it is where no one has asked for it
            return (None, exception) if task is not None and not task.cancelling() else (exception, None)
        if isinstance(exception, BaseExceptionGroup):
            return exception.split(KeyboardInterrupt)
        return None, exception


class _Search:
    """Looks for tasks that are suspended in methods of certain objects, among all tasks of a loop.

    It sees a few tasks in each turn of the loop, and all of them again only when that costs the loop next to nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._codes: set[types.CodeType] = set()
        self._wanted: dict[int, tuple[Any, Found]] = {}  # by the identity of the objects
        self._sought = self._wanted
        self._tasks: list[Any] = []
        self._is_under_way = False
        self._seconds = 0.0  # that this round has taken
        self._not_before = 0.0  # the next one begins, on the loop's clock

    def add(self, codes: Iterable[types.CodeType], owner: Any, found: Found) -> None:
        self._codes.update(codes)
        self._wanted[id(owner)] = owner, found
        if not self._is_under_way:
            self._is_under_way = True
            self._begin_later()

    def _begin_later(self) -> None:
        loop: Any = self._loop()
        loop.call_at(max(loop.time(), self._not_before), self._begin, context=contextvars.Context())

    def _begin(self) -> None:
        began = time.perf_counter()
        self._tasks = list(asyncio.all_tasks())
        self._sought, self._wanted = self._wanted, {}
        self._seconds = time.perf_counter() - began
        self._look()

    def _look(self) -> None:
        began = time.perf_counter()
        tasks, self._tasks = self._tasks[:_TASKS_A_TURN], self._tasks[_TASKS_A_TURN:]
        for task in tasks:
            awaited = list(chain(task.get_coro()))
            for index, awaitable in enumerate(awaited):
                for owner in owners(self._codes, awaitable):
                    if id(owner) in self._sought:
                        self._sought[id(owner)][1](task, awaited[index + 1 :])
        self._seconds += time.perf_counter() - began
        loop: Any = self._loop()
        if self._tasks:
            loop.call_soon(self._look)
            return
        self._sought = {}
        self._not_before = loop.time() + self._seconds * _SECONDS_BETWEEN_SEARCHES
        self._is_under_way = bool(self._wanted)
        if self._is_under_way:
            self._begin_later()


_searches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Search] = weakref.WeakKeyDictionary()

_background: set[Any] = set()  # asyncio itself keeps weak references only


class _EagerCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine whose first step is made before its task has its turn, and every step in one context (3.11)."""

    __slots__ = ("_context", "_coroutine", "_has_ended", "_is_ahead", "_yielded")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        self._coroutine = coroutine
        self._context = context
        self._has_ended = False
        self._is_ahead = False
        self._yielded: Any = None

    def start(self) -> None:
        try:
            self._yielded = self._context.run(self._coroutine.send, None)
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
        return self._context.run(self._coroutine.send, value)

    def throw(self, *exception: Any) -> Any:
        if self._has_ended:
            raise StopIteration
        self._is_ahead = False
        return self._context.run(self._coroutine.throw, *exception)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("a task drives this coroutine: it cannot be awaited")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # cr_frame and the like, for debuggers and Task.get_stack()


class StartedCoroutine:
    """A coroutine that has made its first step, to be awaited by the task that made it."""

    __slots__ = ("_coroutine", "_is_ahead", "_yielded", "close", "throw")

    def __init__(self, coroutine: types.CoroutineType[Any, Any, Any], yielded: Any) -> None:
        self._coroutine = coroutine
        self._yielded = yielded
        self._is_ahead = True
        self.close = coroutine.close
        self.throw = coroutine.throw  # no method: its frame would hold an exception whose traceback holds the frame

    def __await__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        if not self._is_ahead:
            return self._coroutine.send(value)
        self._is_ahead = False
        yielded, self._yielded = self._yielded, None  # a future holds its exception, whose traceback may hold this
        return yielded


ASYNCIO = AsyncioBackend()
