"""trio. Imported once an event loop of trio runs."""

from __future__ import annotations

import contextlib
import contextvars
import math
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any

import trio

from .._frames import chain, is_method_of, is_of_module
from ._base import Backend, Call, Handle, SendTimedOut, Woken


class TrioWaiter:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()


class TrioAppScope:
    """The app, in a cancel scope of its own: trio has no way to cancel a task from outside."""

    __slots__ = ("_scope", "task")

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self.task: Any = None

    async def run(self, app: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        self.task = trio.lowlevel.current_task()
        try:
            with self._scope:
                return await app(*arguments)
        finally:
            self.task = None  # which may come to hold an exception whose traceback holds this

    def cancel(self, tried_for: float) -> None:
        self._scope.cancel()

    def absorb(self, exception: BaseException | None) -> bool:
        return self.has_ended_app() and exception is None  # of a group, what else was in it comes out

    async def others(self, exception: BaseException) -> BaseException:
        return exception

    def awaited(self) -> object:
        return None if self.task is None else [*chain(self.task.coro)][-1]

    def is_in_module(self, name: str) -> bool:
        tasks = [] if self.task is None else [self.task]
        for task in tasks:  # to which more are added meanwhile
            tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        return any(is_of_module(name, awaitable) for task in tasks for awaitable in chain(task.coro))

    def has_ended_app(self) -> bool:
        return bool(self._scope.cancelled_caught)


class WakeableCall:
    """The server's `receive` or `send`, each call in a cancel scope: trio has no way to wake another task's await."""

    __slots__ = ("__self__", "call", "scopes")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.__self__ = getattr(call, "__self__", None)  # as a bound method has it
        self.scopes: dict[Any, Any] = {}  # of the calls that are at the server now, by their tasks

    async def __call__(self, *message: Any) -> Any:
        task = trio.lowlevel.current_task()
        with trio.CancelScope() as scope:
            self.scopes[task] = scope
            try:
                return await self.call(*message)
            finally:
                del self.scopes[task]
        raise Woken  # only `wake` cancels the scope


class TrioBackend(Backend):
    __slots__ = ()

    def current_task(self, token: Any) -> Any:
        return trio.lowlevel.current_task()

    def token(self) -> Any:
        return trio.lowlevel.current_trio_token()

    def checkpoint(self) -> Awaitable[None]:
        return trio.lowlevel.checkpoint()

    def create_waiter(self) -> TrioWaiter:
        return TrioWaiter()

    def spawn(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> Handle:
        context = contextvars.copy_context() if context is None else context  # an empty one is false
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await coroutine

        trio.lowlevel.spawn_system_task(run, context=context)
        return scope

    def spawn_background(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        self.spawn(coroutine, context)

    def call_soon(self, callback: Callable[[], None]) -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        async def call() -> None:
            if seconds:  # even a sleep of none takes a turn
                await trio.sleep(seconds)
            callback()

        return self.spawn(call(), contextvars.Context())

    def call_in(self, token: Any, callback: Callable[[], None]) -> None:
        try:
            is_here = trio.lowlevel.current_trio_token() is token
        except RuntimeError:  # the caller runs in no event loop of trio
            is_here = False
        if is_here:
            callback()
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended
            token.run_sync_soon(callback)

    async def move_on_after(self, seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
        with trio.move_on_after(seconds):
            await coroutine

    async def fail_after(self, seconds: float, awaitable: Awaitable[Any]) -> Any:
        """See `Backend.fail_after`. In a task that can be abandoned: Hypercorn shields its send from every scope."""
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

        task = self.spawn(run())
        try:
            with trio.move_on_after(seconds):
                await ended.wait()
        finally:
            task.cancel()  # which does nothing to one that has ended
        if raised:
            raise raised[0]
        if not result:
            raise SendTimedOut
        return result[0]

    def app_scope(self, task: TrioAppScope | None) -> TrioAppScope:
        return TrioAppScope() if task is None else task

    def wakeable(self, call: Call) -> WakeableCall:
        return WakeableCall(call)

    def unwrap(self, call: Any) -> Call:
        return call.call  # type: ignore[no-any-return]  # a WakeableCall's

    def wake(self, task: Any, call: Any) -> bool:
        scope = call.scopes.get(task)
        if scope is None:
            return False
        scope.cancel()
        return True

    def absorb(self, task: Any, exception: BaseException | None) -> bool:
        return exception is None or isinstance(exception, Woken)

    def coroutine(self, task: TrioAppScope) -> Any:
        return None if task.task is None else task.task.coro

    def has_ended(self, task: Any) -> bool:
        return task.coro.cr_frame is None

    def suspended_in(
        self, codes: Iterable[types.CodeType], owner: Any, call: Any, tasks: Iterable[Any]
    ) -> Iterator[tuple[Any, list[Any]]]:
        for task in tasks:
            awaited = list(chain(task.coro))
            # In `fail_after` a task of its own makes the call.
            starts = [index + 1 for index, awaitable in enumerate(awaited) if is_method_of(owner, codes, awaitable)]
            if starts or task in call.scopes:
                yield task, awaited[max(starts, default=0) :]

    def tasks_in(self, call: Any) -> list[Any]:
        return [*call.scopes]

    def own_tasks(self, task: TrioAppScope) -> list[Any]:
        return [] if task.task is None else [task.task]

    def shield_scope(self) -> trio.CancelScope:
        return trio.CancelScope()

    def split_cancellation(self, exception: BaseException) -> tuple[BaseException | None, BaseException | None]:
        kinds = (KeyboardInterrupt, trio.Cancelled)
        if isinstance(exception, BaseExceptionGroup):
            return exception.split(kinds)
        return (exception, None) if isinstance(exception, kinds) else (None, exception)

    def is_in_cancelled_scope(self) -> bool:
        return trio.current_effective_deadline() == -math.inf

    async def wait_before_peek(self) -> bool:
        if not self.is_in_cancelled_scope():
            return False
        await trio.lowlevel.cancel_shielded_checkpoint()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return True

    def peeks_itself(self) -> bool:
        return self.is_in_cancelled_scope()


TRIO = TrioBackend()
