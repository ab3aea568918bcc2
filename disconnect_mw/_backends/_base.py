"""What the rest of the package asks of an event loop, in anyio's words."""

from __future__ import annotations

import contextvars
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, ClassVar, Protocol

Call = Callable[..., Awaitable[Any]]
"""The server's `receive` or `send`."""


class Woken(Exception):
    """Raised on trio by a call to the server that `Backend.wake` has ended. (On asyncio it is a `CancelledError`.)"""


class SendTimedOut(Exception):
    """Raised by `Backend.fail_after` when the time is over."""


def is_cancelled_error(exception: BaseException | None) -> bool:
    """Whether it is asyncio's cancellation, which any code can raise. (Only trio raises trio's.)"""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(exception, asyncio.CancelledError)


class Handle(Protocol):
    """A task or a timer."""

    def cancel(self) -> Any: ...


class Waiter(Protocol):
    """What one task awaits until another calls `set`, once. An asyncio.Event would be five times as large."""

    def set(self) -> Any: ...

    def __await__(self) -> Generator[Any, Any, Any]: ...


class AppScope(Protocol):
    """The app's task, as far as it can be cancelled from outside, as `asyncio.timeout` does it: once (P6)."""

    def cancel(self, tried_for: float) -> float | None:
        """Request the cancellation. Returns None when requested, or the number of seconds after which to try again.

        `tried_for` is the number of seconds since the first try.
        """

    def absorb(self, exception: BaseException | None) -> bool:
        """Whether the app, which has ended with `exception`, ended by `cancel` alone. Takes the cancellation back."""

    async def others(self, exception: BaseException) -> BaseException:
        """What others have requested, where `exception` is our cancellation and the app was cancelled by them too."""

    def awaited_by_wait(self) -> Any:
        """The innermost awaitable of the app's task, if that is suspended in `asyncio.wait`; else None.

        A cancellation does not reach the tasks that `asyncio.wait` waits for.
        """

    def has_ended_app(self) -> bool:
        """Whether `cancel` ended the app, although an exception came out of it besides (trio)."""


class Backend(Protocol):
    """One kind of event loop. An implementation keeps no state: a connection holds it beside the loop's token."""

    repeats_cancellation: ClassVar[bool]
    """Whether a cancelled task is cancelled at each await until it ends (trio), not once."""

    def current_task(self, token: Any, /) -> Any:
        """The task that runs on the loop of this token; None where there is none."""

    def token(self) -> Any:
        """What tells event loops of one kind apart: asyncio's loop, trio's token, None by hand."""

    def checkpoint(self) -> Awaitable[None]:
        """Give every other task of the loop its turn, and let a cancellation in."""

    def create_waiter(self) -> Waiter: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> Handle | None:
        """Run `coroutine`, which must not raise, in a task with `context`, or with a copy of the caller's.

        On asyncio its first step is made at once, because Starlette's `request.is_disconnected()` peeks from a
        cancelled scope: what a task found out one turn later it would never see. None, and nothing run, by hand.
        """

    def spawn_background(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        """As `spawn`, for a task that is to end by itself although no reference to it is kept."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        """Call `callback` on this loop after so many seconds, in an empty context."""

    def call_in(self, token: Any, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop of `token`: at once if it is the caller's own, from any thread.

        A loop that has ended calls nothing.
        """

    async def move_on_after(self, seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine`, which must not raise, for at most `seconds`; then it is cancelled and not waited for."""

    async def fail_after(self, seconds: float, awaitable: Awaitable[Any]) -> Any:
        """What `awaitable` returns; `SendTimedOut` if that takes longer than `seconds`."""

    def app_scope(self, task: Any) -> AppScope | None:
        """The scope of the app that runs in `task`; on trio, where `task` is None, one to run the app in."""

    def wakeable(self, call: Call) -> Call:
        """`call` in a form that `wake` can end."""

    def unwakeable(self, call: Call) -> Call:
        """The call that `wakeable` was given."""

    def wake(self, task: Any, call: Call) -> bool:
        """End the call of `task` to the server; the task finds an exception, and asks `absorb` about it.

        False, and nothing done, for a task that was cancelled before without `uncancel`: the two cancellations could
        not be told apart.
        """

    def absorb(self, task: Any, exception: BaseException | None) -> bool:
        """Take back what `wake` did to `task`. False if another cancellation came as well: it must pass (P6)."""

    def uncancel(self, task: Any) -> None:
        """Take back what `wake` did to `task`, where other code swallowed the exception on its way."""

    def suspended_in(
        self, code: types.CodeType, calls: Iterable[tuple[Any, Call]], tasks: Iterable[Any] | None = None
    ) -> Iterator[tuple[Any, Any, list[Any]]]:
        """Each task that is suspended in a method with this `code`, with the object that has it, and what it awaits.

        `calls` are these objects, and the call to the server that each makes there. Of `tasks`, or of all tasks.
        """

    def split_cancellation(self, exception: BaseException) -> tuple[BaseException | None, BaseException | None]:
        """What must end a task of ours, and the rest of `exception`: of a group, both."""

    async def wait_before_peek(self) -> bool:
        """In a cancelled scope of trio: give a task of ours that has its message two turns to handle it.

        No cancellation comes in meanwhile. False, and no turn, elsewhere: the caller may wait.
        """

    def cancelled_scope(self) -> Any:
        """For a peek on trio: a scope in which everything that would wait is cancelled. None elsewhere.

        Also None for a caller that is not cancelled itself: a message that is cancelled on its way would be lost.
        """
