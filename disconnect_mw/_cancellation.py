"""Ends the app after the disconnect, once, and keeps the blocks that are shielded from that (P6, P10, P12)."""

from __future__ import annotations

import collections
import contextvars
import enum
import functools
import math
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from ._backends import AppScope, Backend, Handle
from ._errors import report
from ._state import Listener

# Packages that run the app in a thread, which a cancellation, or an exception of `send`, would leave waiting for ever.
_LEFT_STUCK = ("a2wsgi",)

# Seconds that a framework which listens by itself has to begin to end the handler; and turns of the event loop, since a
# busy loop may have had none in that time.
_SECONDS_TO_REACT = 0.05
_TURNS_TO_REACT = 32

# Turns of the event loop for which a cancellation waits while the app's task is in `send`, and then seconds: until a
# send that the server blocks has been woken.
_TURNS_TO_LEAVE_SEND = 32
_SECONDS_TO_LEAVE_SEND = 0.1

# In one turn of an event loop, at most: apps that are cancelled at the first try, and later tries.
_CANCELLATIONS_A_TURN = 4
_TRIES_A_TURN = 128

# Seconds that such a framework has from then on to end the handler.
_SECONDS_TO_END_BY_ITSELF = 10.0

# The shielded blocks that a task is in, or was made in. An app that shields nothing never sees it set.
_blocks: contextvars.ContextVar[tuple[Block, ...]] = contextvars.ContextVar("disconnect_mw.blocks", default=())


class Block:
    """A shielded block. `scope` is a cancel scope of anyio's kind around it, where it can have one."""

    __slots__ = ("scope",)

    def __init__(self, scope: Any) -> None:
        self.scope: Any = scope


class Told(NamedTuple):
    """Of tasks that have received the disconnect, and may be cleaning up."""

    at: float  # on the clock of time.monotonic()
    seconds_to_clean_up: float


class _Stage(enum.Enum):
    UNTRIED = "untried"
    WAITING = "waiting for whoever is told to end the app"
    ENDING = "left to whoever was told, who is ending the app"
    REQUESTED = "requested"


