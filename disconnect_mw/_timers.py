"""One timer per event loop for all things that wait equally long: a timer of its own for each would cost too much."""

from __future__ import annotations

import functools
import itertools
import sys
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ._backends import Backend
from ._errors import report

_Thing = TypeVar("_Thing")
Callback = Callable[[dict[_Thing, Any], Backend, Any], None]
"""Called with the things and the value of each, and with the backend and the token of the event loop that runs."""


class _Waiting(Generic[_Thing]):
    """What waits on one event loop, by age: in the last of `generations` what waits for the next end of the timer."""

    __slots__ = ("__weakref__", "generations", "token", "youngest")

    def __init__(self, token: Any, count: int) -> None:
        self.token = weakref.ref(token)
        self.generations: list[dict[_Thing, Any]] = [{} for _ in range(count)]
        self.youngest = self.generations[0]


class SharedTimer(Generic[_Thing]):
    """Calls `callback` with all things that were added within the last `seconds`, by one timer of their event loop.

    With `is_exact` not before so many seconds, and within half as many again: three timers of half the seconds. (No
    clock costs as little.)

    Calls it with at most `a_turn` things in one turn of the event loop: thousands of exchanges may have begun at once.
    """

    def __init__(
        self, seconds: float, callback: Callback[_Thing], is_exact: bool = False, a_turn: int = sys.maxsize
    ) -> None:
        self.seconds = seconds
        self._callback = callback
        self._is_exact = is_exact
        self._a_turn = a_turn
        # By the identity of the loop's token, since a WeakKeyDictionary costs as much as all the rest. The loop's own
        # timer holds what waits, so that both go when a loop ends before its timers.
        self._waiting: dict[int, weakref.ref[_Waiting[_Thing]]] = {}
        self._recent: Callable[[], _Waiting[_Thing] | None] = lambda: None  # nearly always the one that is wanted

    def add(self, thing: _Thing, backend: Backend, token: Any, value: Any = None) -> dict[_Thing, Any]:
        """`token` is that of the event loop that runs. Returns what `thing` can be removed from."""
        waiting = self._recent()
        if waiting is None or waiting.token() is not token:
            generation = self._generation(backend, token)
        else:
            generation = waiting.youngest
        generation[thing] = value
        return generation

    def _generation(self, backend: Backend, token: Any) -> dict[_Thing, Any]:
        """Where to put what begins to wait on this event loop, where another one was the last."""
        waiting = self._on(token)
        if waiting is not None:
            self._recent = self._waiting[id(token)]
            return waiting.youngest
        waiting = _Waiting(token, 3 if self._is_exact else 1)
        self._recent = self._waiting[id(token)] = weakref.ref(waiting)
        self._set_timer(waiting, backend)
        return waiting.generations[-2:][0]  # this will have seen the first timer in full

    def discard(self, thing: _Thing, token: Any) -> None:
        waiting = self._on(token)
        if waiting is not None:
            for generation in waiting.generations:
                generation.pop(thing, None)

    def _on(self, token: Any) -> _Waiting[_Thing] | None:
        reference = self._waiting.get(id(token))
        waiting = None if reference is None else reference()
        return None if waiting is None or waiting.token() is not token else waiting

    def _set_timer(self, waiting: _Waiting[_Thing], backend: Backend) -> None:
        seconds = self.seconds / 2 if self._is_exact else self.seconds
        backend.call_later(seconds, functools.partial(self._end, waiting, backend))

    def _end(self, waiting: _Waiting[_Thing], backend: Backend) -> None:
        token = waiting.token()
        things = waiting.generations.pop()
        if any(waiting.generations):
            waiting.youngest = {}
            waiting.generations.insert(0, waiting.youngest)
            self._set_timer(waiting, backend)
        else:
            self._waiting.pop(id(token), None)
            self._recent = lambda: None
        self._call(things, backend, token)

    def _call(self, things: dict[_Thing, Any], backend: Backend, token: Any) -> None:
        if len(things) > self._a_turn:
            rest = things  # of which some may be removed before their turn
            things = {thing: rest.pop(thing) for thing in [*itertools.islice(rest, self._a_turn)]}
            backend.call_soon(functools.partial(self._call, rest, backend, token))
        try:
            self._callback(things, backend, token)
        except Exception:  # asyncio would only report it to its exception handler, trio would end the run
            report("a timer of disconnect_mw failed")
