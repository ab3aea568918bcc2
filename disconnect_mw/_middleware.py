"""The middleware: scope in, connection made, app called, edge guarded."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from . import _policy
from ._connection import Connection, HTTPConnection, WebSocketConnection
from ._errors import without_disconnect
from ._log import tell
from ._policy import VERSIONS_BEFORE_RAISING, Hook, Policy, PolicyFor, Terms, make_truthful
from ._runtime import others_cancellation
from ._state import State
from ._view import KEY, Over

# As loose as they are on purpose: an app annotated with asgiref.typing and one annotated with Starlette's types fit,
# which no stricter type lets both do.
ASGIApp = Callable[[Any, Any, Any], Awaitable[Any]]

_DISCONNECTED = State.DISCONNECTED
_INFO = logging.INFO

# Where many exchanges share a connection, a server may hold the sends of one back for ever once it is lost: Hypercorn.
_MULTIPLEXED = ("2", "3")

_LOGGER = logging.getLogger("disconnect_mw")
_is_enabled_for = _LOGGER.isEnabledFor

inside: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
"""Where `disconnect_mw.testing` is in use: what it has to give the application in place of `receive` and `send`."""


class DisconnectMiddleware:
    """Give `app` one behaviour when its client goes away, on every ASGI server.

    `app` is an ASGI application, of either the single or the double callable. `policy` is for HTTP, `websocket_policy`
    for WebSocket; each is

    - `"mute"`: what the app sends after its client has gone goes nowhere, and the app goes on to its end;
    - `"raise"`: it raises `ClientDisconnected`, which ends quietly at the edge of this middleware if the app lets it
      out;
    - `"cancel"`: it goes nowhere, and the app is cancelled as `asyncio.timeout` does it: once, in the task that the
      server runs it in, so that `finally` blocks may await. On trio by a cancel scope. Not after its last message:
      background tasks run.

    `grace` is the number of seconds for which an app may go on after its client has left, under any policy, before it
    is cancelled. None is 0 under `"cancel"` and no limit under the others; `math.inf` is no limit, and no warning of an
    app that goes on for long.

    `send_timeout` is the number of seconds that the client may take to drain one message where the server waits for
    that; after it the client counts as gone. None is no limit.

    `policy_for` is called with the scope of each HTTP and WebSocket exchange, and returns its policy, or None for the
    one of this middleware. It is not async.

    `on_disconnect` is called with a `Disconnect`, once for each client that leaves before the app has said its last
    word, as soon as that is known. If it returns an awaitable, that is awaited in a task of its own, which may outlive
    the exchange. What it raises is logged, and changes nothing.

    Raises `TypeError` or `ValueError` at once for anything else.

    While the client is there the app gets and sends the very same messages. An exception of the app's own always
    passes, and so does a cancellation that is not ours.

    Under `"raise"`, `"cancel"`, with `grace` or `on_disconnect`, and for every WebSocket, somebody looks whether the
    client has gone, although the app may not ask: 50 to 75 ms after the beginning, then once a second. From there on a
    task waits for the disconnect, as long as nothing else can come.

    Installed more than once around an app, the installs share one exchange. What an inner one is told (a policy other
    than `"mute"`, and all other options) holds for the whole exchange, and hooks add up.
    """

    _app: ASGIApp
    _terms: Terms
    _websocket_terms: Terms
    _policy_for: PolicyFor | None
    _has_complained: bool
    _is_plain: bool

    if TYPE_CHECKING:

        def __init__(
            self,
            app: Any,
            *,
            policy: Policy = "mute",
            websocket_policy: Policy = "raise",
            grace: float | None = None,
            send_timeout: float | None = None,
            policy_for: PolicyFor | None = None,
            on_disconnect: Hook | None = None,
        ) -> None: ...

    else:
        # One keyword more than a type checker needs to see: an unknown one gets a better error than Python's own.
        def __init__(
            self,
            app,
            *,
            policy="mute",
            websocket_policy="raise",
            grace=None,
            send_timeout=None,
            policy_for=None,
            on_disconnect=None,
            **unknown,
        ):
            if unknown:
                raise TypeError(
                    "DisconnectMiddleware takes policy, websocket_policy, grace, send_timeout, policy_for and "
                    f"on_disconnect, not {', '.join(unknown)}: look for a misspelling, or for an option of another "
                    "version"
                )
            self._app = single_callable(app)
            hook = _policy.checked_function("on_disconnect", "the Disconnect", on_disconnect, is_async=True)
            others = (
                _policy.checked_grace(grace),
                _policy.checked_send_timeout(send_timeout),
                () if hook is None else (hook,),
            )
            self._terms = Terms(_policy.checked("policy", policy), *others)
            self._websocket_terms = Terms(_policy.checked("websocket_policy", websocket_policy), *others)
            self._policy_for = _policy.checked_function("policy_for", "the scope", policy_for, is_async=False)
            self._has_complained = False
            self._is_plain = self._terms == Terms("mute") and policy_for is None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        kind = scope.get("type")
        connection: Connection
        if kind == "http":
            connection, terms = HTTPConnection(), self._terms
            try:
                is_usual = (
                    self._is_plain
                    and scope["http_version"] == "1.1"
                    and scope["asgi"]["spec_version"] in VERSIONS_BEFORE_RAISING
                    and not _is_enabled_for(_INFO)  # then the line is to tell how much was sent
                )
            except (KeyError, TypeError):
                is_usual = False
        elif kind == "websocket":
            connection, terms, is_usual = WebSocketConnection(), self._websocket_terms, False
        else:
            return await self._app(scope, receive, send)
        connection.open(scope, receive, send, terms)
        found = scope.setdefault(KEY, connection)
        if found is not connection or not is_usual:
            is_usual = False
            self._attend(connection, found)
        app = self._app
        if connection.stand_in is not None and connection.task is not None:
            app = functools.partial(connection.task.run, app)
        rest = None
        receive, send = connection.receive, connection.send
        if inside is not None:
            receive, send = inside(scope, receive, send)
        try:
            try:
                connection.running = app(scope, receive, send)
                result = await connection.running
            except BaseException as exception:
                if connection.state is not _DISCONNECTED:
                    connection.leave()
                    raise
                rest, has_swallowed = await _judge(connection, exception)
                if rest is exception:
                    raise
                result = None
            else:
                if connection.state is not _DISCONNECTED:
                    if connection.shared_reader is not None or connection.attention is not None or not is_usual:
                        connection.leave()
                    return result
                rest, has_swallowed = await _judge(connection, None)
            if rest is not None:
                raise rest
            # Here, where what the application raised does not become the context of whatever this meets.
            await connection.end_orderly(has_swallowed)
            return result
        finally:
            del rest  # whose traceback holds this frame
            # The scope may outlive all this, and what the server gave us holds the scope.
            scope[KEY] = connection.outer if connection.exchange is None else Over(connection)
            connection.scope = connection.task = connection.running = None

    def _attend(self, connection: Connection, found: Any) -> None:
        """See to all that the usual exchange needs not. `found` is what the scope had in place of `connection`."""
        scope = connection.scope
        choice = None if self._policy_for is None else self._choice_for(scope)
        if choice is not None:
            connection.terms = dataclasses.replace(connection.terms, policy=choice)
        terms = connection.terms
        if found is not connection:
            scope[KEY] = connection
            if isinstance(found, Connection) and found.scope is not None:
                connection.join(found)
                root = connection.root
                if choice is not None:
                    root.terms = dataclasses.replace(root.terms, policy=choice)
                return make_truthful(scope, root.terms.policy)
        if terms.asks or connection.protocol == "websocket":
            connection.attend(True, True)
        else:
            connection.attend(_is_enabled_for(_INFO), scope.get("http_version") in _MULTIPLEXED)
        make_truthful(scope, terms.policy)

    def _choice_for(self, scope: Any) -> Policy | None:
        """What `policy_for` says. Its mistakes are logged once, and harm no request."""
        function: Any = self._policy_for
        try:
            choice = function(scope)
        except Exception:
            self._complain("policy_for=%s raised an exception, the default policy is used", _policy.name_of(function))
            return None
        if choice is None or _policy.is_policy(choice):
            return choice  # type: ignore[no-any-return]  # one of the two
        self._complain(
            "policy_for=%s returned %r, the default policy is used: return %s or None",
            _policy.name_of(function),
            choice,
            _policy.CHOICES,
        )
        return None

    def _complain(self, text: str, *arguments: Any) -> None:
        if not self._has_complained:
            self._has_complained = True
            _LOGGER.error(text, *arguments, exc_info=sys.exc_info()[0] is not None)


class CancelOnDisconnect(DisconnectMiddleware):
    """`DisconnectMiddleware` with `policy="cancel"`, for settings that take an import path and no arguments."""

    def __init__(self, app: Any) -> None:
        super().__init__(app, policy="cancel")


class RaiseOnDisconnect(DisconnectMiddleware):
    """`DisconnectMiddleware` with `policy="raise"`, for settings that take an import path and no arguments."""

    def __init__(self, app: Any) -> None:
        super().__init__(app, policy="raise")


async def _judge(connection: Connection, exception: BaseException | None) -> tuple[BaseException | None, bool]:
    """The application of a client that has gone has ended. What is to be raised, and was anything kept from that?

    P5, P6: that is all that is not put down to the disconnect.
    """
    is_cancelled = False
    if connection.has_been_cancelled():
        is_cancelled = connection.takes_back_cancellation(exception)
        if exception is not None and not is_cancelled:
            exception = await others_cancellation(exception)
    connection.leave()
    rest = None if exception is None or is_cancelled else without_disconnect(exception, connection.has_raised)
    if rest is not exception:
        _LOGGER.debug("put down to the disconnect of the client", exc_info=exception)
    if connection.outer is None:
        tell(connection.sum_up(rest))
    return rest, rest is not exception or is_cancelled


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
