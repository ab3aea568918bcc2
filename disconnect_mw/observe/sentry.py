"""Keeps departures out of Sentry: `sentry_sdk.init(before_send=…, before_send_transaction=…)`.

Needed where Sentry's integration stands inside of the middleware, and for what an app itself logs. Where the middleware
stands inside, `app.add_middleware(DisconnectMiddleware)`, what the disconnect caused does not reach Sentry.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any

from .._connection import Connection
from .._errors import ClientDisconnected, remove_disconnect_errors
from .._view import KEY, EndedExchange
from ._filter import is_caused

try:
    import sentry_sdk  # noqa: F401  # whose callbacks these are
except ImportError as _missing:
    raise ImportError(
        "disconnect_mw.observe.sentry needs sentry-sdk: pip install 'disconnect-mw[sentry]'"
    ) from _missing

# Variables that have the scope, or an object that has it: of the ASGI specification, and of Starlette.
_NAMES = frozenset({"scope", "request", "websocket", "self"})

# What Sentry makes of an exception, and of a status of 499.
_OF_DEPARTURES = ("internal_error", "invalid_argument")

# Set on an exception that was dropped: it may come again, by way of a logger, without its cause, since Sentry raises
# what it has captured `from None`.
_DROPPED = "_disconnect_mw_dropped"

# Set on one that was not, and on each in a group: from the middleware comes a smaller group.
_TOLD = "_disconnect_mw_told"


def _mark(exception: BaseException, mark: str) -> None:
    with contextlib.suppress(AttributeError):  # of a class that has no room for it
        setattr(exception, mark, True)


def _leaves(exception: BaseException) -> Iterator[BaseException]:
    if not isinstance(exception, BaseExceptionGroup):
        yield exception
        return
    for part in exception.exceptions:
        yield from _leaves(part)


def before_send(event: Any, hint: dict[str, Any]) -> Any:
    """None, which drops the event, if its exception is what the departure of the exchange's client caused; or `event`.

    That is so if the client has left *and* the middleware raised it, or a framework raised it to report the disconnect
    (`starlette.requests.ClientDisconnect`, Litestar's for a cut body, …), or it was raised from one. A group is dropped
    if that is so for all of it. Where its traceback shows another exception, a bug that the app was handling, the event
    is sent. It is the same for what the integration captures and for what a logger is told, uvicorn's among them. The
    exchange is found by the frames of the traceback, and by those of the caller.
    """
    exception = (hint.get("exc_info") or (None, None))[1]
    if not isinstance(exception, BaseException):
        return event
    exchange = _find_departed(exception)
    rest = _left(exception, exchange)
    if rest is None:
        _mark(exception, _DROPPED)
        return None
    if exchange is not None:
        leaves = [*_leaves(rest)]
        if isinstance(rest, BaseExceptionGroup) and all(getattr(leaf, _TOLD, False) for leaf in leaves):
            return None
        for leaf in leaves:
            _mark(leaf, _TOLD)
    return event


def _left(exception: BaseException, exchange: Connection | EndedExchange | None) -> BaseException | None:
    """What is left of it without all that the departure of the exchange's client caused."""

    def is_ours(one: BaseException) -> bool:
        if isinstance(exchange, Connection):
            return is_caused(one, {exchange, exchange.root})
        return isinstance(one, ClientDisconnected) or is_caused(one, frozenset())

    if getattr(exception, _DROPPED, False):
        return None
    is_told = exchange is None or getattr(exception, _TOLD, False)
    return exception if is_told else remove_disconnect_errors(exception, is_ours)


def before_send_transaction(event: Any, hint: dict[str, Any]) -> Any:
    """`event`, with status 499 and "cancelled" in place of "internal_error", if it ended because its client left.

    Where the response had begun, its status stays. A transaction that ended by an exception of the app's own, or as
    if nothing had happened, is left as it is.
    """
    trace = event.get("contexts", {}).get("trace", {})
    if trace.get("status") not in _OF_DEPARTURES:
        return event
    exception = sys.exc_info()[1]
    exchange = _find_departed(exception)
    if exchange is None or _has_failed(exchange, exception):
        return event
    trace["status"] = "cancelled"
    if _status(exchange) is None:
        trace.setdefault("data", {})["http.response.status_code"] = 499
        event["contexts"].setdefault("response", {})["status_code"] = 499
        event.setdefault("tags", {})["http.status_code"] = "499"
    return event


def _has_failed(exchange: Connection | EndedExchange, exception: BaseException | None) -> bool:
    """Whether the app ended by an exception of its own."""
    if isinstance(exchange, EndedExchange):
        return exchange.exchange.ended == "raised"
    return isinstance(exception, Exception) and _left(exception, exchange) is not None


def _status(exchange: Connection | EndedExchange) -> int | None:
    """Of the response that had begun when the client left."""
    return exchange.exchange.status if isinstance(exchange, EndedExchange) else exchange.root.status()


def _find_departed(exception: BaseException | None) -> Connection | EndedExchange | None:
    """The exchange, if its client has left."""
    for frame in [*_frames_of(exception, set()), *_callers(sys._getframe(1))]:
        for name in _NAMES.intersection(frame.f_code.co_varnames + frame.f_code.co_freevars):
            value = frame.f_locals.get(name)
            scope = value if name == "scope" else getattr(value, "scope", None)
            found = scope.get(KEY) if isinstance(scope, dict) else None
            if isinstance(found, EndedExchange):
                return found
            if isinstance(found, Connection):
                return None if found.root.record() is None else found
    return None


def _frames_of(exception: BaseException | None, seen: set[int]) -> Iterator[FrameType]:
    """The frames that `exception`, its parts and its causes came through, the innermost first."""
    if exception is None or id(exception) in seen:
        return
    seen.add(id(exception))
    traceback: TracebackType | None = exception.__traceback__
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    yield from reversed(frames)
    parts: Iterable[BaseException] = exception.exceptions if isinstance(exception, BaseExceptionGroup) else ()
    for other in (*parts, exception.__cause__):
        yield from _frames_of(other, seen)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
