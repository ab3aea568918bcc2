"""A filter for the loggers that speak of a client that has left before the edge of the middleware can."""

from __future__ import annotations

import contextvars
import logging
import os
import sys
from collections.abc import Iterator, Set
from types import TracebackType
from typing import Any

from .. import _middleware
from .._connection import Connection
from .._errors import remove_disconnect_errors
from .._state import Body
from .._telling import LOGGER
from .._view import KEY

LOGGERS = {
    "uvicorn.error": "uvicorn",
    "hypercorn.error": "hypercorn",
    "gunicorn.error": "gunicorn",
    "daphne.server": "daphne",
    "_granian": "granian",
    "django.request": "django",
    "litestar": "litestar",
    "falcon": "falcon",
    "blacksheep.server": "blacksheep",
    "root": "blacksheep",
    "asyncio": "asyncio",
    "mcp.server.streamable_http": "mcp",
    "mcp.server.streamable_http_manager": "mcp",
    "engineio.server": "engineio",
}
"""The loggers that `install()` knows, each with the package that uses it."""

# What the app itself logs on the root logger is the app's own, so there only what these packages log is judged.
_ON_ROOT = ("blacksheep",)

_connection: contextvars.ContextVar[Connection | None] = contextvars.ContextVar("disconnect_mw", default=None)
"""The exchange in whose context a record is logged. Set only where there is a filter (P0)."""


class DisconnectFilter(logging.Filter):
    """Drops each log record that tells of nothing but a client that has left.

    That is a record with an exception, in an exchange whose client has left before the app had sent its last message,
    where that departure caused the exception: `DisconnectMiddleware` raised it on this connection, or it is the
    framework's word for a client that has left. Exception groups are searched, and `raise … from …` is followed. A
    record whose exception has any other part passes as it is, and so does one without an exception: a bug is never
    hidden. What is dropped is told at DEBUG on logger `disconnect_mw`, with its traceback.

    The exchange is the one in whose context the record is logged, or one of those whose `receive` or `send` the
    exception came through. For the former the first filter that is made has the middleware set a context variable, in
    each exchange that begins from then on.

    A logger's filters see what is logged on that very logger, and nothing of its children's. On the root logger only
    what BlackSheep logs is judged, since it is the app's as well.
    """

    def __init__(self) -> None:
        super().__init__()
        _note_connections()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        exception = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if exception is None or (record.name == "root" and not _is_logged_by_framework(record)):
            return True
        gone = {connection for connection in _connections(exception) if connection.disconnected is not None}
        if not gone or remove_disconnect_errors(exception, lambda one: is_caused(one, gone)) is not None:
            return True
        LOGGER.debug("dropped from logger %s: %s", record.name, record.msg, exc_info=exception)
        return False


def install() -> tuple[str, ...]:
    """Put a `DisconnectFilter` onto each known logger that is there, and return their names, "root" for the root's.

    Known are those of uvicorn, Hypercorn, gunicorn, Daphne, granian, Django, Litestar, Falcon, BlackSheep, asyncio, the
    MCP SDK and Engine.IO. One is there if it has been used, or if its package has been imported: call this once all
    imports are done. A second call adds the filter to what has come since. Where none is there nothing happens, but for
    a record at DEBUG on logger `disconnect_mw`.
    """
    found = tuple(name for name, package in LOGGERS.items() if package in sys.modules or _is_used(name))
    if not found:
        LOGGER.debug("no logger to filter: none of %s is there", ", ".join(LOGGERS))
        return ()
    disconnect_filter = DisconnectFilter()
    for name in found:
        logger = logging.getLogger(None if name == "root" else name)
        if not any(isinstance(one, DisconnectFilter) for one in logger.filters):
            logger.addFilter(disconnect_filter)
    return found


def _is_used(name: str) -> bool:
    return isinstance(logging.Logger.manager.loggerDict.get(name), logging.Logger)


def _is_logged_by_framework(record: logging.LogRecord) -> bool:
    packages = (sys.modules.get(name) for name in _ON_ROOT)
    directories = (os.path.dirname(package.__file__ or "") for package in packages if package is not None)
    return any(record.pathname.startswith(directory + os.sep) for directory in directories if directory)


