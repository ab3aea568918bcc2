"""Whose exception is it? (P5)"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any


class ClientDisconnected(OSError):
    """Raised by `send` under the `raise` policy once the client has gone.

    An `OSError`, because the ASGI specification (HTTP & WebSocket 2.4) asks for one and frameworks catch that:
    Starlette makes a `WebSocketDisconnect` of it. Left unhandled it ends quietly at the edge of the middleware.

    `message` is the `http.disconnect` or `websocket.disconnect` that `receive` answers from now on; a WebSocket's has
    the close code and the reason. The server's own exception, where there was one, is the `__cause__`.
    """

    def __init__(self, message: Any) -> None:
        super().__init__(errno.EPIPE, "the client has disconnected")
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,)  # OSError would hand its own two arguments to __init__


# Frameworks' words for "my client has gone". Named, never imported.
_FRAMEWORK_WORDS = frozenset(
    {
        ("starlette.requests", "ClientDisconnect"),
        ("starlette.websockets", "WebSocketDisconnect"),
        ("django.core.exceptions", "RequestAborted"),
        ("werkzeug.exceptions", "ClientDisconnected"),  # Quart
    }
)

# What a server's send raises, other than an OSError, that can mean nothing but a closed connection: uvicorn up to
# 0.26 lets it out of the `websockets` package.
_SERVER_WORDS = frozenset({("websockets.exceptions", "ConnectionClosed")})

# OSErrors that writing to an accepted connection cannot give: these come from a file, from an outbound connection or
# from a time-out of whatever stands between this middleware and the server.
_NOT_FROM_A_CLIENT = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ProcessLookupError,
    ChildProcessError,
    ConnectionRefusedError,
)
_NOT_FROM_A_CLIENT_WORDS = frozenset({("socket", "gaierror"), ("socket", "herror"), ("ssl", "SSLCertVerificationError")})


def _is_called(exception: BaseException, words: frozenset[tuple[str, str]]) -> bool:
    return any((kind.__module__, kind.__qualname__) in words for kind in type(exception).__mro__)


def tells_of_departure(exception: Exception, message_type: Any) -> bool:
    """Does this exception of the server's `send` by itself say that the client has gone?

    An `OSError` does (ASGI 2.4: a send on a closed connection "should raise a server-specific subclass of OSError"),
    unless it is of a kind that no client causes. For anything else somebody has to ask the server.
    """
    if _is_called(exception, _SERVER_WORDS):
        return True
    if not isinstance(exception, OSError) or isinstance(exception, _NOT_FROM_A_CLIENT):
        return False
    if isinstance(exception, TimeoutError):
        return exception.errno == errno.ETIMEDOUT  # the kernel gave the connection up; asyncio.timeout sets no errno
    if message_type in ("http.response.pathsend", "http.response.zerocopysend"):
        return isinstance(exception, ConnectionError)  # the server opens or reads a file there
    return not _is_called(exception, _NOT_FROM_A_CLIENT_WORDS)


def without_disconnect(exception: BaseException, is_own: Callable[[BaseException], bool]) -> BaseException | None:
    """What is left of `exception` when all that the disconnect caused is taken out: itself, a part, or nothing.

    `is_own` says by identity whether an exception is one that this connection raised. Of an exception group the rest is
    kept. A chain of `raise … from …` is walked; an exception that came up while another was handled (`__context__`)
    is the application's own.
    """

    def is_explained(exception: BaseException) -> bool:
        return not _is_group(exception) and _is_of_disconnect(exception, is_own)

    if _is_group(exception):
        rest: BaseException | None = exception.split(is_explained)[1]  # type: ignore[attr-defined]  # a group has it
        # split makes a new group even where it takes nothing out.
        return exception if rest is not None and _size(rest) == _size(exception) else rest
    return None if is_explained(exception) else exception


def _is_of_disconnect(exception: BaseException, is_own: Callable[[BaseException], bool]) -> bool:
    seen: set[int] = set()
    link: BaseException | None = exception
    while link is not None and id(link) not in seen:
        if _is_group(link):
            return without_disconnect(link, is_own) is None
        if is_own(link) or _is_called(link, _FRAMEWORK_WORDS) or _is_no_response_returned(link):
            return True
        seen.add(id(link))
        link = link.__cause__
    return False


def _is_no_response_returned(exception: BaseException) -> bool:
    """Starlette's BaseHTTPMiddleware, when the app inside it fell silent: a bare RuntimeError, known by its birthplace."""
    if type(exception) is not RuntimeError or exception.args != ("No response returned.",):
        return False
    traceback = exception.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_globals.get("__name__") == "starlette.middleware.base"


def _is_group(exception: BaseException) -> bool:
    if sys.version_info >= (3, 11):
        return isinstance(exception, BaseExceptionGroup)
    # On 3.10 the groups are those of the backport that anyio and trio bring along.
    backport = sys.modules.get("exceptiongroup")
    return backport is not None and isinstance(exception, backport.BaseExceptionGroup)


def _size(exception: BaseException) -> int:
    if not _is_group(exception):
        return 1
    return sum(_size(part) for part in exception.exceptions)  # type: ignore[attr-defined, misc]  # a group has them
