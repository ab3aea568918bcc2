"""The server's side of one call of the middleware, and helpers that tests of the core share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest

from disconnect_mw import DisconnectMiddleware, _backends, _blocked_sends, _watcher
from disconnect_mw._backends import _asyncio

App = Callable[[Any, Any, Any], Awaitable[Any]]
T = TypeVar("T")

ON_ASYNCIO = [("asyncio", {}), ("asyncio", {"use_uvloop": True})]

on_asyncio = pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)

SECONDS = 5
"""More seconds than any exchange here takes that does not hang."""


def is_trio() -> bool:
    return _backends.is_trio_running()


def look_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the middleware check after milliseconds, so that the tests are fast."""
    for timer, seconds in (
        (_watcher.first_checks, 0.002),
        (_watcher._checks, 0.01),
        (_blocked_sends.blocked, 0.005),
    ):
        monkeypatch.setattr(timer, "seconds", seconds)
    monkeypatch.setattr(_asyncio, "_UNTIL_TRIED_AGAIN", 0.002)


async def turns(count: int = 5) -> None:
    """Wait for so many turns of the event loop, in which a late cancellation would arrive."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


async def briefly(exchange: Callable[[], Awaitable[T]], seconds: float) -> T:
    """What `exchange` returned. A busy machine may make it longer than so many seconds: then once more."""
    with anyio.fail_after(60):
        while True:
            began = anyio.current_time()
            result = await exchange()
            if anyio.current_time() - began < seconds:
                return result


async def checked(times: int = 2) -> None:
    """Wait until each exchange that is watched by now has been checked so many times, and for what that began.

    By a watcher that begins after them: the checks come by one timer for all.
    """
    left, done = times, anyio.Event()

    def check(context: contextvars.Context) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    watcher = _watcher.Watcher(check, contextvars.copy_context())

    class Exchange:
        def require_watcher(self, context: contextvars.Context) -> _watcher.Watcher:
            return watcher

    _watcher.first_checks.add(Exchange(), *_backends.current(), contextvars.copy_context())
    with anyio.fail_after(SECONDS):
        await done.wait()
    watcher.close()
    await turns()


def cancellations() -> int:
    """Return how many cancellations of this task are pending; trio does not count them."""
    if is_trio():
        return 0
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def serve(app: App, far: Any, scope: Any = None, **options: Any) -> Any:
    """Return what the middleware around `app` returns to a server, whose task must not be cancelled then or later."""
    return await call(DisconnectMiddleware(app, **options), far, scope)


async def call(app: App, far: Any, scope: Any = None) -> Any:
    with anyio.fail_after(SECONDS):
        try:
            result = await app(far.scope() if scope is None else scope, far.receive, far.send)
        except Exception:
            await assert_nothing_comes()
            raise
        await assert_nothing_comes()
    return result


async def assert_nothing_comes() -> None:
    assert cancellations() == 0
    await turns()


async def left(far: Any) -> None:
    """Have the client leave, and wait for ever."""
    far.leave()
    await anyio.sleep_forever()


GRACE = 0.03
"""Seconds of a grace that is soon over."""

GRACE_AT_HAND = 77.0
"""Seconds of a grace that ends when the test says so."""


def grace_at_hand(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Return a function that ends the grace of `GRACE_AT_HAND` seconds."""
    backend, _ = _backends.current()
    call_later = backend.call_later
    callbacks: list[Callable[[], None]] = []

    def later(self: Any, seconds: float, callback: Callable[[], None]) -> Any:
        if abs(seconds - GRACE_AT_HAND) > 1:
            return call_later(seconds, callback)
        callbacks.append(callback)
        return call_later(3600, lambda: None)

    async def end() -> None:
        call_later(0, callbacks.pop())
        await turns()

    monkeypatch.setattr(type(backend), "call_later", later)
    return end


class Until:
    """Records what happens, in order; `await until(thing)` waits for one of it."""

    def __init__(self) -> None:
        self.happened: list[Any] = []
        self._events: list[tuple[Any, anyio.Event]] = []

    def note(self, thing: Any) -> None:
        self.happened.append(thing)
        for awaited, event in self._events:
            if awaited == thing:
                event.set()

    async def __call__(self, thing: Any) -> None:
        if thing not in self.happened:
            event = anyio.Event()
            self._events.append((thing, event))
            await event.wait()


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Shield a clean-up on trio, which cancels every await in a cancelled scope."""
    if is_trio():
        with anyio.CancelScope(shield=True):
            yield
    else:
        yield


def living() -> int:
    """How many tasks there are."""
    if is_trio():
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())
