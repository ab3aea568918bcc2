"""The handler's view of its exchange: is the client still there, and what if not?"""

from __future__ import annotations

import contextvars
import dataclasses
from types import TracebackType
from typing import Any

from . import _runtime
from ._connection import Connection
from ._errors import ClientDisconnected
from ._policy import Policy, checked, make_truthful
from ._records import Disconnect, Exchange
from ._state import State

KEY = "disconnect_mw.connection"
"""Where the scope has the connection of the innermost install; None, or an `Over`, when the exchange is over."""


class Over:
    """What is left of an exchange whose client had gone."""

    __slots__ = ("exchange", "policy")
    policy: Policy

    def __init__(self, connection: Connection) -> None:
        self.exchange = connection.exchange
        self.policy = connection.terms.policy


def connection(exchange: Any) -> ClientConnection:
    """The view that a handler has of its client: of a scope, or of anything that has one (`request`, `websocket`).

    It works wherever in the stack the middleware stands. Raises `LookupError` if it stands nowhere around the caller,
    and `TypeError` for what has no scope.
    """
    scope = getattr(exchange, "scope", exchange)
    try:
        found = scope[KEY]
    except KeyError:
        raise LookupError(
            "no DisconnectMiddleware stands around this app: install it with app.add_middleware(DisconnectMiddleware), "
            "or wrap the app that the server is given"
        ) from None
    except TypeError:
        raise TypeError(
            f"connection() takes a scope, or what has one, not {exchange!r}: pass the request or the websocket"
        ) from None
    return ClientConnection(found, scope)


class ClientConnection:
    """The client of one exchange.

    Whoever asks `connected` or `disconnect` for the first time has somebody look for the departure from then on, within
    50 ms: the app need not receive. A request body that the app has not read is not read for that.
    """

    __slots__ = ("_found", "_scope")

    def __init__(self, found: Connection | Over | None, scope: Any) -> None:
        self._found = found
        self._scope = scope

    def __repr__(self) -> str:
        found = self._found
        has_gone = found.root.state is State.DISCONNECTED if isinstance(found, Connection) else found is not None
        return f"<{type(self).__name__} {'disconnected' if has_gone else 'connected'}>"

    @property
    def connected(self) -> bool:
        """Is the client there, as far as is known? From any thread.

        After the app's last message it is: what happens then is the normal end of an exchange.
        """
        return self.disconnect is None

    @property
    def disconnect(self) -> Disconnect | None:
        """What is known of the departure, once it is. From any thread."""
        found = self._found
        if isinstance(found, Over):
            return None if found.exchange is None else found.exchange.disconnect
        if found is None:
            return None
        root = found.root
        if not root.is_watched and root.record is None and root.loop is not None:
            context = contextvars.copy_context()
            _runtime.call_in(root.loop, lambda: root.watch(context))
        return root.record

    @property
    def exchange(self) -> Exchange | None:
        """The record of the exchange, when it is over and its client had gone before."""
        return (
            None
            if self._found is None
            else (self._found.root if isinstance(self._found, Connection) else self._found).exchange
        )

    @property
    def policy(self) -> Policy:
        """What becomes of the app when its client goes away. It can be set until then.

        Setting it to another policy raises `ClientDisconnected` once the client has gone: an app that lets that out
        ends quietly. It raises `TypeError` or `ValueError` for what is no policy, and does nothing when the exchange is
        over. The scope's `spec_version` is true afterwards.
        """
        found = self._found
        if isinstance(found, Connection):
            return found.root.terms.policy
        return "mute" if found is None else found.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        checked("policy", policy)
        found = self._found
        if not isinstance(found, Connection) or found.scope is None or policy == found.root.terms.policy:
            return
        root = found.root
        if root.state is State.DISCONNECTED:
            raise ClientDisconnected(found.disconnect)
        root.terms = dataclasses.replace(root.terms, policy=policy)
        make_truthful(self._scope, policy)
        if policy != "mute" and root.loop is not None:
            context = contextvars.copy_context()
            _runtime.call_in(root.loop, lambda: root.watch(context))

    async def wait_disconnected(self) -> Disconnect | None:
        """Wait until the client has gone. None if the exchange ends, or the response is complete, without that.

        On the event loop that runs the exchange; `RuntimeError` on another one.
        """
        found = self._found
        if not isinstance(found, Connection):
            return self.disconnect
        root = found.root
        if root.loop is not _runtime.event_loop():
            raise RuntimeError("wait_disconnected() must be awaited on the event loop of the exchange: ask `connected`")
        root.watch(contextvars.copy_context())
        if root.is_watched:
            root.attended.look()
        while root.record is None and found.scope is not None and root.state is not State.COMPLETE:
            waiter = _runtime.new_waiter()
            with root.attended.waiting(waiter), found.attended.waiting(waiter):
                await waiter
        return root.record

    def shield(self) -> Shield:
        """`async with client.shield():` a block that is not cancelled in the middle because the client has gone.

        The cancellation by this middleware comes at the end of the block. So does the disconnect for other tasks that
        wait to receive it, since frameworks cancel on it: Starlette ends a stream, Quart and Django everything. A
        cancellation from elsewhere is not held off: of the server, of a time-out, of the app's own.
        """
        return Shield(self._found if isinstance(self._found, Connection) else None)


# Turns of the loop for a framework that has been told of the disconnect to cancel whom it will, before a block begins.
# Through one BaseHTTPMiddleware it takes six.
_TURNS_TO_SETTLE = 32


class Shield:
    """An asynchronous context manager. See `ClientConnection.shield`."""

    def __init__(self, found: Connection | None) -> None:
        self._found = found
        self._blocks: list[object] = []

    async def __aenter__(self) -> None:
        found = self._found
        if found is None:
            return
        if found.disconnect is not None:
            for _ in range(_TURNS_TO_SETTLE):
                await _runtime.checkpoint()
        self._blocks.append(found.shield())

    async def __aexit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        found = self._found
        if found is None:
            return
        mine = [number for number, block in enumerate(self._blocks) if found.is_within(block)]
        found.unshield(self._blocks.pop(mine[-1] if mine else -1))  # a generator that was left may be closed elsewhere
        if exception is None and found.disconnect is not None:
            await _runtime.checkpoint()  # in which the cancellation comes
