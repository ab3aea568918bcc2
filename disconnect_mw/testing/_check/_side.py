"""One request on one side, with the middleware or without it: clients that stay and clients that leave."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from ..._middleware import ASGIApp, DisconnectMiddleware
from .. import _tasks
from .._clients import Client
from .._hang import KnownHangs
from .._visit import Exchange
from ._departures import Departure
from ._faults import Faults, Played
from ._stays import SECONDS_TO_TURN, Stay, again_for, stay
from ._watch import Seen, seen_now

_AT_ONCE = 32
"""Exchanges that run side by side."""

_AT_ONCE_WITH_POOL = 5
"""The same where they take connections from a pool of SQLAlchemy's: so many has one, unless told otherwise."""

_SECONDS_TO_LOOK = 0.02


class Side:
    """Plays them. `saved` returns what the app has saved."""

    def __init__(
        self,
        app: ASGIApp,
        client: Client,
        first: Stay,
        patience: float,
        saved: Callable[[], Any] | None,
        advises_install: bool,
    ) -> None:
        self.faults = Faults(client, advises_install)
        self.stays: dict[tuple[str, ...], tuple[Departure, Stay]] = {}
        """By the names of the servers."""

        self.played: list[Played] = []
        self._app = app
        self._first = first
        self._again = again_for(client, first)
        # What ends by itself has the time for that.
        self._patience = patience + (first.seconds if first.is_whole else 0)
        self._saved = saved
        self._known_hangs = KnownHangs()

    async def play(self, departures: list[Departure]) -> None:
        at_once = _AT_ONCE_WITH_POOL if self._first.seen.uses_pool else _AT_ONCE
        each_server = {one.servers: one for one in departures}.values()
        await _tasks.run_all([functools.partial(self._stay, one) for one in each_server], at_once)
        # One by one: they may all write to the same place.
        for departure in departures:
            if departure.phase == "during the upload":
                await self._upload(departure)
        others = [one for one in departures if one.phase != "during the upload"]
        await _tasks.run_all([functools.partial(self._leave, one) for one in others], at_once)
        await self._judge_leftovers()

    async def _stay(self, departure: Departure) -> None:
        found = await stay(self._app, self._again, departure.server, self._patience, Seen())
        self.stays[departure.servers] = departure, found

    async def _leave(self, departure: Departure) -> Played:
        exchange = Exchange(
            self._app, departure.client, departure.server, self._patience, self._known_hangs, SECONDS_TO_TURN
        )
        seen = Seen()
        token = seen_now.set(seen)
        try:
            outcome = await exchange.play()
        finally:
            seen_now.reset(token)
        played = Played(departure, outcome, seen, self._patience, exchange.was_cancelled, exchange.is_in_thread)
        raised = played.transcript.raised
        if raised is not None and not isinstance(raised, Exception):
            raise raised
        self.faults.judge(played, self._first)
        if raised is not None:
            raised.__traceback__ = None  # which would keep what the app has left behind
        self.played.append(played)
        return played

    async def _upload(self, departure: Departure) -> None:
        before = await self._what_is_saved()
        played = await self._leave(departure)
        if before != await self._what_is_saved():
            sentence = "What is saved is not the same after the upload that was cut as before"
            self.faults.add("half upload", "saved", sentence, departure, played.transcript)

    async def _what_is_saved(self) -> Any:
        value = None if self._saved is None else self._saved()
        return copy.deepcopy(await value if inspect.isawaitable(value) else value)

    async def _judge_leftovers(self) -> None:
        """Give what the exchanges have left behind some time, and judge what is left then."""
        waited = 0.0  # not by a clock: a busy machine gives them less time
        while waited < self._patience and any(one.seen.tasks_left() or one.seen.connections for one in self.played):
            await _tasks.sleep(_SECONDS_TO_LOOK)
            waited += _SECONDS_TO_LOOK
        for played in self.played:
            self.faults.judge_leftovers(played, self._first)
            played.seen.cancel_tasks()
        of_stays = [found.seen for _, found in self.stays.values()]
        for seen in (*(played.seen for played in self.played), *of_stays, self._first.seen):
            seen.take_exceptions()
            await seen.give_back_connections()


@contextlib.contextmanager
def without_middleware() -> Iterator[None]:
    """Have each `DisconnectMiddleware` of the process call its app, and do nothing."""
    original = DisconnectMiddleware.__call__

    async def call(install: Any, scope: Any, receive: Any, send: Any) -> Any:
        return await install._app(scope, receive, send)

    DisconnectMiddleware.__call__ = call  # type: ignore[method-assign, assignment]  # that is the point
    try:
        yield
    finally:
        DisconnectMiddleware.__call__ = original  # type: ignore[method-assign]
