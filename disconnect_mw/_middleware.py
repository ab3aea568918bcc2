"""The middleware: checks its options once; per call it makes the connection, runs the app, and judges its end."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ClassVar

from . import _backends, _options
from ._connection import NO_PARTS, Connection
from ._errors import remove_disconnect_errors
from ._http import CountingHTTPConnection, HTTPConnection, ToldHTTPConnection, WatchedHTTPConnection
from ._messages import announces_body
from ._options import Hook, Options, Policy, PolicyFor, takes
from ._orphans import Orphans
from ._telling import LOGGER, OBSERVERS, log_exchange
from ._view import KEY, ended
from ._watcher import first_checks
from ._websocket import WebSocketConnection

# Loose on purpose: apps annotated with asgiref.typing and with Starlette's types both fit, which no stricter type
# allows.
ASGIApp = Callable[[Any, Any, Any], Awaitable[Any]]

_INFO = logging.INFO

# The logger's own cache of its levels, which logging empties whenever a level changes. It is private to logging: where
# it is missing, the logger is asked for every exchange.
_LEVELS: Mapping[int, bool] = getattr(LOGGER, "_cache", {})

# What uvicorn and granian state, and what is right where sends are muted (P4).
_USUAL_VERSION = "2.3"

# Where exchanges share one connection, Hypercorn may block their sends for ever once it is lost.
_MULTIPLEXED = ("2", "3")

watch = first_checks.add  # a function of this module, which is found at less cost

inside: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
"""Set by `disconnect_mw.testing`: returns what it gives the app in place of `receive` and `send`."""


class DisconnectMiddleware:
    """Gives an ASGI app one behaviour when its client leaves, on every server.

    In Starlette and FastAPI, or around any ASGI app::

        app.add_middleware(DisconnectMiddleware)
        app = DisconnectMiddleware(app, policy="cancel", grace=5)

    While the client is there the app receives and sends the very same messages. Exceptions of the app's own always
    pass, and so does a cancellation by other code.

    `policy` is for HTTP, `websocket_policy` for WebSocket. After the disconnect what the app sends is dropped, under
    each but `"raise"`.

    - `"mute"`: `receive` answers the disconnect on every call. An app that listens hears of it; any other goes on to
      its end.
    - `"finish"`: `receive` withholds the disconnect until the app's last message, so that the app goes on to its end
      under every framework. A request body that was cut is told at once. On a WebSocket it is as `"mute"`.
    - `"cancel"`: the app is ended once, so that `finally` blocks may await. Where it waits in `receive`, or has polled
      it within the last second, it is told, and ends its own way: if after 50 ms and 32 turns of the event loop it
      still awaits what it awaited, it is cancelled, else it has 10 s. A task that was told, and still runs, has 10 s to
      clean up after a cut upload and in a WebSocket, and 1 s elsewhere. Any other app is cancelled at once, as
      `asyncio.timeout` does it, in the task that the server runs it in; on trio by a cancel scope. Never after the
      app's last message.
    - `"raise"`: `send` raises `ClientDisconnected`, which ends quietly at this middleware if the app lets it out.

    `grace`: seconds for which an app may go on after its client has left, under any policy, before it is ended. Under
    `"cancel"` and `"finish"` the disconnect is withheld as long. None is 0 under `"cancel"` and no limit under the
    others; `math.inf` is no limit, without the warning of an app that goes on for 10 s.

    `max_orphans`: how many apps of this install may go on without a client in this process. When one more would, the
    one that has gone on longest is ended, but none in a `shield()`. None is no limit.

    `send_timeout`: seconds that the client may take to drain one message, where the server waits for that; after it the
    client counts as disconnected. None is no limit.

    `policy_for`: a function of the scope that returns the policy of the exchange, or None for the one of this
    middleware; it is not async. Or a mapping from patterns of the path (`fnmatch.fnmatchcase`) to policies, of which
    the first that matches counts: `{"/v1/*": "cancel"}`.

    `on_disconnect`: a function that is called with a `Disconnect`, once for each client that leaves before the app has
    sent its last message, as soon as that is known. If it returns an awaitable, that is awaited in a task of its own,
    which may outlive the exchange. What it raises is logged, and changes nothing.

    An option that is not passed is read from its variable in the environment: `DISCONNECT_MW_POLICY`,
    `DISCONNECT_MW_WEBSOCKET_POLICY`, `DISCONNECT_MW_GRACE`, `DISCONNECT_MW_SEND_TIMEOUT` and
    `DISCONNECT_MW_MAX_ORPHANS`, so that installs by import path take options too. An argument wins, None among them.
    `DISCONNECT_MW_LOG`, a level, has the log lines appear (`disconnect_mw.observe.logging`).

    Raises `TypeError` or `ValueError` at once for invalid arguments, and `ValueError` for a variable's.

    Under a policy other than `"mute"`, with `grace` or `on_disconnect`, and for every WebSocket, the middleware checks
    for a disconnect even if the app does not call `receive`: 50 to 75 ms after the start, then once a second. Once
    nothing but the disconnect can come, a task waits for it.

    Installed more than once around an app, the installs share one exchange. The options of an inner one (a policy other
    than `"mute"`, and all others) hold for the whole exchange, and hooks add up.
    """

    _app: ASGIApp
    _options: Options
    _websocket_options: Options
    _policy_for: Callable[[Any], Policy | None] | None
    _has_complained: bool
    _usual: type[HTTPConnection] | None
    _sets_version: bool  # of every usual exchange

    has_installs: ClassVar[bool] = False
    """Whether there has been one in this process."""

    if TYPE_CHECKING:

        def __init__(
            self,
            app: Any,
            *,
            policy: Policy = "mute",
            websocket_policy: Policy = "raise",
            grace: float | None = None,
            send_timeout: float | None = None,
            max_orphans: int | None = None,
            policy_for: PolicyFor | None = None,
            on_disconnect: Hook | None = None,
        ) -> None: ...

    else:
        # One keyword more than a type checker needs to see: an unknown one gets a better error than Python's own.
        def __init__(
            self,
            app,
            *,
            policy=_options.NOT_GIVEN,
            websocket_policy=_options.NOT_GIVEN,
            grace=_options.NOT_GIVEN,
            send_timeout=_options.NOT_GIVEN,
            max_orphans=_options.NOT_GIVEN,
            policy_for=None,
            on_disconnect=None,
            **unknown,
        ):
            if unknown:
                raise TypeError(
                    "DisconnectMiddleware takes policy, websocket_policy, grace, send_timeout, max_orphans, policy_for "
                    f"and on_disconnect, not {', '.join(unknown)}: look for a misspelling, or for an option of another "
                    "version"
                )
            self._app = single_callable(app)
            DisconnectMiddleware.has_installs = True
            from ._environment import complete  # not imported before it is used

            found = complete(
                policy=policy,
                websocket_policy=websocket_policy,
                grace=grace,
                send_timeout=send_timeout,
                max_orphans=max_orphans,
            )
            policy, websocket_policy = found["policy"], found["websocket_policy"]
            grace, send_timeout, max_orphans = found["grace"], found["send_timeout"], found["max_orphans"]
            hook = _options.check_function("on_disconnect", "the Disconnect", on_disconnect, is_async=True)
            others = (
                _options.check_grace(grace),
                _options.check_send_timeout(send_timeout),
                () if hook is None else (hook,),
            )
            limit = _options.check_max_orphans(max_orphans)
            if limit is not None and policy == websocket_policy == "raise" and policy_for is None:
                raise ValueError(
                    'max_orphans needs apps that can go on for nobody, but policy and websocket_policy are "raise": '
                    "set another policy, or policy_for"
                )
            others += (None if limit is None else Orphans(limit), object())
            self._options = Options(_options.check_policy("policy", policy), *others)
            self._websocket_options = Options(_options.check_policy("websocket_policy", websocket_policy), *others)
            self._policy_for = _options.check_policy_for(policy_for)
            self._has_complained = False
            self._usual = None
            self._sets_version = policy != "mute"
            if policy_for is None and self._options == Options("mute"):
                self._usual = HTTPConnection
            elif policy_for is None and send_timeout is None and self._options.needs_watcher:
                self._usual = WatchedHTTPConnection

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        connection: Any
        app, token, usual = self._app, _backends.running_loop(), self._usual
        has_body = False
        try:
            if (
                usual is not None
                and token is not None
                and scope["type"] == "http"
                and scope["http_version"] == "1.1"
                and scope["asgi"]["spec_version"] == _USUAL_VERSION
                and KEY not in scope
            ):
                if scope["method"] != "GET":
                    has_body = announces_body(scope)
                if _LEVELS[_INFO]:
                    usual = ToldHTTPConnection
                elif OBSERVERS and usual is HTTPConnection:
                    usual = WatchedHTTPConnection
            else:
                usual = None
        except (AttributeError, KeyError, TypeError, ValueError):
            usual = None
        if usual is not None:
            connection = usual()
            connection.open(scope, receive, send, self._options, token)
            if connection.task is None:
                app = connection.open_without_task(app)
            scope[KEY] = connection
            if usual is not HTTPConnection:
                connection.unchecked = watch(connection, connection.backend, token, copy_context())
                if usual is ToldHTTPConnection:
                    connection.messages_sent = connection.bytes_sent = 0
                if has_body or self._sets_version:
                    connection.set_usual_version(scope, has_body)
            elif has_body:
                connection.set_usual_version(scope, has_body)
        else:
            kind, is_told = scope.get("type"), LOGGER.isEnabledFor(_INFO)
            if kind == "http":
                connection, options = (CountingHTTPConnection() if is_told else HTTPConnection()), self._options
                if is_told:
                    connection.messages_sent = connection.bytes_sent = 0
            elif kind == "websocket":
                connection, options = WebSocketConnection(), self._websocket_options
                connection.has_heard = False
            else:
                return await app(scope, receive, send)
            connection.open(scope, receive, send, options, token)
            if connection.task is None:
                app = connection.open_without_task(app)
            self._set_up(connection, scope.setdefault(KEY, connection), is_told)
        receive, send = connection.receive, connection.send
        if inside is not None:
            receive, send = inside(scope, receive, send)
        rest = None
        try:
            try:
                result = await app(scope, receive, send)
            except BaseException as exception:
                if connection.disconnected is None:
                    try:
                        await connection.look_once(exception)
                    finally:
                        if connection.disconnected is None:
                            connection.close()
                    if connection.disconnected is None:
                        raise
                rest, has_suppressed = await _judge(connection, exception)
                if rest is not None:
                    await connection.complete_whole_response(scope)
                if rest is exception:
                    raise
                result = None
            else:
                if connection.disconnected is None:
                    if connection.reader is not None or connection.parts is not NO_PARTS:
                        connection.close()
                    elif connection.unchecked is not None:
                        connection.unchecked.pop(connection, None)
                    return result
                rest, has_suppressed = await _judge(connection, None)
            if rest is not None:
                raise rest
            # Outside of the `except`, so that the app's exception is not the context of one that this raises.
            await connection.complete_response(scope, has_suppressed)
            return result
        finally:
            # The scope may outlive all this, and what the server gave us holds the scope.
            scope[KEY] = connection.parts.before if connection.disconnected is None else ended(connection)
            connection.scope = connection.task = None
            rest = None  # whose traceback holds this frame

    def _set_up(self, connection: Connection, found: Any, is_told: bool) -> None:
        """See to all that the usual exchange does not need.

        `found` is what the scope had in place of `connection`; `is_told` is whether the logger is at INFO.
        """
        scope = connection.scope
        choice = None if self._policy_for is None else self._choose(scope)
        if choice is not None:
            connection.options = dataclasses.replace(connection.options, policy=choice)
        options, is_sub_request = connection.options, False
        if found is not connection:
            scope[KEY] = connection
            if isinstance(found, Connection) and found.scope is not None:
                connection.own_parts().before = found
                if not found.has_come_through(options.install):
                    connection.join(found, choice)
                    connection.root.set_spec_version(scope)
                    return
                is_sub_request = True
        is_multiplexed = scope.get("http_version") in _MULTIPLEXED
        # What an app calls of itself is told where it is seen, and not looked at for that: its `receive` is the app's.
        is_watched = options.needs_watcher or (not is_sub_request and (is_told or bool(OBSERVERS)))
        connection.observe(is_told, is_watched or is_multiplexed or connection.protocol == "websocket")
        connection.set_spec_version(scope)

    def _choose(self, scope: Any) -> Policy | None:
        """What `policy_for` returns. Its mistakes are logged once, and harm no request."""
        function: Any = self._policy_for
        try:
            choice = function(scope)
        except Exception:
            self._complain("policy_for=%s raised an exception, the default policy is used", _options.name_of(function))
            return None
        if choice is None or _options.is_policy(choice):
            return choice  # type: ignore[no-any-return]  # one of the two
        self._complain(
            "policy_for=%s returned %r, the default policy is used: return %s or None",
            _options.name_of(function),
            choice,
            _options.CHOICES,
        )
        return None

    def _complain(self, text: str, *arguments: Any) -> None:
        if not self._has_complained:
            self._has_complained = True
            LOGGER.error(text, *arguments, exc_info=sys.exc_info()[0] is not None)


class CancelOnDisconnect(DisconnectMiddleware):
    """`DisconnectMiddleware` with `policy="cancel"`, for settings that take an import path and no arguments."""

    if TYPE_CHECKING:

        def __init__(self, app: Any) -> None: ...

    else:

        def __init__(self, app, **options):
            _refuse(options, "CancelOnDisconnect", "cancel")
            super().__init__(app, policy="cancel")


class RaiseOnDisconnect(DisconnectMiddleware):
    """`DisconnectMiddleware` with `policy="raise"`, for settings that take an import path and no arguments."""

    if TYPE_CHECKING:

        def __init__(self, app: Any) -> None: ...

    else:

        def __init__(self, app, **options):
            _refuse(options, "RaiseOnDisconnect", "raise")
            super().__init__(app, policy="raise")


def _refuse(options: dict[str, Any], name: str, policy: str) -> None:
    if options:
        wanted = ", ".join(f"{option}={value!r}" for option, value in {"policy": policy, **options}.items())
        raise TypeError(f"{name} takes no options, not {', '.join(options)}: use DisconnectMiddleware(app, {wanted})")


async def _judge(connection: Connection, exception: BaseException | None) -> tuple[BaseException | None, bool]:
    """The app of a client that has left has ended, with `exception` or none.

    Returns the exception to be raised, which is all that the disconnect did not cause (P5, P6), or None; and whether
    anything was suppressed.
    """
    is_cancelled, left = await connection.absorb_cancellation(exception)
    connection.close()
    rest = None if left is None else remove_disconnect_errors(left, connection.is_ours)
    has_suppressed = is_cancelled or rest is not left
    if has_suppressed and exception is not None:
        LOGGER.debug("caused by the disconnect of the client", exc_info=exception)
    if connection.parts.outer is None:
        exchange = connection.make_exchange(rest, exception if has_suppressed else None)
        log_exchange(exchange, connection.backend)
        if connection.is_observed():
            from ._observers import tell_of_end  # not imported unless used

            tell_of_end(connection, exchange)
    return rest, has_suppressed


def single_callable(app: Any) -> ASGIApp:
    """`app`, be it of the double callable of ASGI 2; a `TypeError` for what is no application."""
    if not callable(app):
        raise TypeError(f"app must be an ASGI application, not {app!r}: pass the object, not its import path")
    call = next((vars(kind)["__call__"] for kind in getattr(app, "__mro__", ()) if "__call__" in vars(kind)), None)
    if inspect.isclass(app) and call is not None and takes(call, 4):  # itself, and the three of ASGI
        raise TypeError(f"app must be an ASGI application, not the class {app.__qualname__}: pass the instance")
    # What asgiref takes for a double callable is everything that is not a coroutine function, plain functions that
    # return an awaitable included; so only what cannot take the three arguments is asked about.
    if not takes(app, 3):
        from asgiref.compatibility import guarantee_single_callable

        return guarantee_single_callable(app)  # type: ignore[no-any-return,no-untyped-call]  # untyped
    return app  # type: ignore[no-any-return]  # as far as can be told
