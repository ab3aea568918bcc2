"""What the rest of the package asks of an event loop."""

from __future__ import annotations

import contextvars
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, Protocol

Call = Callable[..., Awaitable[Any]]
"""The server's `receive` or `send`."""


Found = Callable[[Any, list[Any]], Any]
"""Called with a task that was searched for, and what it awaits."""


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
        ...

    def absorb(self, exception: BaseException | None) -> bool:
        """Whether the app, which has ended with `exception`, ended by `cancel` alone. Takes the cancellation back."""
        ...

    async def others(self, exception: BaseException) -> BaseException:
        """If other code has cancelled the app too, and that has not come in yet, wait for it and return it.

        Else `exception`.
        """
        ...

    def awaited(self) -> object:
        """What the app's task awaits, to be compared: another value, once the app has gone on from there."""
        ...

    def is_in_module(self, name: str) -> bool:
        """Whether the app's task, or one of a group of its own, is suspended in code of this module or package."""
        ...

    def has_ended_app(self) -> bool:
        """Whether `cancel` ended the app, although an exception came out of it besides (trio)."""
        ...


@types.coroutine
def turn() -> Generator[None, None, None]:
    """What `asyncio.sleep(0)` does."""
    yield


class PolledWaiter:
    """Asked each time that the coroutine is driven."""

    __slots__ = ("is_set",)

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def __await__(self) -> Generator[None, None, None]:
        while not self.is_set:
            yield


class Backend:
    """One kind of event loop. This one is for none: a coroutine that is driven by hand, with `send(None)`.

    Then nothing can be started, woken, cancelled or called later, and seconds are not counted. Stateless: each
    connection keeps the token of its event loop itself.
    """

    __slots__ = ()

    def current_task(self, token: Any, /) -> Any:
        """The task that runs on the loop of this token; None where there is none."""
        return None

    def token(self) -> Any:
        """What tells event loops of one kind apart: asyncio's loop, trio's token, None by hand."""
        return None

    def checkpoint(self) -> Awaitable[None]:
        """Give every other task of the loop its turn, and let a cancellation in."""
        return turn()

    def create_waiter(self) -> Waiter:
        return PolledWaiter()

    def spawn(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> Handle | None:
        """Run `coroutine`, which must not raise, in a task with `context`, or with a copy of the caller's.

        On asyncio its first step is made at once, because Starlette's `request.is_disconnected()` peeks from a
        cancelled scope: what a task found out one turn later it would never see. None, and nothing run, by hand.
        """
        coroutine.close()
        return None

    def spawn_background(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        """As `spawn`, for a task that is to end by itself although no reference to it is kept."""
        coroutine.close()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the loop has its next turn; by hand, never."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        """Call `callback` on this loop after so many seconds, in an empty context."""
        raise RuntimeError("no event loop runs that could call anything later")

    def call_in(self, token: Any, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop of `token`: at once if it is the caller's own, from any thread.

        A loop that has ended calls nothing.
        """
        callback()

    async def move_on_after(self, seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine`, which must not raise, for at most `seconds`; then it is cancelled and not waited for.

        On asyncio for some turns of the loop more, which a busy one may not have given it.
        """
        await coroutine

    async def fail_after(self, seconds: float, awaitable: Awaitable[Any]) -> Any:
        """What `awaitable` returns; `SendTimedOut` if that takes longer than `seconds`."""
        return await awaitable

    def app_scope(self, task: Any) -> AppScope | None:
        """The scope of the app that runs in `task`. On trio a new scope where `task` is None, else `task` itself."""
        return None

    def wakeable(self, call: Call) -> Call:
        """`call` in a form that `wake` can end."""
        return call

    def unwrap(self, call: Call) -> Call:
        """The call that `wakeable` was given."""
        return call

    def wake(self, task: Any, call: Call) -> bool:
        """End the call of `task` to the server; the task finds an exception, and asks `absorb` about it.

        False, and nothing done, for a task that was cancelled before without `uncancel`: the two cancellations could
        not be told apart.
        """
        return False

    def absorb(self, task: Any, exception: BaseException | None) -> bool:
        """Take back what `wake` did to `task`. False if another cancellation came as well: it must pass (P6)."""
        return False

    def uncancel(self, task: Any) -> None:
        """Take back what `wake` did to `task`, where other code swallowed the exception on its way."""

    def coroutine(self, task: Any) -> Any:
        """The outermost coroutine of a connection's task: nearly always the server's. None where it is not known."""
        return None

    def has_ended(self, task: Any) -> bool:
        """Whether this task, which the loop has run, runs no more."""
        return True

    def noted(self, call: Call) -> Call:
        """`call` in a form that notes the tasks which are in it, for `tasks_in`. (On trio `wakeable` has done that.)"""
        return call

    def tasks_in(self, call: Call) -> Iterable[Any]:
        """The tasks that are in this call to the server; none where they are not noted."""
        return ()

    def own_tasks(self, task: Any) -> Iterable[Any]:
        """The task of the event loop that a connection has as its `task`, if it is known."""
        return ()

    def suspended_in(
        self, codes: Iterable[types.CodeType], owner: Any, call: Call, tasks: Iterable[Any]
    ) -> Iterator[tuple[Any, list[Any]]]:
        """Those of `tasks` that are suspended in a method of `owner` with such a code, and what each awaits there.

        `call` is the call to the server that `owner` makes in it.
        """
        return iter(())

    def search(self, codes: Iterable[types.CodeType], owner: Any, found: Found) -> None:
        """As `suspended_in` among all tasks of this loop, which takes its time. (On trio they are noted.)"""

    def is_in_cancelled_scope(self) -> bool:
        """Whether the caller is in a cancel scope of anyio's kind that has been cancelled."""
        return False

    def split_cancellation(self, exception: BaseException) -> tuple[BaseException | None, BaseException | None]:
        """The part of `exception` that must end the task (a cancellation, an exit), and the part to be logged."""
        return None, exception

    async def wait_before_peek(self) -> bool:
        """If the caller is in a cancelled scope of trio, let the reader's task run for two turns, and return True.

        False, at once, elsewhere: the caller may wait.
        """
        return False

    def shield_scope(self) -> Any:
        """A cancel scope of anyio's or trio's kind, not shielded yet; None where no such scopes are."""
        return None

    def peeks_itself(self) -> bool:
        """Whether the caller is a peek on trio, whose cancelled scope lets nothing wait. False elsewhere.

        A caller that is not cancelled must not read in a cancelled scope: a message would be lost on its way.
        """
        return False


BY_HAND = Backend()
