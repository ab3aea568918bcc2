"""What asyncio and trio each call a checkpoint, a waiter, a task, a timer, an interruption.

Nothing is imported that is not already running: the event loop is found through `sys.modules`. Where none runs at all
(a coroutine driven by hand) a checkpoint is a bare `yield`, a waiter is polled, and nothing can be started.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import math
import sys
import traceback
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import asyncio


class Started(Protocol):
    def cancel(self) -> Any: ...


Waiter: TypeAlias = "_Polled | _Event | asyncio.Future[None]"


def running_trio() -> Any:
    """The module, if it is trio that runs this."""
    trio = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        return trio if trio.lowlevel.in_trio_run() else None
    except AttributeError:  # from before that function was there: see `_is_run_by`
        return trio if _is_run_by(trio) else None


def _is_run_by(trio: Any) -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


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
    trio = running_trio()
    return _turn() if trio is None else trio.lowlevel.checkpoint()


async def wait_before_peek() -> bool:
    """On trio, from a cancelled scope: let a task of ours that has its message already make something of it.

    Two turns of the loop, in which no cancellation comes in. False, and no turn, for whoever may wait himself.
    """
    trio = running_trio()
    if trio is None or trio.current_effective_deadline() != -math.inf:
        return False
    await trio.lowlevel.cancel_shielded_checkpoint()
    await trio.lowlevel.cancel_shielded_checkpoint()
    return True


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
    trio = running_trio()
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
    """A coroutine whose first step is made before the task that runs it has its turn, all of them in one context."""

    __slots__ = ("_context", "_coroutine", "_has_ended", "_is_ahead", "_yielded")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        self._coroutine = coroutine
        self._context = context
        self._has_ended = False
        self._is_ahead = False
        self._yielded: Any = None

    def step(self) -> None:
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
        raise TypeError("a task drives this, nobody awaits it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # cr_frame and the like, for whoever inspects the task


_detached: set[Any] = set()  # of which asyncio itself keeps no hold


def start_detached(coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
    """As `start`, for what is to come to its end although nobody waits for it."""
    task: Any = start(coroutine, context)
    if hasattr(task, "add_done_callback"):  # trio keeps hold of its own
        _detached.add(task)
        task.add_done_callback(_detached.discard)


def start(coroutine: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> Started | None:
    """Run `coroutine`, which must not raise, in a task of its own; None, and nothing run, where no event loop runs.

    It has `context`, or a copy of the caller's. On asyncio its first step is made at once, because Starlette's
    `request.is_disconnected()` peeks from a cancelled scope: what a task found out one turn later it would never see.
    """
    context = context or contextvars.copy_context()
    trio = running_trio()
    if trio is not None:
        return _start_in_trio(trio, coroutine, context)
    loop = running_loop()
    if loop is None:
        coroutine.close()
        return None
    import asyncio

    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)
    # By hand what eager_start does: the step must find the new task as the current one, because what the server's
    # receive opens there (a time-out, an anyio task group in a middleware outside) binds itself to it.
    stepped = _Stepped(coroutine, context)
    task = context.run(asyncio.Task, stepped, loop=loop)
    current = asyncio.current_task(loop)
    if current is not None:
        asyncio.tasks._leave_task(loop, current)
    asyncio.tasks._enter_task(loop, task)
    try:
        stepped.step()
    finally:
        asyncio.tasks._leave_task(loop, task)
        if current is not None:
            asyncio.tasks._enter_task(loop, current)
    return task


def _start_in_trio(trio: Any, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> Started:
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await coroutine

    trio.lowlevel.spawn_system_task(run, context=context)
    return scope  # type: ignore[no-any-return]  # reached through sys.modules


def cancelled_scope() -> Any:
    """On trio, for a peek: in it everything that would wait is cancelled. None elsewhere.

    And for whoever is not cancelled himself: what is not a peek would lose a message that is cancelled on its way.
    """
    trio = running_trio()
    if trio is None or trio.current_effective_deadline() != -math.inf:
        return None
    scope = trio.CancelScope()
    scope.cancel()
    return scope


def is_queue(thing: object) -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(thing, asyncio.Queue)


def split_cancellation(exception: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What ends a task of ours and must go on, and the rest of `exception`, where that is a group of both."""
    trio = running_trio()
    kinds: tuple[Any, ...] = (KeyboardInterrupt,)
    if trio is not None:
        kinds += (trio.Cancelled,)
    elif is_cancelled_error(exception) or isinstance(exception, SystemExit):
        return exception, None
    if hasattr(exception, "split"):
        return exception.split(kinds)  # type: ignore[no-any-return]  # a group's
    return (exception, None) if isinstance(exception, kinds) else (None, exception)


