"""Which exceptions the disconnect caused, and which are the app's own (P5)."""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class ClientDisconnected(OSError):
    """Raised by `send` under the policy `raise` after the disconnect.

    It is an `OSError`, because the ASGI specification (HTTP & WebSocket 2.4) asks for one and frameworks catch that:
    Starlette makes a `WebSocketDisconnect` of it. Left unhandled it ends quietly at the edge of the middleware.

    `message` is the `http.disconnect` or `websocket.disconnect` that `receive` answers from now on; that of a WebSocket
    has the close code and the reason. The server's own exception, if it raised one, is the `__cause__`.
    """

    def __init__(self, message: Any) -> None:
        super().__init__(errno.EPIPE, "the client has disconnected")
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,)  # OSError would hand its own two arguments to __init__


_LOGGER = logging.getLogger("disconnect_mw")

_reported: set[tuple[type[BaseException] | None, str]] = set()


def report(what: str) -> None:
    """Log an error of this package, which is being handled: of each kind and place the first."""
    kind = sys.exc_info()[0]
    if (kind, what) not in _reported:
        _reported.add((kind, what))
        _LOGGER.exception("%s: please report this. The app goes on as it would without the middleware.", what)


# How frameworks say that the client has disconnected: by module and class, never imported.
_FRAMEWORK_ERRORS = frozenset(
    {
        ("starlette.requests", "ClientDisconnect"),
        ("starlette.websockets", "WebSocketDisconnect"),
        ("django.core.exceptions", "RequestAborted"),
        ("quart.wrappers.base", "ClientDisconnectedError"),
        ("werkzeug.exceptions", "ClientDisconnected"),  # Flask, by way of a WSGI adapter
        ("litestar.exceptions.websocket_exceptions", "WebSocketDisconnect"),
        ("falcon.errors", "WebSocketDisconnected"),
        ("blacksheep.exceptions", "MessageAborted"),
        ("blacksheep.server.websocket", "WebSocketDisconnectError"),
    }
)

# What a server's send raises, other than an OSError, that can mean nothing but a closed connection: uvicorn up to
# 0.26 lets it out of the `websockets` package.
_SERVER_ERRORS = frozenset({("websockets.exceptions", "ConnectionClosed")})

_CLOSED_TRANSPORT = re.compile("unable to perform operation on <[A-Za-z]*Transport closed=True ")

# What writing to an accepted connection can give. Any other errno (a full disk, a missing file) comes from something
# else that other middleware does in its `send`; so does a refused connection.
_CONNECTION_ERRNOS = frozenset(
    {
        errno.EBADF,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,  # Hypercorn lets it out
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
    }
)
_NEVER_OF_A_CLIENT = frozenset(
    {
        ("builtins", "ConnectionRefusedError"),
        ("socket", "gaierror"),
        ("socket", "herror"),
        ("ssl", "SSLCertVerificationError"),
    }
)


def _is_named(exception: BaseException, names: frozenset[tuple[str, str]]) -> bool:
    return any((kind.__module__, kind.__qualname__) in names for kind in type(exception).__mro__)


def is_disconnect_error(exception: Exception, message_type: Any) -> bool:
    """Whether this exception of the server's `send` by itself reports a disconnect.

    An `OSError` does (ASGI 2.4: a send on a closed connection "should raise a server-specific subclass of OSError"),
    unless it is of a kind that no client causes. For any other exception the server has to be asked.
    """
    if _is_named(exception, _SERVER_ERRORS) or _is_of_closed_transport(exception):
        return True
    if not isinstance(exception, OSError) or _is_named(exception, _NEVER_OF_A_CLIENT):
        return False
    if message_type in ("http.response.pathsend", "http.response.zerocopysend"):
        return isinstance(exception, ConnectionError)  # the server opens or reads a file there
    if isinstance(exception, TimeoutError):
        return exception.errno == errno.ETIMEDOUT  # the kernel gave the connection up; asyncio.timeout sets no errno
    if type(exception).__module__ == "builtins" and not isinstance(exception, ConnectionError):
        return type(exception) is OSError and exception.errno in (None, *_CONNECTION_ERRNOS)
    return True


def _is_of_closed_transport(exception: Exception) -> bool:
    """Whether it is uvloop's for a write to a transport that is closed, which palfrey and asgiri let out of `send`."""
    return type(exception) is RuntimeError and bool(_CLOSED_TRANSPORT.match(str(exception)))


def is_lost_websocket_error(exception: BaseException) -> bool:
    """Whether it is what granian 1.7.6 raises from `send` and `receive` of a WebSocket that is lost.

    That server raises the same for a message out of order.
    """
    return type(exception) is RuntimeError and exception.args == ("ASGI flow error",)


def remove_disconnect_errors(
    exception: BaseException, is_ours: Callable[[BaseException], bool]
) -> BaseException | None:
    """What is left of `exception` without all that the disconnect caused: itself, a part of it, or None.

    `is_ours` tells by identity whether this connection raised an exception. Of an exception group the rest is kept. A
    chain of `raise … from …` is walked; an exception that came up while another was handled (`__context__`) is the
    app's own, and so is one that is no `Exception`: a cancellation, an exit.

    Where the traceback of what the disconnect caused shows an exception of the app's own as well, the one is left with
    the other: the app was handling a bug when its client left, and the bug would go with it.
    """

    def is_explained(exception: BaseException) -> bool:
        return (
            not isinstance(exception, BaseExceptionGroup)
            and _is_of_disconnect(exception, is_ours, set())
            and not _shows_bug(exception, is_ours, set())
        )

    if not isinstance(exception, BaseExceptionGroup):
        return None if is_explained(exception) else exception
    rest: BaseException | None = exception.split(is_explained)[1]
    lost = _groups(exception)[0 if rest is None else 1 :]  # what is left of the outermost has its cause and context
    # split makes a new group even where it takes nothing out.
    is_whole = rest is not None and len(_leaves(rest)) == len(_leaves(exception))
    return exception if is_whole or any(_shows_bug(one, is_ours, set()) for one in lost) else rest


