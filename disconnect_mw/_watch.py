"""The watcher: finds out that the client has gone where the application does not ask, and wakes what that has blocked.

Some servers' `send` never tells (Hypercorn, Daphne and granian on a WebSocket), and some block for ever once the
connection is lost (Hypercorn's HTTP/2; uvicorn's wsproto up to 0.34.3; gunicorn's `asgi` worker until it cancels the
application, after 3 s). So exchanges that ask for it are looked at from time to time: one that nobody reads is read
for, one message ahead at most. Late, because most end before the first look and then cost no task; and by one timer
for all exchanges of an event loop.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import _runtime

if TYPE_CHECKING:
    from ._connection import Connection

# Seconds until an exchange is looked at for the first time, and from then on: an application that reads by itself now
# may stop reading later.
_UNTIL_FIRST_LOOK = 0.05
_BETWEEN_LOOKS = 1.0

# Seconds that a server has to wake a send of a client that has left by itself, as most do, in the same turn.
_UNTIL_WOKEN = 0.05

_Thing = TypeVar("_Thing")


class _Batch(Generic[_Thing]):
    """Things whose turn comes within so many seconds: all that have come by then, by one timer of their event loop."""

    def __init__(self, seconds: float, turn: Callable[[Iterable[_Thing]], None]) -> None:
        self._seconds = seconds
        self._turn = turn
        self._waiting: MutableMapping[Any, dict[_Thing, None]] = weakref.WeakKeyDictionary()  # by event loop

    def add(self, thing: _Thing) -> None:
        loop = _runtime.event_loop()
        if loop is None:
            return  # a coroutine driven by hand: nothing can be done later
        if loop not in self._waiting:
            self._waiting[loop] = {}
            _runtime.call_later(self._seconds, self._end)
        self._waiting[loop][thing] = None

    def discard(self, thing: _Thing) -> None:
        loop = _runtime.event_loop()
        if loop in self._waiting:
            self._waiting[loop].pop(thing, None)

    def _end(self) -> None:
        self._turn(self._waiting.pop(_runtime.event_loop(), {}))


class Watched:
    """An exchange that is looked at."""

    __slots__ = ("_connection", "_context", "_scope")

    def __init__(self, connection: Connection, scope: Any) -> None:
        self._connection = connection
        self._scope = scope
        self._context = contextvars.copy_context()  # the exchange's own, for whatever others do in the server's receive
        _first_looks.add(self)

    def look(self) -> None:
        self._connection.look(self._scope, self._context)
        _looks.add(self)

    def leave(self) -> None:
        _first_looks.discard(self)
        _looks.discard(self)


def _look(exchanges: Iterable[Watched]) -> None:
    for exchange in exchanges:
        exchange.look()


_first_looks = _Batch(_UNTIL_FIRST_LOOK, _look)
_looks = _Batch(_BETWEEN_LOOKS, _look)


def _wake(connections: Iterable[Connection]) -> None:
    """Wake the sends of these that are at the server still.

    Who sends is not noted, for that would cost each message; it is seen from what the tasks await.
    """
    blocked = set(connections)
    for connection in blocked:
        connection.interrupt_send()
    if blocked:
        for task, variables in _runtime.suspended_in(next(iter(blocked)).sends_by):
            sender = variables["self"]
            # One that has caught something is back from the server.
            if sender in blocked and variables.keys() == {"self", "message"}:
                sender.interrupt_send(task)


departures: _Batch[Connection] = _Batch(_UNTIL_WOKEN, _wake)
"""Connections whose client is known to have gone, so that no send of theirs stays blocked for long."""
