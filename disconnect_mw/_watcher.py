"""Detects a disconnect when the app is not calling `receive()`.

Needed because some servers' `send` never fails (Hypercorn, Daphne, and granian on a WebSocket) and some block for ever
after a lost connection (see `_blocked_sends`). A check reads at most one message ahead, which the app receives in
order.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, Protocol

from ._backends import Backend
from ._errors import report
from ._timers import SharedTimer

# Seconds until the first check, or up to half as long again, so that short requests never create a task; and between
# the checks from then on: an app that reads by itself now may stop reading later.
_UNTIL_FIRST_CHECK = 0.05
_BETWEEN_CHECKS = 1.0

# Checks in one turn of an event loop, at most: the first of an exchange may find that its client has left.
_FIRST_CHECKS_A_TURN = 4
_CHECKS_A_TURN = 64

Check = Callable[[contextvars.Context], None]


class Watcher:
    """Calls `check` 50 to 75 ms after the start, then once a second, until it is closed."""

    __slots__ = ("_check", "context", "has_checked")

    _check: Check | None
    context: contextvars.Context | None  # the exchange's own, for what other middleware does in the server's receive
    has_checked: bool

    def __init__(self, check: Check, context: contextvars.Context) -> None:
        self._check = check
        self.context = context
        self.has_checked = False

    def check(self) -> None:
        """Check now."""
        self.has_checked = True
        if self._check is not None and self.context is not None:
            self._check(self.context)

    def check_again(self, backend: Backend, token: Any) -> None:
        """Check now, and once a second from now on."""
        if self._check is not None:  # else the exchange has ended since
            _checks.add(self, backend, token)
            try:
                self.check()
            except Exception:  # of a scope that is no mapping, say: the others are checked all the same
                report("an exchange could not be checked")

    def close(self) -> None:
        self._check = self.context = None  # a timer may still hold this watcher


class Watched(Protocol):
    """An exchange."""

    def require_watcher(self, context: contextvars.Context) -> Watcher: ...


def _check_first(exchanges: dict[Watched, contextvars.Context], backend: Backend, token: Any) -> None:
    for exchange, context in exchanges.items():
        exchange.require_watcher(context).check_again(backend, token)


def _check_again(watchers: dict[Watcher, Any], backend: Backend, token: Any) -> None:
    for watcher in watchers:
        watcher.check_again(backend, token)


first_checks: SharedTimer[Watched] = SharedTimer(
    _UNTIL_FIRST_CHECK, _check_first, is_exact=True, a_turn=_FIRST_CHECKS_A_TURN
)
"""Exchanges that have not been checked yet, each with its context. Nearly all are over before."""

_checks: SharedTimer[Watcher] = SharedTimer(_BETWEEN_CHECKS, _check_again, a_turn=_CHECKS_A_TURN)


class Waiting(Protocol):
    def set(self) -> Any: ...


class DisconnectWaiters:
    """What waits for the disconnect without receiving it: tasks in `wait_disconnected`, callbacks."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: tuple[Waiting, ...] = ()

    def add(self, waiter: Waiting) -> None:
        self._waiters += (waiter,)

    def discard(self, waiter: Waiting) -> None:
        self._waiters = tuple(one for one in self._waiters if one is not waiter)

    def wake(self) -> None:
        for waiter in self._waiters:
            waiter.set()
