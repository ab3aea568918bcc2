"""No event loop: a coroutine that is driven by `send(None)`. Nothing can be started, waked or called later."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, ClassVar

from ._base import Call, Handle, Waiter


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


class ByHandBackend:
    repeats_cancellation: ClassVar = False

    def current_task(self, token: Any) -> Any:
        return None

    def token(self) -> Any:
        return None

    def checkpoint(self) -> Awaitable[None]:
        return turn()

    def create_waiter(self) -> Waiter:
        return PolledWaiter()

    def spawn(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> Handle | None:
        coroutine.close()
        return None

    def spawn_background(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        coroutine.close()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        raise RuntimeError("no event loop runs that could call anything later")

    def call_in(self, token: Any, callback: Callable[[], None]) -> None:
        callback()

    async def move_on_after(self, seconds: float, coroutine: Coroutine[Any, Any, None]) -> None:
        await coroutine

    async def fail_after(self, seconds: float, awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    def app_scope(self, task: Any) -> None:
        return None

    def wakeable(self, call: Call) -> Call:
        return call

    def unwakeable(self, call: Call) -> Call:
        return call

    def wake(self, task: Any, call: Call) -> bool:
        return False

    def absorb(self, task: Any, exception: BaseException | None) -> bool:
        return False

    def uncancel(self, task: Any) -> None: ...

    def suspended_in(
        self, code: types.CodeType, calls: Iterable[tuple[Any, Call]], tasks: Iterable[Any] | None = None
    ) -> Iterator[tuple[Any, Any, list[Any]]]:
        return iter(())

    def split_cancellation(self, exception: BaseException) -> tuple[BaseException | None, BaseException | None]:
        return None, exception

    async def wait_before_peek(self) -> bool:
        return False

    def cancelled_scope(self) -> Any:
        return None


BY_HAND = ByHandBackend()