class Cancellation:
    """Ends the app once: by the disconnect, where it listens, and else as `asyncio.timeout` does (P12).

    A framework that listens in a task of its own ends the handler when that receives the disconnect (Quart, Django,
    Starlette below 2.4), and an app that is told may be in its clean-up. A cancellation would cut that, so whoever
    listens gets time first. At the end it tells whether our cancellation is what ended the app.
    """

    __slots__ = (
        "_awaited",
        "_backend",
        "_handle",
        "_polls",
        "_scope",
        "_since",
        "_stage",
        "_tried_at",
        "_turns",
        "_turns_to_leave_send",
        "blocks",
        "is_due",
        "is_over",
    )

    def __init__(self, backend: Backend, scope: AppScope | None) -> None:
        self._backend = backend
        self._scope = scope  # of the app; None where nothing can cancel it
        self._stage = _Stage.UNTRIED
        self._handle: Handle | None = None
        self._tried_at = 0.0  # for the first time, on the clock of time.monotonic()
        self._since = 0.0  # when it was first requested, on the clock of time.monotonic()
        self._polls = False  # whoever is to be told has not asked again yet
        self._awaited: object = None  # by the app's task, when it was first tried
        self._turns = _TURNS_TO_REACT
        self.blocks: tuple[Block, ...] = ()  # the shielded blocks that are under way
        self.is_due: bool = False  # a cancellation waits for the last of them to end
        self.is_over: bool = False  # the time for which the disconnect is withheld
        self._turns_to_leave_send = _TURNS_TO_LEAVE_SEND

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` after so many seconds, in place of an earlier one."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._backend.call_later(seconds, functools.partial(_call, callback))

    def close(self) -> None:
        """Stop the timer, and do not hold the app's task any more: it may hold the exception that holds this."""
        self._scope = None
        if self._handle is not None:
            self._handle.cancel()

    # Cancelling

    def cancel(self, listener: Listener, told: Told | None) -> float | None:
        """Request cancellation of the app. Returns None when requested, or the seconds after which to try again;
        math.inf where nothing can cancel it.

        `told` is of tasks that have received the disconnect and still run. It is postponed while whoever asks for the
        disconnect is to be told, ends the app, or cleans up; while another cancellation of the same task is pending
        (the two could not be told apart afterwards, P6); and while the task is running (it may be about to return, and
        the request would reach the server's own code).
        """
        scope = self._scope
        if scope is None or is_left_stuck(scope):
            return math.inf
        seconds = self._seconds_to_react(scope, listener, told)
        if seconds is None:
            now = time.monotonic()
            self._since = self._since or now
            seconds = scope.cancel(now - self._since)
            if seconds is None:
                self._stage = _Stage.REQUESTED
        return seconds

    def wait_for_send(self) -> float | None:
        """The app's task is in `send`. Returns the seconds after which to try again, or None to wait no longer."""
        self._turns_to_leave_send -= 1
        if self._turns_to_leave_send == 0:
            return _SECONDS_TO_LEAVE_SEND
        return 0 if self._turns_to_leave_send > 0 else None

    def _seconds_to_react(self, scope: AppScope, listener: Listener, told: Told | None) -> float | None:
        """Seconds to wait for whoever is told to end the app; None to cancel now."""
        if self._stage is _Stage.ENDING:
            return None
        if self._stage is _Stage.UNTRIED:
            if listener is Listener.NONE:
                return None
            self._stage, self._awaited, self._tried_at = _Stage.WAITING, scope.awaited(), time.monotonic()
            self._polls = listener is Listener.POLLS
            return _SECONDS_TO_REACT
        if listener is Listener.TOLD and scope.awaited() != self._awaited:  # the app has gone on from there
            self._stage, self._awaited = _Stage.ENDING, None
            return _SECONDS_TO_END_BY_ITSELF
        if told is not None and told.at > self._tried_at - _SECONDS_TO_REACT:  # and not long before
            if time.monotonic() - told.at < told.seconds_to_clean_up:
                return _SECONDS_TO_REACT
        if self._polls:
            self._polls = listener is Listener.POLLS
            return _SECONDS_TO_REACT
        self._turns -= 1
        return 0 if self._turns > 0 else None

    def is_untried(self) -> bool:
        return self._stage is _Stage.UNTRIED and self._turns_to_leave_send == _TURNS_TO_LEAVE_SEND

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

    def shield(self, block: Block) -> None:
        """Begin a block in which the app is not cancelled."""
        self.blocks += (block,)
        _blocks.set((*_blocks.get(), block))

    def end_shield(self, block: Block) -> None:
        self.blocks = tuple(other for other in self.blocks if other is not block)
        _blocks.set(tuple(other for other in _blocks.get() if other is not block))

    def shield_scopes(self) -> None:
        """The client has left: from now on a framework's cancel scopes do not reach into the blocks."""
        for block in self.blocks:
            if block.scope is not None:
                block.scope.shield = True


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        report("the app could not be cancelled")


class _Turn:
    """One turn of an event loop: what it may still do, and the cancellations whose turn comes later."""

    __slots__ = ("left", "waiting")

    def __init__(self, waiting: collections.deque[Callable[[], None]]) -> None:
        self.left = _TRIES_A_TURN
        self.waiting = waiting


_turns: weakref.WeakKeyDictionary[Any, _Turn] = weakref.WeakKeyDictionary()
"""By the token of the event loop, where an app is cancelled in this turn."""


def admits(backend: Backend, token: Any, is_first: bool, cancel: Callable[[], None]) -> bool:
    """Whether `cancel`, which asks, may try to cancel an app in this turn of the event loop. Else it is called later.

    Thousands of clients may leave at once. A first try nearly always cancels the app, which has its clean-up in the
    next turn; later ones mostly find that it still cleans up.
    """
    turn = _turns.get(token)
    if turn is None:
        turn = _begin_turn(backend, token, collections.deque())
    if turn.left <= 0:
        turn.waiting.append(cancel)
        return False
    turn.left -= _TRIES_A_TURN // _CANCELLATIONS_A_TURN if is_first else 1
    return True


def _begin_turn(backend: Backend, token: Any, waiting: collections.deque[Callable[[], None]]) -> _Turn:
    turn = _turns[token] = _Turn(waiting)
    backend.call_soon(functools.partial(_end_turn, backend, token))
    return turn


def _end_turn(backend: Backend, token: Any) -> None:
    waiting = _turns.pop(token).waiting
    if waiting:
        turn = _begin_turn(backend, token, waiting)
        while waiting and turn.left > 0:
            turn.left -= 1  # also where the app has ended, and does not ask
            _call(waiting.popleft())


def is_left_stuck(scope: AppScope) -> bool:
    """Whether the app runs in a thread that waits for ever if the app's task is cancelled, or its `send` raises."""
    return any(map(scope.is_in_module, _LEFT_STUCK))


def in_shield(block: Block) -> bool:
    """Whether the caller is in that block, or in a task that was made in it."""
    return block in _blocks.get()