def _is_of_disconnect(exception: BaseException, is_ours: Callable[[BaseException], bool], seen: set[int]) -> bool:
    link: BaseException | None = exception
    while isinstance(link, Exception) and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, BaseExceptionGroup):
            return all(_is_of_disconnect(leaf, is_ours, {*seen}) for leaf in _leaves(link))
        if is_ours(link) or _is_named(link, _FRAMEWORK_ERRORS) or _is_known_by_origin(link):
            return True
        link = _cause(link)
    return False


# What an app handles that is no bug: the answers that frameworks send for an exception, and with that are done with it;
# and the ends of a wait, in whose `except` block a WebSocket's heartbeat is sent. asyncio's TimeoutError has no words.
_ANSWERS = frozenset(
    {
        ("starlette.exceptions", "HTTPException"),
        ("starlette.exceptions", "WebSocketException"),
        ("fastapi.exceptions", "RequestValidationError"),
        ("fastapi.exceptions", "WebSocketRequestValidationError"),
        ("django.http.response", "Http404"),
        ("django.core.exceptions", "PermissionDenied"),
        ("werkzeug.exceptions", "HTTPException"),  # Quart's and Flask's
        ("litestar.exceptions.http_exceptions", "HTTPException"),
        ("falcon.http_error", "HTTPError"),
        ("falcon.http_status", "HTTPStatus"),
        ("blacksheep.exceptions", "HTTPException"),
    }
)
_ENDS_OF_A_WAIT = frozenset(
    {
        ("builtins", "StopIteration"),
        ("builtins", "StopAsyncIteration"),
        ("asyncio.queues", "QueueEmpty"),
        ("_queue", "Empty"),
        ("anyio", "EndOfStream"),
        ("anyio", "WouldBlock"),
        ("trio", "EndOfChannel"),
        ("trio", "TooSlowError"),
        ("trio", "WouldBlock"),
    }
)


def _is_answer(exception: BaseException) -> bool:
    # Werkzeug's word for a client that has left is an `HTTPException` as well.
    return _is_named(exception, _ANSWERS) and not _is_named(exception, _FRAMEWORK_ERRORS)


def _is_end_of_wait(exception: BaseException) -> bool:
    return (type(exception) is TimeoutError and not exception.args) or _is_named(exception, _ENDS_OF_A_WAIT)


def _shows_bug(exception: BaseException, is_ours: Callable[[BaseException], bool], seen: set[int]) -> bool:
    """Whether a traceback of `exception` shows, behind it, an exception that the disconnect did not cause."""
    link: BaseException | None = exception
    while link is not None and id(link) not in seen and not _is_answer(link):
        seen.add(id(link))
        if is_ours(link):
            link = link.__context__  # its cause is the server's
        else:
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        for leaf in [] if link is None else _leaves(link):
            if leaf is not link and _shows_bug(leaf, is_ours, seen):
                return True
            if isinstance(leaf, Exception) and not (
                _is_answer(leaf) or _is_end_of_wait(leaf) or _is_of_disconnect(leaf, is_ours, set())
            ):
                return True
    return False


_STARLETTE_BASE = "starlette.middleware.base"


def _cause(exception: Exception) -> BaseException | None:
    """What `exception` was raised from, by its author.

    Starlette's BaseHTTPMiddleware raises the app's exception again, `from` its context: an exception that merely came
    up while another was handled then looks as if it was raised from that. After it no cause can be trusted.
    """
    passed = {(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame in _frames(exception)}
    return None if (_STARLETTE_BASE, "call_next") in passed else exception.__cause__


# BaseHTTPMiddleware's, for an app that sent nothing; asgiref's WsgiToAsgi's, for a cut upload.
_KNOWN_BY_ORIGIN = (
    (RuntimeError, "No response returned.", _STARLETTE_BASE),
    (ValueError, "WSGI wrapper received a non-HTTP-request message", "asgiref.wsgi"),
)


def _is_known_by_origin(exception: Exception) -> bool:
    """Whether it is of a built-in class, and means the disconnect by its text and the module that raised it."""
    return any(
        type(exception) is kind
        and exception.args == (text,)
        and [frame.f_globals.get("__name__") for frame in _frames(exception)[-1:]] == [raised_in]
        for kind, text, raised_in in _KNOWN_BY_ORIGIN
    )


def _frames(exception: BaseException) -> list[FrameType]:
    """The frames that `exception` came through: first the one that caught it, the innermost last."""
    frames = []
    traceback = exception.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def _groups(exception: BaseException) -> list[BaseException]:
    """The group, and those in it."""
    if not isinstance(exception, BaseExceptionGroup):
        return []
    return [exception, *(group for part in exception.exceptions for group in _groups(part))]


def _leaves(exception: BaseException) -> list[BaseException]:
    if not isinstance(exception, BaseExceptionGroup):
        return [exception]
    return [leaf for part in exception.exceptions for leaf in _leaves(part)]
