"""Cancels the app after the disconnect, once, and keeps the blocks that are shielded from that (P6, P10, P12)."""

from __future__ import annotations

import contextvars
import enum
import math
import time
from collections.abc import Callable
from typing import Any

from ._backends import AppScope, Backend, Handle

# Seconds that a framework which listens by itself has to begin to end the handler; and turns of the event loop, since a
# busy loop may have had none in that time.
_SECONDS_TO_REACT = 0.05
_TURNS_TO_REACT = 32

# Seconds that such a framework has from then on to end the handler.
_SECONDS_TO_END_BY_ITSELF = 10.0

# The shielded blocks that a task is in, or was made in. An app that shields nothing never sees it set.
_blocks: contextvars.ContextVar[tuple[object, ...]] = contextvars.ContextVar("disconnect_mw.blocks", default=())


class _Stage(enum.Enum):
    UNTRIED = "untried"
    WAITING = "waiting for the framework to end the app"
    ENDING = "left to the framework, which is ending the app"
    REQUESTED = "requested"


class Cancellation:
    """Cancels the app's task once, as `asyncio.timeout` does, and tells at the end whether that is what ended it.

    A framework that listens in a task of its own and runs the handler in another (Quart, Django) ends the handler when
    its listener receives the disconnect. A cancellation of the task that waits for both would leave both behind, so
    such a framework gets time first.
    """

    __slots__ = ("_awaited", "_backend", "_handle", "_scope", "_since", "_stage", "_turns", "blocks", "is_due")

    def __init__(self, backend: Backend, scope: AppScope | None) -> None:
        self._backend = backend
        self._scope = scope  # of the app; None where nothing can cancel it
        self._stage = _Stage.UNTRIED
        self._handle: Handle | None = None
        self._since = 0.0  # when it was first tried, on the clock of time.monotonic()
        self._awaited: Any = None  # what the app's task awaited then, inside `asyncio.wait`
        self._turns = _TURNS_TO_REACT
        self.blocks: tuple[object, ...] = ()  # the shielded blocks that are under way
        self.is_due = False  # a cancellation waits for the last of them to end

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` after so many seconds, in place of an earlier one."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._backend.call_later(seconds, callback)

    def close(self) -> None:
        """Stop the timer, and do not hold the app's task any more: it may hold the exception that holds this."""
        self._scope = None
        if self._handle is not None:
            self._handle.cancel()

    # Cancelling

    def cancel(self, has_answered: Callable[[], bool]) -> float | None:
        """Request cancellation of the app. Returns None when requested, or the seconds after which to try again;
        math.inf where nothing can cancel it.

        It is postponed while another cancellation of the same task is pending (the two could not be told apart
        afterwards, P6), while the task is running (it may be about to return, and the request would reach the server's
        own code), and while a framework is ending the app. `has_answered` tells whether any task has received the
        disconnect.
        """
        scope = self._scope
        if scope is None:
            return math.inf
        seconds = self._seconds_to_react(scope, has_answered)
        if seconds is None:
            now = time.monotonic()
            self._since = self._since or now
            seconds = scope.cancel(now - self._since)
            if seconds is None:
                self._stage = _Stage.REQUESTED
        return seconds

    def _seconds_to_react(self, scope: AppScope, has_answered: Callable[[], bool]) -> float | None:
        """Seconds to wait for a framework that listens by itself; None to cancel now."""
        if self._stage is _Stage.ENDING:
            return None
        awaited = scope.awaited_by_wait()
        if self._stage is _Stage.UNTRIED:
            if awaited is None:
                return None
            self._stage, self._awaited = _Stage.WAITING, awaited
            return _SECONDS_TO_REACT
        if awaited is not self._awaited:  # the framework has gone on from there
            self._stage, self._awaited = _Stage.ENDING, None
            return _SECONDS_TO_END_BY_ITSELF if has_answered() else None
        self._turns -= 1
        return 0 if self._turns > 0 else None

    def is_requested(self) -> bool:
        return self._stage is _Stage.REQUESTED

    def absorb(self, exception: BaseException | None) -> bool:
        """Whether the app, which has ended with `exception`, ended by our cancellation alone. Also calls `uncancel`."""
        return self._scope is not None and self._scope.absorb(exception)

    def has_ended_app(self) -> bool:
        """Whether our cancellation ended the app, although an exception came out of it besides (trio)."""
        return self._scope is not None and self._scope.has_ended_app()

    async def others(self, exception: BaseException) -> BaseException:
        """If other code has cancelled the app too, and that has not come in yet, wait for it and return it."""
        return exception if self._scope is None else await self._scope.others(exception)

    # Shielding

    def shield(self) -> object:
        """Begin a block in which the app is not cancelled. Returns what `end_shield` takes."""
        block = object()
        self.blocks += (block,)
        _blocks.set((*_blocks.get(), block))
        return block

    def end_shield(self, block: object) -> None:
        self.blocks = tuple(other for other in self.blocks if other is not block)
        _blocks.set(tuple(other for other in _blocks.get() if other is not block))


def in_shield(block: object) -> bool:
    """Whether the caller is in that block, or in a task that was made in it."""
    return block in _blocks.get()