# Which exchanges a record may be about


def _note_connections() -> None:
    """Have the middleware note each exchange in the context of its app."""
    before = _middleware.inside
    if getattr(before, "notes_connections", False):
        return

    def note(scope: Any, receive: Any, send: Any) -> tuple[Any, Any]:
        _connection.set(scope[KEY])
        return (receive, send) if before is None else before(scope, receive, send)

    note.notes_connections = True  # type: ignore[attr-defined]  # to know it by
    _middleware.inside = note


def _connections(exception: BaseException) -> Iterator[Connection]:
    current = _connection.get()
    if current is not None:
        yield current
    for part in _parts(exception):
        yield from _connections_passed(part.__traceback__)


def _parts(exception: BaseException) -> list[BaseException]:
    """The exception, the members of groups, and what it was raised from, as long as there is more."""
    parts = [exception]
    seen = {id(exception)}
    for part in parts:  # to which more are added meanwhile
        members = part.exceptions if isinstance(part, BaseExceptionGroup) else ()
        for other in (*members, part.__cause__):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                parts.append(other)
    return parts


def _connections_passed(traceback: TracebackType | None) -> Iterator[Connection]:
    """The exchanges through whose `receive` or `send` an exception came."""
    while traceback is not None:
        frame = traceback.tb_frame
        if str(frame.f_globals.get("__name__")).startswith("disconnect_mw."):
            owner = frame.f_locals.get("self")
            if isinstance(owner, Connection):
                yield owner
        traceback = traceback.tb_next


# What a departure has caused, beside all that the edge of the middleware knows


def is_caused(exception: BaseException, gone: Set[Connection]) -> bool:
    """Whether the departure of a client of these exchanges caused this very exception."""
    return (
        any(connection.is_ours(exception) for connection in gone)
        or _is_cut_body_of_litestar(exception)
        or (any(connection.body is Body.PARTIAL for connection in gone) and _is_cut_packet_of_socketio(exception))
        or _is_late_message_of_blacksheep(exception)
    )


def _is_cut_body_of_litestar(exception: BaseException) -> bool:
    """Whether it is Litestar's for a cut body: an exception of many uses, known by its words and its origin.

    It answers it by a 500, so that it never comes to the edge.
    """
    return (
        type(exception).__module__ == "litestar.exceptions.http_exceptions"
        and getattr(exception, "detail", None) == "client disconnected prematurely"
        and _modules_passed(exception)[-1:] == ["litestar.connection.request"]
    )


# What reads a packet of Socket.IO, and what is called for that.
_READERS_OF_PACKETS = ("engineio.async_socket", "engineio.packet", "engineio.payload", "socketio.packet")
_READERS_OF_JSON = ("engineio.json", "json", "json.decoder")


def _is_cut_packet_of_socketio(exception: BaseException) -> bool:
    """Whether it is Engine.IO's or Socket.IO's for a packet that it cannot read.

    In a cut POST of long polling it takes what has come for all. What an app's own decoder raises passes.
    """
    modules = _modules_passed(exception)
    while modules and modules[-1] in _READERS_OF_JSON:
        modules.pop()
    return bool(modules) and modules[-1] in _READERS_OF_PACKETS


def _is_late_message_of_blacksheep(exception: BaseException) -> bool:
    """Whether it is BlackSheep's for a send or a receive after another task has received the disconnect.

    Nothing else brings a WebSocket of BlackSheep into that state.
    """
    kind = type(exception)
    return (kind.__module__, kind.__qualname__) == (
        "blacksheep.server.websocket",
        "InvalidWebSocketStateError",
    ) and getattr(getattr(exception, "current_state", None), "name", None) == "DISCONNECTED"


def _modules_passed(exception: BaseException) -> list[object]:
    """The modules of the code that it came through, the one that raised it last."""
    modules = []
    traceback = exception.__traceback__
    while traceback is not None:
        modules.append(traceback.tb_frame.f_globals.get("__name__"))
        traceback = traceback.tb_next
    return modules
