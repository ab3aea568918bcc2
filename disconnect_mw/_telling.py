"""What is told of a client that left: one log line, one warning, the hooks."""

from __future__ import annotations

import contextvars
import inspect
import logging
import math
import threading
from collections import Counter
from collections.abc import Awaitable, Iterable
from time import monotonic
from typing import Any, Protocol

from ._backends import Backend, is_cancelled_error
from ._messages import quoted
from ._options import Hook, name_of
from ._records import Disconnect, Exchange
from ._timers import SharedTimer

LOGGER = logging.getLogger("disconnect_mw")

OBSERVERS: list[Any] = []
"""Of departures, see `_observers`. Changed in place: while it is empty, it costs an exchange one question."""

# The log line

# Characters of a path or a method that a line has: a client chooses them.
_CHARACTERS = 200

# Lines in one second. What comes beyond is summed up in one more.
_LINES_A_SECOND = 100


def log_exchange(exchange: Exchange, backend: Backend) -> None:
    """Write one INFO line about `exchange`, which is an attribute of the log record, for formatters that use it."""
    if not LOGGER.isEnabledFor(logging.INFO) or not _lines.admit(exchange, backend):
        return
    disconnect = exchange.disconnect
    LOGGER.info(
        "%s: %s %s from %s, %s: %s sent%s, %s muted%s; the app went on for %.3f s and %s",
        "server shut down" if disconnect.is_shutdown else "client disconnected",
        "WEBSOCKET" if disconnect.protocol == "websocket" else short(disconnect.method),
        short(disconnect.path),
        _peer(disconnect.peer),
        disconnect.phase,
        _sent(exchange),
        _bytes(exchange.messages_sent, exchange.bytes_sent),
        _plural(exchange.messages_muted, "message"),
        _bytes(exchange.messages_muted, exchange.bytes_muted),
        exchange.seconds,
        _ended(exchange),
        extra={"exchange": exchange},
    )


class _Lines:
    """Counts the lines of each second, and sums up those that are too many."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # each event loop may run in a thread of its own
        self._ends = -math.inf  # the second, on the clock of monotonic()
        self._written = 0
        self._left_out: Counter[str] = Counter()  # by phase

    def admit(self, exchange: Exchange, backend: Backend) -> bool:
        """Whether `exchange` may have a line of its own. If not, it is counted."""
        self._sum_up_earlier()
        with self._lock:
            now = monotonic()
            if now >= self._ends:
                self._ends, self._written = now + 1, 0
            self._written += 1
            if self._written <= _LINES_A_SECOND:
                return True
            is_first = not self._left_out
            self._left_out[exchange.disconnect.phase] += 1
            seconds = self._ends - now
        if is_first:
            try:
                backend.call_later(seconds, self._sum_up)
            except RuntimeError:  # no event loop runs that could call it later
                self._sum_up()
        return False

    def _sum_up_earlier(self) -> None:
        """Sum up what an event loop that has ended since was to sum up."""
        if self._left_out and monotonic() >= self._ends:
            self._sum_up()

    def _sum_up(self) -> None:
        with self._lock:
            left_out, self._left_out = self._left_out, Counter()
        if not left_out:
            return
        phases = ", ".join(f"{count} {phase}" for phase, count in left_out.items())
        LOGGER.info("clients disconnected: %d more within a second, %s", left_out.total(), phases)


_lines = _Lines()


def short(text: Any, safe: str = "/") -> str:
    """`text` as it stood in the request line, or how it begins."""
    text = quoted(text, safe)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}… ({len(text)} characters)"


def _sent(exchange: Exchange) -> str:
    words = [] if exchange.status is None else [f"status {exchange.status}"]
    if exchange.messages_sent:
        words.append(_plural(exchange.messages_sent, "message"))
    return ", ".join(words) or "nothing"


def _bytes(messages: int | None, payload: int | None) -> str:
    return f" ({_plural(payload or 0, 'byte')})" if messages else ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _ended(exchange: Exchange) -> str:
    if exchange.ended == "cancelled":
        return "was cancelled"
    if exchange.ended == "suppressed":
        return f"raised {exchange.exception}, which was suppressed"
    return exchange.ended if exchange.exception is None else f"raised {exchange.exception}"


def _peer(peer: tuple[str, int] | None) -> str:
    if peer is None:
        return "an unknown peer"
    host, port = (quoted(part, safe=":") for part in peer)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# The warning

# Seconds for which an app may go on after its client has left before that is worth a warning. Daphne cancels after 10.
_UNTIL_WARNED = 10.0

# How many routes are named. Where no framework states the route it is the path, which a client can make up.
_ROUTES_TO_NAME = 100

_named: set[tuple[str, str]] = set()


class Abandoned(Protocol):
    """What the warning needs of a connection."""

    scope: Any

    def record(self) -> Disconnect | None: ...


def _warn(connections: Iterable[Abandoned], backend: Backend, token: Any) -> None:
    for connection in connections:
        disconnect: Any = connection.record()
        route = disconnect.method or "WEBSOCKET", route_of(connection.scope, disconnect.path)
        if route not in _named and len(_named) < _ROUTES_TO_NAME:
            _named.add(route)
            LOGGER.warning(
                "the app goes on without a client: %s %s, %.0f s after the client left. "
                'policy="cancel" stops it, grace=SECONDS stops it later, grace=math.inf lets it go on without this '
                "warning; for one route use policy_for=, or disconnect_mw.connection(request).policy. "
                "Each route is named once.",
                *(short(part, safe="/{}") for part in route),
                _UNTIL_WARNED,
            )


def route_of(scope: Any, path: str) -> str:
    """The route that the framework has put into the scope, else the path."""
    return find_route(scope) or path


def find_route(scope: Any) -> str | None:
    """The route, where the framework has put it into the scope (Starlette, FastAPI, Litestar), with its mounts.

    What is mounted, and states no route of its own, is one route. FastAPI 0.165 keeps the prefix of an included router
    in a context of its own.
    """
    context = (scope.get("fastapi") or {}).get("effective_route_context") if "fastapi" in scope else None
    route = scope.get("route")
    is_mount = "app_root_path" in scope if route is None else hasattr(route, "routes")
    for found in (
        getattr(context, "path_format", None),
        None if is_mount else getattr(route, "path", None),
        scope.get("path_template"),
        "/{path}" if is_mount else None,
    ):
        if isinstance(found, str):
            return f"{str(scope.get('root_path') or '').rstrip('/')}{found}"
    return None


abandoned: SharedTimer[Abandoned] = SharedTimer(_UNTIL_WARNED, _warn, is_exact=True)
"""Exchanges whose client has disconnected, and whose app no option will end."""


# The hooks


def call_hook(hook: Hook, record: Disconnect, backend: Backend, context: contextvars.Context | None) -> None:
    """Call a hook, whose own errors are logged and change nothing."""
    context = (
        contextvars.Context() if context is None else context.copy()
    )  # a context that is in use cannot be entered again
    try:
        result = context.run(hook, record)
        if inspect.isawaitable(result):
            backend.spawn_background(finish_hook(hook, result, backend), context)
    except BaseException as exception:
        if not isinstance(exception, Exception) and not is_cancelled_error(exception):
            raise
        log_failure(hook)


async def finish_hook(hook: Hook, result: Awaitable[Any], backend: Backend) -> None:
    try:
        await result
    except BaseException as exception:
        cancellation, rest = backend.split_cancellation(exception)
        if rest is not None:
            log_failure(hook)
        if cancellation is not None:
            raise cancellation


def log_failure(hook: Hook) -> None:
    LOGGER.exception("on_disconnect failed: %s", name_of(hook))
