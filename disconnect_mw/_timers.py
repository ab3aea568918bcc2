"""One timer per event loop for all things that wait equally long: a timer of its own for each would cost too much."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from ._backends import Backend

_LOGGER = logging.getLogger("disconnect_mw")

_Thing = TypeVar("_Thing")
Callback = Callable[[Iterable[_Thing], Backend, Any], None]
"""Given the things, and the event loop that runs."""


class _Waiting(dict[_Thing, int]):
    """What waits on one event loop, and how many timers each thing will have seen in full at the end of this one."""

    def __init__(self, token: Any) -> None:
        super().__init__()
        self.token = weakref.ref(token)


class SharedTimer(Generic[_Thing]):
    """Calls `callback` with all things that were added within the last `seconds`, by one timer of their event loop.

    With `is_waiting`, which tells whether a thing still waits: not before so many seconds, and within half as many
    again.
    """

    def __init__(
        self,
        seconds: float,
        callback: Callback[_Thing],
        is_waiting: Callable[[_Thing], bool] | None = None,
    ) -> None:
        self.seconds = seconds
        self._callback = callback
        self._is_waiting = is_waiting
        # By the identity of the loop's token, since a WeakKeyDictionary costs as much as all the rest. The loop's own
        # timer holds what waits, so that both go when a loop ends before its timers.
        self._waiting: dict[int, weakref.ref[_Waiting[_Thing]]] = {}
        self._recent: Callable[[], _Waiting[_Thing] | None] = lambda: None  # nearly always the one that is wanted

    def add(self, thing: _Thing, backend: Backend, token: Any, timers: int = 0) -> None:
        """`token` is that of the event loop that runs."""
        waiting = self._recent()
        if waiting is None or waiting.token() is not token:
            waiting = self._on(token)
            if waiting is None:
                waiting = _Waiting(token)
                self._waiting[id(token)] = weakref.ref(waiting)
                seconds = self.seconds if self._is_waiting is None else self.seconds / 2
                backend.call_later(seconds, functools.partial(self._end, waiting, backend))
                timers = timers or 1
            self._recent = self._waiting[id(token)]
        waiting[thing] = timers

    def discard(self, thing: _Thing, token: Any) -> None:
        waiting = self._on(token)
        if waiting is not None:
            waiting.pop(thing, None)

    def _on(self, token: Any) -> _Waiting[_Thing] | None:
        reference = self._waiting.get(id(token))
        waiting = None if reference is None else reference()
        return None if waiting is None or waiting.token() is not token else waiting

    def _end(self, waiting: _Waiting[_Thing], backend: Backend) -> None:
        token = waiting.token()
        self._waiting.pop(id(token), None)
        self._recent = lambda: None
        things = waiting if self._is_waiting is None else self._ripe(waiting, self._is_waiting, backend, token)
        try:
            self._callback(things, backend, token)
        except Exception:  # in a timer it would reach nobody, and on trio end everything
            _LOGGER.exception("a timer of disconnect_mw failed: please report this")

    def _ripe(
        self, waiting: _Waiting[_Thing], is_waiting: Callable[[_Thing], bool], backend: Backend, token: Any
    ) -> list[_Thing]:
        """Those that have seen two timers in full, of half the seconds each. (No clock costs as little.)"""
        ripe = []
        for thing, timers in waiting.items():
            if is_waiting(thing):
                if timers == 2:
                    ripe.append(thing)
                else:
                    self.add(thing, backend, token, timers + 1)
        return ripe
