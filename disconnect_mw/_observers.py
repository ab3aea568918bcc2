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
from ._telling import LOGGER, OBSERVERS, find_route


@dataclass(frozen=True, eq=False)
class Departure:
    """A client that has left, and whose app still runs. Observers are called with one."""

    disconnect: Disconnect
    """The record of the client that left."""
    policy: str
    """What the middleware does about it: `"mute"`, `"finish"`, `"cancel"` or `"raise"`."""
    scope: Any
    """The scope of the exchange."""
    task: Any
    """The task of the app: of asyncio; something else on trio."""
    context: contextvars.Context | None
    """The context in which the middleware was called, where that was kept; else None."""
    _disconnected: Disconnected

    @property
    def route(self) -> str:
        """The route that the framework has put into the scope by now (Starlette, FastAPI, Litestar).

        `"(no route)"` where it has put none there; the path where the framework is another one.
        """
        return label_of(self.scope, self.disconnect.path)

    @property
    def is_routed(self) -> bool:
        """Whether `route` is final. It is not where other middleware has kept the request from the framework's router.

        Then it may be another one once the app has ended.
        """
        return find_route(self.scope) is not None or not _is_unrouted(self.scope)

    @property
    def seconds(self) -> float:
        """The seconds for which the app has gone on since then."""
        return monotonic() - self._disconnected.since

    @property
    def bytes_muted(self) -> int:
        """The bytes that the app has sent since then."""
        return self._disconnected.bytes_muted


NO_ROUTE = "(no route)"


def label_of(scope: Any, path: str) -> str:
    """What an exchange is counted by. See `Departure.route`."""
    return find_route(scope) or (NO_ROUTE if _is_unrouted(scope) else path)


def _is_unrouted(scope: Any) -> bool:
    """Whether a framework that states the route has not done so. (Starlette before 1.7 states the endpoint alone.)"""
    return ("app" in scope or "litestar_app" in scope) and "endpoint" not in scope


Observer = Callable[[Departure], "Callable[[Exchange], object] | None"]
"""What `subscribe` takes: a function of a `Departure` that returns None, or a function of its `Exchange`."""


class _Departed(Protocol):
    """What is needed of a connection."""

    options: Options
    scope: Any
    task: Any
    disconnected: Any

    def context(self) -> contextvars.Context | None: ...


def tell_of_departure(connection: _Departed, disconnect: Disconnect) -> None:
    """Call the observers, unless it was the server that shut down. What they raise is logged, and changes nothing."""
    if disconnect.is_shutdown:
        return
    scope = connection.scope
    departure = Departure(
        disconnect,
        connection.options.policy,
        scope,
        connection.task,
        connection.context(),
        connection.disconnected,
    )
    found = [_call(observer, departure) for observer in [*OBSERVERS]]
    connection.disconnected.at_end = tuple(function for function in found if function is not None)


def tell_of_end(connection: _Departed, exchange: Exchange) -> None:
    """The app has ended: call what the observers returned."""
    functions, connection.disconnected.at_end = connection.disconnected.at_end, ()
    for function in functions:
        _call(function, exchange)


def _call(function: Callable[[Any], Any], argument: object) -> Any:
    try:
        return function(argument)
    except Exception:
        LOGGER.exception("an observer of departures failed: %s", name_of(function))
        return None
