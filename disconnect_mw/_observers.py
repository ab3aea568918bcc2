"""Tells the observers of a departure, and of the end of its app. Imported once there is an observer."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from ._disconnected import Disconnected
from ._options import Options, name_of
from ._records import Disconnect, Exchange
from ._telling import LOGGER, OBSERVERS, route_of


@dataclass(frozen=True, eq=False)
class Departure:
    """A client that has left, and whose app still runs. Observers are called with one."""

    disconnect: Disconnect
    """The record of the client that left."""
    policy: str
    """What the middleware does about it: `"mute"`, `"finish"`, `"cancel"` or `"raise"`."""
    route: str
    """The route, where the framework has put it into the scope (Starlette, FastAPI); else the path."""
    scope: Any
    """The scope of the exchange."""
    task: Any
    """The task of the app: of asyncio; something else on trio."""
    context: contextvars.Context | None
    """The context in which the middleware was called, where that was kept; else None."""
    _disconnected: Disconnected

    @property
    def seconds(self) -> float:
        """The seconds for which the app has gone on since then."""
        return monotonic() - self._disconnected.since

    @property
    def bytes_muted(self) -> int:
        """The bytes that the app has sent since then."""
        return self._disconnected.bytes_muted


Observer = Callable[[Departure], "Callable[[Exchange], object] | None"]
"""What `subscribe` takes: a function of a `Departure` that returns None, or a function of its `Exchange`."""


class _Departed(Protocol):
    """What is needed of a connection."""

    options: Options
    scope: Any
    task: Any
    disconnected: Any

    def context(self) -> contextvars.Context | None: ...


_at_end: dict[_Departed, list[Callable[[Exchange], object]]] = {}


def tell_of_departure(connection: _Departed, disconnect: Disconnect) -> None:
    """Call the observers, unless it was the server that shut down. What they raise is logged, and changes nothing."""
    if disconnect.is_shutdown:
        return
    scope = connection.scope
    departure = Departure(
        disconnect,
        connection.options.policy,
        route_of(scope, disconnect.path),
        scope,
        connection.task,
        connection.context(),
        connection.disconnected,
    )
    found = [_call(observer, departure) for observer in [*OBSERVERS]]
    at_end = [function for function in found if function is not None]
    if at_end:
        _at_end[connection] = at_end


def tell_of_end(connection: _Departed, exchange: Exchange) -> None:
    """The app has ended: call what the observers returned."""
    for function in _at_end.pop(connection, ()):
        _call(function, exchange)


def add(observer: Observer) -> None:
    OBSERVERS.append(observer)


def remove(observer: Observer) -> None:
    if observer in OBSERVERS:
        OBSERVERS.remove(observer)
    if not OBSERVERS:
        _at_end.clear()  # `tell_of_end` is not called any more


def _call(function: Callable[[Any], Any], argument: object) -> Any:
    try:
        return function(argument)
    except Exception:
        LOGGER.exception("an observer of departures failed: %s", name_of(function))
        return None
