"""The watcher: finds out that the client has gone where the application does not ask, and wakes what that has blocked.

Some servers' `send` never tells (Hypercorn, Daphne and granian on a WebSocket), and some block for ever once the
connection is lost (Hypercorn's HTTP/2; uvicorn's wsproto up to 0.34.3; gunicorn's `asgi` worker until it cancels the
application, after 3 s). So exchanges that ask for it are looked at from time to time: one that nobody reads is read
for, one message ahead at most. Late, because most end before the first look and then cost no task; and by one timer
for all exchanges of an event loop.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import _runtime
from ._messages import quoted

if TYPE_CHECKING:
    from ._connection import Connection

# Seconds for which an exchange is not looked at, or up to half as long again, and between the looks from then on: an
# application that reads by itself now may stop reading later.
_UNTIL_FIRST_LOOK = 0.05
_BETWEEN_LOOKS = 1.0

# Seconds that a server has to wake a send of a client that has left by itself, as most do, in the same turn.
_UNTIL_WOKEN = 0.05

_Thing = TypeVar("_Thing")

_LOGGER = logging.getLogger("disconnect_mw")


class _Waiting(dict[_Thing, int]):
    """What waits on one event loop, and how many timers it will have seen in full at the end of this one."""

    def __init__(self, loop: Any) -> None:
        super().__init__()
        self.loop = weakref.ref(loop)


class _Batch(Generic[_Thing]):
    """Things whose turn comes within so many seconds: all that have come by then, by one timer of their event loop.

    With `is_of_use`, which tells whether a thing's turn is still to come: not before so many seconds, and within half
    as many again.
    """

    def __init__(
        self,
        seconds: float,
        turn: Callable[[Iterable[_Thing]], None],
        is_of_use: Callable[[_Thing], bool] | None = None,
    ) -> None:
        self.seconds = seconds
        self._turn = turn
        self._is_of_use = is_of_use
        # By the identity of the event loop, since a WeakKeyDictionary costs as much as all the rest. The loop's own
        # timer holds what waits, so that both go when a loop ends before its timers.
        self._waiting: dict[int, weakref.ref[_Waiting[_Thing]]] = {}
        self._recent: Callable[[], _Waiting[_Thing] | None] = lambda: None  # nearly always the one that is wanted

    def add(self, thing: _Thing, loop: Any, timers: int = 0) -> None:
        """`loop` is the event loop that runs; without one nothing can be done later."""
        if loop is None:
            return
        waiting = self._recent()
        if waiting is None or waiting.loop() is not loop:
            waiting = self._on(loop)
            if waiting is None:
                waiting = _Waiting(loop)
                self._waiting[id(loop)] = weakref.ref(waiting)
                seconds = self.seconds if self._is_of_use is None else self.seconds / 2
                _runtime.call_later(seconds, functools.partial(self._end, waiting))
                timers = timers or 1
            self._recent = self._waiting[id(loop)]
        waiting[thing] = timers

    def discard(self, thing: _Thing, loop: Any) -> None:
        waiting = None if loop is None else self._on(loop)
        if waiting is not None:
            waiting.pop(thing, None)

    def _on(self, loop: Any) -> _Waiting[_Thing] | None:
        reference = self._waiting.get(id(loop))
        waiting = None if reference is None else reference()
        return None if waiting is None or waiting.loop() is not loop else waiting

    def _end(self, waiting: _Waiting[_Thing]) -> None:
        self._waiting.pop(id(waiting.loop()), None)
        self._recent = lambda: None
        try:
            self._turn(waiting if self._is_of_use is None else self._old(waiting, self._is_of_use))
        except Exception:  # in a timer it would reach nobody, and on trio end everything
            _LOGGER.exception("the watcher failed: please report this")

    def _old(self, waiting: _Waiting[_Thing], is_of_use: Callable[[_Thing], bool]) -> list[_Thing]:
        """Those that have seen two timers in full, of half the seconds each. (No clock costs as little.)"""
        loop = waiting.loop()
        old = []
        for thing, timers in waiting.items():
            if is_of_use(thing):
                if timers == 2:
                    old.append(thing)
                else:
                    self.add(thing, loop, timers + 1)
        return old


class Attended:
    """What belongs to an exchange of which somebody asks more than the application does. Most have nothing of it.

    The attributes are the class's until they are set, so that each costs only where it is of use.
    """

    connection: Connection | None = None  # that is looked at, until it has left: what is in a batch then holds nothing
    context: contextvars.Context | None = None  # the exchange's own, for whatever others do in the server's receive
    is_looked_at = False  # short ones end before that
    waiters: tuple[_runtime.Waiter, ...] = ()  # for the departure
    inner: tuple[Connection, ...] = ()  # of installs further in
    shields: tuple[object, ...] = ()  # blocks that are not to be cancelled
    is_due = False  # the cancellation, when nothing shields from it any more
    timer: _runtime.Started | None = None  # for that
    cancels = False  # it has been cancelled
    cancellations = 0  # that were there before
    tried_at = 0.0  # for the first time
    waited_for: Any = None  # by a framework that has a listener of its own
    turns_to_react = 32
    has_reacted = False
    has_ended_by_it = False

    def watch(self, connection: Connection, context: contextvars.Context) -> None:
        self.connection = connection
        self.context = context
        _first_looks.add(self, connection.loop)

    def look(self) -> None:
        """Look now."""
        self.is_looked_at = True
        if self.connection is not None and self.context is not None:
            self.connection.look(self.context)

    def look_again(self, connection: Connection) -> None:
        """Look now, and again and again."""
        _looks.add(self, connection.loop)
        self.look()

    @contextlib.contextmanager
    def waiting(self, waiter: _runtime.Waiter) -> Iterator[None]:
        """In here `waiter` is woken by the departure, and when the exchange is over."""
        self.waiters += (waiter,)
        try:
            yield
        finally:
            self.waiters = tuple(one for one in self.waiters if one is not waiter)

    def tell(self) -> None:
        """Wake whoever waits for the departure."""
        for waiter in self.waiters:
            _runtime.wake(waiter)

    def leave(self) -> None:
        self.connection = self.context = None
        if self.timer is not None:
            self.timer.cancel()
        if self.waiters:
            self.tell()


def _look(exchanges: Iterable[Attended]) -> None:
    for exchange in exchanges:
        if exchange.connection is not None:  # as of those that have ended since, which are nearly all
            try:
                exchange.look_again(exchange.connection)
            except Exception:  # of a scope that is none, say: that is no reason to look at no other
                _LOGGER.exception("an exchange could not be looked at")


_first_looks = _Batch(_UNTIL_FIRST_LOOK, _look, lambda exchange: exchange.connection is not None)
_looks = _Batch(_BETWEEN_LOOKS, _look)


# Whose send may never come back once the client has left. Named, never imported; where none of them is there, nothing
# is woken. What others do in their `send`, between the server and this middleware, is theirs and never cut short.
BLOCKING = (
    "anycorn",  # as Hypercorn, of which it is a fork
    "disconnect_mw.testing._simulated_server",
    "gunicorn.asgi",
    "hypercorn",  # over HTTP/2
    "uvicorn.protocols.websockets.wsproto_impl",  # up to 0.34.3
)


# What stands between a send and such a server and only hands on, to a task that the server blocks.
_HANDS_ON = ("starlette.middleware.base",)


def can_be_blocked() -> bool:
    """Is there a server here whose `send` may never come back?"""
    return any(name in sys.modules for name in BLOCKING)


def _is_blocked(awaited: Iterable[Any]) -> bool:
    """Is it such a server's code, and nobody else's, that a `send` waits in?"""
    for frame in map(_runtime.frame_of, reversed([*awaited])):
        module = "" if frame is None else str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in ("", "asyncio", "anyio", "trio", "uvloop"):
            return any(module == name or module.startswith(f"{name}.") for name in (*BLOCKING, *_HANDS_ON))
    return False


def _wake(connections: Iterable[Connection]) -> None:
    """Wake the sends of these that the server has blocked.

    Who sends is not noted, for that would cost each message; it is seen from what the tasks await.
    """
    blocked = set(connections)
    for connection in blocked:
        connection.interrupt_own_sends(_is_blocked)
    if blocked:
        for task, variables, awaited in _runtime.suspended_in(next(iter(blocked)).sends_by):
            sender = variables["self"]
            # One that has caught something is back from the server.
            if sender in blocked and variables.keys() == {"self", "message"} and _is_blocked(awaited):
                sender.interrupt_send(task)


departures: _Batch[Connection] = _Batch(_UNTIL_WOKEN, _wake)
"""Connections whose client is known to have gone, so that no send of theirs stays blocked for long."""


# Seconds for which an application may go on for nobody before that is worth a warning. Daphne cancels after 10.
_UNTIL_WARNED = 10.0

# How many routes are named. Where no framework tells the route it is the path, and these a client can make up.
_ROUTES_TO_NAME = 100

_named: set[tuple[str, str]] = set()


def _warn(connections: Iterable[Connection]) -> None:
    for connection in connections:
        disconnect: Any = connection.record
        route = disconnect.method or "WEBSOCKET", _route_of(connection.scope, disconnect.path)
        if route not in _named and len(_named) < _ROUTES_TO_NAME:
            _named.add(route)
            _LOGGER.warning(
                "the app goes on for nobody: %s %s, %.0f s after its client has left. "
                'policy="cancel" stops it, grace=SECONDS does so later, math.inf never and without this warning; '
                "for one route use policy_for=, or disconnect_mw.connection(request).policy. "
                "Each route is named once.",
                *map(quoted, route),
                _UNTIL_WARNED,
            )


def _route_of(scope: Any, path: str) -> str:
    """The route, where the framework has put it into the scope (Starlette, FastAPI), or the path."""
    route = getattr(scope.get("route"), "path", None)
    return route if isinstance(route, str) else path


voids: _Batch[Connection] = _Batch(_UNTIL_WARNED, _warn, lambda connection: connection.scope is not None)
"""Connections whose client is known to have gone, and whose application nothing will end."""