def is_cancelled_error(exception: BaseException | None) -> bool:
    """Is it asyncio's, which anybody may raise? (Nobody but trio can raise trio's.)"""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(exception, asyncio.CancelledError)


async def run_for(seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine`, which must not raise, for at most `seconds`; then it is cancelled and left alone."""
    trio = running_trio()
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


# Later


def event_loop() -> Any:
    """What tells apart the event loops that run: asyncio's loop, or trio's token; None where none runs."""
    trio = running_trio()
    return running_loop() if trio is None else trio.lowlevel.current_trio_token()


def call_later(seconds: float, callback: Callable[[], None]) -> Started:
    """Have the event loop, one that runs, call `callback`, in a context that belongs to nobody."""
    trio = running_trio()
    if trio is None:
        loop: Any = running_loop()
        context = contextvars.Context()
        if not seconds:  # before whatever else comes next, a timer after it
            return loop.call_soon(callback, context=context)  # type: ignore[no-any-return]  # a handle
        return loop.call_later(seconds, callback, context=context)  # type: ignore[no-any-return]  # a handle

    async def call() -> None:
        await trio.sleep(seconds)
        callback()

    return _start_in_trio(trio, call(), contextvars.Context())


def call_in(loop: Any, callback: Callable[[], None]) -> None:
    """Call `callback` on that event loop, as `event_loop` gives it: now if it is the caller's own, from any thread.

    An event loop that has ended calls nothing, and needs nothing to be called.
    """
    if loop is event_loop():
        callback()
        return
    call = loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
    with contextlib.suppress(RuntimeError):
        call(callback)


# What an awaitable that is suspended awaits, and its frame, by its kind.
_KINDS: dict[type, tuple[str, str]] = {
    types.CoroutineType: ("cr_await", "cr_frame"),
    types.GeneratorType: ("gi_yieldfrom", "gi_frame"),
    types.AsyncGeneratorType: ("ag_await", "ag_frame"),
}


def chain(awaitable: Any) -> Iterator[Any]:
    """`awaitable`, which is suspended, what it awaits, what that awaits, and so on."""
    seen = set()  # what shows nothing of itself may refer to what awaits it
    while awaitable is not None and id(awaitable) not in seen:
        seen.add(id(awaitable))
        yield awaitable
        awaitable = _awaited_by(awaitable)


def _awaited_by(awaitable: Any) -> Any:
    kind = _kind(awaitable)
    if kind is not None:
        return getattr(awaitable, kind[0])
    # What stands between and shows nothing of itself (a step of an async generator, a coroutine's iterator): what it
    # refers to.
    return next((thing for thing in gc.get_referents(awaitable) if _kind(thing) is not None), None)


def _kind(thing: Any) -> tuple[str, str] | None:
    # The type is asked: an object may answer to any name, or raise (a mock, a proxy). It is asked of thousands that end
    # at once, so first what nearly all are; a future awaits nothing.
    type_ = type(thing)
    if type_ in _KINDS or hasattr(type_, "_asyncio_future_blocking"):
        return _KINDS.get(type_)
    return next((kind for kind in _KINDS.values() if hasattr(type_, kind[0])), None)


def frame_of(awaitable: Any) -> types.FrameType | None:
    """The frame of a suspended coroutine or generator."""
    kind = _kind(awaitable)
    return None if kind is None else getattr(awaitable, kind[1])


def suspended_in(code: types.CodeType) -> Iterator[tuple[Any, dict[str, Any], list[Any]]]:
    """Each asyncio task of the loop that is suspended in a coroutine with this `code`.

    With each, the variables of that coroutine, and what it awaits, the innermost last.
    """
    asyncio = sys.modules.get("asyncio")
    for task in asyncio.all_tasks() if asyncio is not None and running_loop() is not None else ():
        awaited = list(chain(task.get_coro()))
        for index, awaitable in enumerate(awaited):
            if getattr(type(awaitable), "cr_code", None) is not None and awaitable.cr_code is code:
                yield task, dict(awaitable.cr_frame.f_locals), awaited[index + 1 :]


# Interrupting

_MARK = "disconnect_mw: the client has gone"


class Interrupted(Exception):
    """What an `Interruptible` raises where it was cut short."""


class Interruptible:
    """On trio, which has no way to wake another's task, the server's `receive` or `send` inside a cancel scope."""

    def __init__(self, trio: Any, call: Callable[..., Awaitable[Any]]) -> None:
        self.trio = trio
        self.call = call
        self.__self__ = getattr(call, "__self__", None)  # as a bound method has it
        self._scopes: dict[Any, Any] = {}  # of the calls that are at the server now, and their tasks

    async def __call__(self, *message: Any) -> Any:
        with self.trio.CancelScope() as scope:
            self._scopes[scope] = self.trio.lowlevel.current_task()
            try:
                return await self.call(*message)
            finally:
                del self._scopes[scope]
        raise Interrupted

    def cancel(self, is_meant: Callable[[list[Any]], bool] = lambda awaited: True) -> None:
        """Cut the calls short, or those of which `is_meant` says so of all that their task awaits."""
        for scope, task in self._scopes.items():
            if is_meant(list(chain(task.coro))):
                scope.cancel()


def interruptible(call: Callable[..., Awaitable[Any]]) -> Interruptible | None:
    """`call` in a form that `interrupt` takes, where there is no asyncio task; None where nothing can be done."""
    trio = running_trio()
    return None if trio is None else Interruptible(trio, call)


def uninterruptible(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    return call.call if isinstance(call, Interruptible) else call


def interrupt(reader: Any) -> bool:
    """Wake `reader`, a task or an `Interruptible`; it finds an exception, and asks `absorb` about it.

    False, and nothing done, for a task of which somebody else has asked a cancellation that was not taken back: the two
    could not be told apart.
    """
    if isinstance(reader, Interruptible):
        reader.cancel()
    else:
        if reader.cancelling():
            return False
        reader.cancel(_MARK)
    return True


def take_back(task: Any) -> None:
    """Take back an interruption that was swallowed on its way."""
    if task.cancelling():
        task.uncancel()


class Cancellable:
    """An application on trio, in a scope of its own, so that `cancel` can end it."""

    def __init__(self, trio: Any) -> None:
        self._scope = trio.CancelScope()

    async def run(self, app: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        with self._scope:
            return await app(*arguments)

    def cancel(self) -> None:
        self._scope.cancel()

    @property
    def was_cut_short(self) -> bool:
        return bool(self._scope.cancelled_caught)


def cancellable() -> Cancellable | None:
    """What an application runs in, where there is no asyncio task that could be cancelled; None where none runs."""
    trio = running_trio()
    return None if trio is None else Cancellable(trio)


# Seconds until it is tried once more to cancel a task in which another cancellation is on its way, and for how long one
# that is not taken back is taken for that, before it counts as swallowed. (A TaskGroup of 3.11 and 3.12 that has failed
# leaves one behind.)
_UNTIL_TRIED_AGAIN = 0.05
_UNTIL_SWALLOWED = 1.0


def cancellations(task: Any) -> int:
    """How many have been asked for that were not taken back."""
    return int(task.cancelling()) if hasattr(task, "cancelling") else 0  # not needed on trio


def cancel(task: Any, tried_for: float) -> float | None:
    """End an application, a task or a `Cancellable`, as `asyncio.timeout` does it: once. None if that is done.

    Else the seconds after which to try again: not while somebody else's cancellation of the task is on its way, since
    the two could not be told apart, nor while the task runs. It may be on its way out, and a cancellation that it does
    not live to see would meet the server. `tried_for` is the number of seconds since the first try.
    """
    if isinstance(task, Cancellable):
        task.cancel()
    elif _is_being_cancelled(task):
        return _UNTIL_TRIED_AGAIN
    elif cancellations(task) and tried_for < _UNTIL_SWALLOWED:
        return _UNTIL_TRIED_AGAIN
    elif task._fut_waiter is None and current_task(running_loop()) is not None:
        return 0
    else:
        task.cancel(_MARK)
    return None


def _is_being_cancelled(task: Any) -> bool:
    """Is a cancellation of `task` on its way, which it has not met yet?"""
    # None has neither, nor has that of granian 1.7.6; that of a gather is cancelled only when all of its tasks are.
    waiter = task._fut_waiter
    return bool(
        task._must_cancel or getattr(waiter, "cancelled", bool)() or getattr(waiter, "_cancel_requested", False)
    )


def waits_for_others(running: Any) -> Any:
    """What an application awaits, if that is `asyncio.wait`: a cancellation does not reach what that waits for."""
    asyncio = sys.modules.get("asyncio")
    code = getattr(getattr(asyncio, "wait", None), "__code__", None)
    awaited = [*chain(running)]
    is_wait = any(type(awaitable) is types.CoroutineType and awaitable.cr_code is code for awaitable in awaited)
    return awaited[-1] if is_wait else None


class TimedOut(Exception):
    """What `within` raises in place of what took too long."""


class Begun:
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


async def within(seconds: float, awaitable: Awaitable[Any]) -> Any:
    """What `awaitable` gives, if that takes no longer."""
    trio = running_trio()
    if trio is not None:
        return await _within_in_trio(trio, seconds, awaitable)
    loop = running_loop()
    if loop is None:
        return await awaitable
    task = current_task(loop)
    is_late = False

    def interrupt_it() -> None:
        nonlocal is_late
        is_late = interrupt(task)

    timer = loop.call_later(seconds, interrupt_it, context=contextvars.Context())
    try:
        result = await awaitable
        if is_late:
            take_back(task)
        return result
    except BaseException as exception:
        if is_late and absorb(task, exception) and is_cancelled_error(exception):
            raise TimedOut from None
        raise
    finally:
        timer.cancel()
        task = None  # which may come to hold an exception whose traceback holds this frame


def absorb(reader: Any, exception: BaseException | None) -> bool:
    """Take an interruption back. Was it the only one? If not, the other cancellation must pass (P6)."""
    if isinstance(reader, Interruptible):
        return exception is None or isinstance(exception, Interrupted)
    return reader.uncancel() == 0  # type: ignore[no-any-return]  # a task's


async def _within_in_trio(trio: Any, seconds: float, awaitable: Awaitable[Any]) -> Any:
    # In a task of its own, which can be left alone: Hypercorn shields its send from every cancel scope.
    ended = trio.Event()
    result: list[Any] = []
    raised: list[Exception] = []

    async def run() -> None:
        try:
            result.append(await awaitable)
        except Exception as exception:
            raised.append(exception)
        finally:
            ended.set()

    scope = _start_in_trio(trio, run(), contextvars.copy_context())
    try:
        with trio.move_on_after(seconds):
            await ended.wait()
    finally:
        scope.cancel()  # which does nothing to one that has ended
    if raised:
        raise raised[0]
    if not result:
        raise TimedOut
    return result[0]


def is_ended_by_cancel(task: Any, exception: BaseException | None, before: int) -> bool:
    """An application that `cancel` was to end has ended with `exception`. Was it by that, and by nobody else? (P6)

    Takes the cancellation back. `before` is how many `cancellations` there were.
    """
    if isinstance(task, Cancellable):
        return task.was_cut_short and exception is None  # of a group, what else was in it comes out
    if task.cancelling() > before:
        task.uncancel()
    return task.cancelling() <= before and is_cancelled_error(exception) and (not before or _is_marked(exception))


async def others_cancellation(exception: BaseException) -> BaseException:
    """What others have asked for, where it is our cancellation that came out of an application they cancel as well.

    A cancel scope of anyio does not know ours for its own, but repeats itself.
    """
    if is_cancelled_error(exception) and _MARK in exception.args:
        try:
            for _ in range(_TURNS_TO_REPEAT):
                await _turn()
        except BaseException as other:
            return other
    return exception


_TURNS_TO_REPEAT = 2


def _is_marked(exception: BaseException | None) -> bool:
    """Is it our cancellation, or what a task that was awaited has made of it, and none that came before or after?

    Of two, the later one comes up while the earlier one is handled, and so in a frame that that one has passed as well.
    """
    while exception is not None and _MARK not in exception.args:
        frames = {frame for frame, _ in traceback.walk_tb(exception.__traceback__)}
        exception = exception.__context__
        if exception is None or any(frame in frames for frame, _ in traceback.walk_tb(exception.__traceback__)):
            return False
    return exception is not None and not is_cancelled_error(exception.__context__)
