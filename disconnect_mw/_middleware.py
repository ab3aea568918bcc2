"""The middleware: scope in, connection made, app called, edge guarded."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ._connection import Connection, HTTPConnection, WebSocketConnection
from ._errors import without_disconnect
from ._log import tell
from ._policy import VERSIONS_BEFORE_RAISING, Policy, checked, make_truthful
from ._state import State

# As loose as they are on purpose: an app annotated with asgiref.typing and one annotated with Starlette's types fit,
# which no stricter type lets both do.
ASGIApp = Callable[[Any, Any, Any], Awaitable[Any]]

_DISCONNECTED = State.DISCONNECTED
_IGNORE: Policy = "ignore"
_RAISE: Policy = "raise"

# Where many exchanges share a connection, a server may hold the sends of one back for ever once it is lost: Hypercorn.
_MULTIPLEXED = ("2", "3")

_LOGGER = logging.getLogger("disconnect_mw")

inside: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
"""Where `disconnect_mw.testing` is in use: what it has to give the application in place of `receive` and `send`."""


class DisconnectMiddleware:
    """Give `app` one behaviour when its client goes away, on every ASGI server.

    `app` is an ASGI application, of either the single or the double callable. `policy` is for HTTP, `websocket_policy`
    for WebSocket; each is

    - `"ignore"`: what the app sends after its client has gone goes nowhere, and the app goes on to its end;
    - `"raise"`: it raises `ClientDisconnected`, which ends quietly at the edge of this middleware if the app lets it
      out.

    Raises `TypeError` or `ValueError` at once for anything else.

    While the client is there the app gets and sends the very same messages. An exception of the app's own always
    passes, and so does a cancellation.
    """

    _app: ASGIApp
    _policy: Policy
    _websocket_policy: Policy

    if TYPE_CHECKING:

        def __init__(self, app: Any, *, policy: Policy = "ignore", websocket_policy: Policy = "raise") -> None: ...

    else:
        # One keyword more than a type checker needs to see: an unknown one gets a better error than Python's own.
        def __init__(self, app, *, policy="ignore", websocket_policy="raise", **unknown):
            if unknown:
                raise TypeError(
                    f"DisconnectMiddleware takes policy and websocket_policy, not {', '.join(unknown)}: "
                    "look for a misspelling, or for an option of another version"
                )
            self._app = single_callable(app)
            self._policy = checked("policy", policy)
            self._websocket_policy = checked("websocket_policy", websocket_policy)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        kind = scope.get("type")
        connection: Connection
        if kind == "http":
            connection, policy = HTTPConnection(), self._policy
            try:
                is_usual = (
                    policy is _IGNORE
                    and scope["http_version"] == "1.1"
                    and scope["asgi"]["spec_version"] in VERSIONS_BEFORE_RAISING
                )
            except (KeyError, TypeError):
                is_usual = False
        elif kind == "websocket":
            connection, policy, is_usual = WebSocketConnection(), self._websocket_policy, False
        else:
            return await self._app(scope, receive, send)
        connection.open(receive, send, policy is _RAISE)
        if not is_usual:
            make_truthful(scope, policy)
            if kind == "websocket" or policy is _RAISE or scope.get("http_version") in _MULTIPLEXED:
                connection.watch(scope)
        rest = None
        receive, send = connection.receive, connection.send
        if inside is not None:
            receive, send = inside(scope, receive, send)
        try:
            try:
                result = await self._app(scope, receive, send)
            except BaseException as exception:  # P5, P6: _end gives back all that is not put down to the disconnect
                rest = await _end(scope, connection, exception)
                if rest is exception:
                    raise
            else:
                if connection.shared_reader is not None or not is_usual or connection.state is _DISCONNECTED:
                    await _end(scope, connection, None)
                return result
            if rest is not None:
                raise rest
            return None
        finally:
            del rest  # whose traceback holds this frame


async def _end(scope: Any, connection: Connection, exception: BaseException | None) -> BaseException | None:
    """The end of an exchange that is not the usual one. Returns what is to be raised."""
    connection.leave()
    if connection.state is not _DISCONNECTED:
        return exception
    rest = None if exception is None else without_disconnect(exception, connection.has_raised)
    if rest is not exception:
        _LOGGER.debug("put down to the disconnect of the client", exc_info=exception)
    tell(scope, connection, rest)
    if rest is None:
        await connection.end_orderly(has_swallowed=exception is not None)
    return rest


def single_callable(app: Any) -> ASGIApp:
    """`app`, be it of the double callable of ASGI 2; a `TypeError` for what is no application."""
    if not callable(app):
        raise TypeError(f"app must be an ASGI application, not {app!r}: pass the object, not its import path")
    # What asgiref takes for a double callable is everything that is not a coroutine function, plain functions that
    # return an awaitable included; so only what cannot take the three arguments is asked about.
    try:
        inspect.signature(app).bind(None, None, None)
    except TypeError:
        from asgiref.compatibility import guarantee_single_callable

        return guarantee_single_callable(app)  # type: ignore[no-any-return,no-untyped-call]  # untyped
    except ValueError:  # no signature to be had: of a builtin, say
        pass
    return app  # type: ignore[no-any-return]  # as far as can be told
