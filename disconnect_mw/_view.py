"""The handler's view of its exchange: whether the client is there, and what to do when it leaves."""

from __future__ import annotations

import contextvars
import dataclasses
import inspect
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from . import _backends
from ._cancellation import Block, in_shield
from ._connection import Connection
from ._errors import ClientDisconnected
from ._options import Policy, check_policy
from ._records import Disconnect, Exchange
from ._state import State

if TYPE_CHECKING:
    from ._callbacks import DisconnectCallback

KEY = "disconnect_mw.connection"
"""Where the scope has the connection of the innermost install; None, or an `EndedExchange`, when that is over."""


class EndedExchange:
    """What is left of an exchange whose client had left."""

    __slots__ = ("exchange", "policy")
    policy: Policy

    def __init__(self, exchange: Exchange, policy: Policy) -> None:
        self.exchange: Exchange = exchange
        self.policy = policy


def ended(connection: Connection) -> Any:
    """What the scope has under `KEY` once the exchange of `connection` is over."""
    exchange, before = connection.exchange(), connection.parts.before
    if exchange is None or before is not None:  # of an inner install; of a sub-request with the same scope
        return before
    return EndedExchange(exchange, connection.options.policy)


def connection(exchange: Any) -> ClientConnection:
    """A handler's view of its client, from a scope, or from an object that has one (`request`, `websocket`).

    In an endpoint of any framework::

        client = disconnect_mw.connection(request)
        async with client.shield():
            await database.commit()

    The middleware may stand anywhere around the caller. Raises `LookupError` if it stands nowhere around it, and
    `TypeError` for an object that has no scope.
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


def _watch(root: Connection) -> None:
    """Detect the disconnect from now on. From any thread."""
    context = contextvars.copy_context()
    root.backend.call_in(root.token, lambda: root.watch(context))


class ClientConnection:
    """A handler's view of its client, made by `disconnect_mw.connection(request)`.

    From the first time that `connected` or `disconnect` is asked, the middleware checks for a disconnect even if the
    app does not call `receive`: after 50 to 75 ms, then once a second; once nothing but the disconnect can come, a task
    waits for it. A request body that the app has not read is not read for that.
    """

    __slots__ = ("_found", "_has_asked", "_scope")

    def __init__(self, found: Connection | EndedExchange | None, scope: Any) -> None:
        self._found = found
        self._has_asked = False  # to have the middleware check
        self._scope = scope

    def __repr__(self) -> str:
        found = self._found
        has_gone = found.root.state is State.DISCONNECTED if isinstance(found, Connection) else found is not None
        return f"<{type(self).__name__} {'disconnected' if has_gone else 'connected'}>"

    @property
    def connected(self) -> bool:
        """Whether the client is there, as far as is known. May be asked from any thread.

        A client that leaves after the app's last message still counts as connected: that is the normal end.
        """
        return self.disconnect is None

    @property
    def disconnect(self) -> Disconnect | None:
        """The record of the disconnect, once it is known; None while the client is there. From any thread."""
        found = self._found
        if isinstance(found, EndedExchange):
            return found.exchange.disconnect
        if found is None:
            return None
        root = found.root
        record = root.record()
        if record is None and not self._has_asked and not root.is_watched():
            self._has_asked = True  # once: a thread may ask thousands of times before the loop has its turn
            _watch(root)
        return record

    @property
    def exchange(self) -> Exchange | None:
        """The record of the exchange, once the app has ended, if its client had left before; else None."""
        found = self._found
        if isinstance(found, Connection):
            return found.root.exchange()
        return None if found is None else found.exchange

    @property
    def policy(self) -> Policy:
        """The policy of this exchange: what becomes of the app when its client leaves. It can be set until then.

        Setting it to another policy raises `ClientDisconnected` once the client has left: an app that lets that out
        ends quietly. It raises `TypeError` or `ValueError` for a value that is no policy, and does nothing when the
        exchange is over. The scope's `spec_version` is right afterwards.
        """
        found = self._found
        if isinstance(found, Connection):
            return found.root.options.policy
        return "mute" if found is None else found.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        check_policy("policy", policy)
        found = self._found
        if not isinstance(found, Connection) or found.scope is None or policy == found.root.options.policy:
            return
        root = found.root
        if root.state is State.DISCONNECTED:
            raise ClientDisconnected(found.disconnect_message)
        root.options = dataclasses.replace(root.options, policy=policy)
        for scope in (root.scope, self._scope):
            root.set_spec_version(scope)
        if policy != "mute":
            _watch(root)

    async def wait_disconnected(self) -> Disconnect | None:
        """Wait until the client has left, and return the record of that.

        Returns None if the exchange ends, or the response is complete, with the client there.

        To be awaited on the event loop that runs the exchange; raises `RuntimeError` on another one.
        """
        found = self._found
        if not isinstance(found, Connection):
            return self.disconnect
        root = found.root
        backend, token = _backends.current()
        if root.token is not token:
            raise RuntimeError("wait_disconnected() must be awaited on the event loop of the exchange: ask `connected`")
        root.watch(contextvars.copy_context())
        if root.scope is not None and root.is_watched():
            root.require_watcher(contextvars.copy_context()).check()
        # The root knows of the disconnect first; an inner exchange may end before the root's.
        waiters = (root.require_waiters(), found.require_waiters())
        while root.record() is None and found.scope is not None and root.state is not State.COMPLETE:
            waiter = backend.create_waiter()
            for each in waiters:
                each.add(waiter)
            try:
                await waiter
            finally:
                for each in waiters:
                    each.discard(waiter)
        return root.record()

    def on_disconnect(
        self, callback: Callable[..., Any], *arguments: Any, in_thread: bool = False
    ) -> DisconnectCallback:
        """Call `callback(*arguments)` once, when the client leaves; at once if it has left already. From any thread.

        This stops what cannot be cancelled, the work of a thread::

            with client.on_disconnect(database.interrupt):
                rows = database.execute(query)

        It is called on the event loop of the exchange, and must return soon; or, `in_thread`, in one of 32 threads that
        are there for this, for what blocks. If it returns an awaitable, that is awaited in a task of its own. What it
        raises is logged, and changes nothing; but `SystemExit` and `KeyboardInterrupt` end the loop, as anywhere on it.
        It is not called if the exchange ends, or the response is complete, with the client there. Where the exchange
        has ended without its client, it is called in the caller's thread.

        Returns a handle: `cancel()`, or leaving it as a context manager, has it not called any more. Raises `TypeError`
        for what is no function, and for an async one with `in_thread`.
        """
        from ._callbacks import DisconnectCallback  # not imported unless used

        handle, found = DisconnectCallback(callback, arguments, in_thread), self._found
        if isinstance(found, Connection):
            if not self._has_asked and found.root.parts.watcher is None:
                self._has_asked = True
                _watch(found.root)
            handle.wait_for(found.root, found)
        elif found is not None:
            handle.call()
        return handle

    def shield(self) -> Shield:
        """A block that is not cancelled in the middle because the client has left: `async with client.shield():`.

        The cancellation by this middleware comes at the end of the block. So does the disconnect for other tasks that
        wait to receive it, since frameworks cancel on it: Starlette ends a stream, Quart and Django everything. Once
        the client has left, the cancel scopes of anyio's task groups do not reach into the block either (those of
        sse-starlette, FastAPI's server-sent events, BaseHTTPMiddleware); but not so directly in an async generator,
        where no such scope can be: there use `anyio.CancelScope(shield=True)` around the single await.

        A cancellation by the server, by a time-out of asyncio or by the app itself is not held off.

        To be entered on the event loop of the exchange; raises `RuntimeError` on another one.
        """
        return Shield(self._found if isinstance(self._found, Connection) else None)


# Turns of the loop for a framework that has received the disconnect to cancel the app, before a block begins. Through
# one BaseHTTPMiddleware it takes six.
_TURNS_TO_SETTLE = 32


class Shield:
    """An asynchronous context manager. See `ClientConnection.shield`."""

    def __init__(self, found: Connection | None) -> None:
        self._found = found
        self._blocks: list[Block] = []

    async def __aenter__(self) -> None:
        found = self._found
        if found is None:
            return
        backend, token = _backends.current()
        if found.token is not token:
            raise RuntimeError("shield() must be entered on the event loop of the exchange")
        scope = None if _is_in_generator(sys._getframe(1)) else backend.shield_scope()
        block = found.shield(scope)
        if scope is not None:
            scope.__enter__()
        self._blocks.append(block)
        if found.disconnect_message is not None:
            try:
                for _ in range(_TURNS_TO_SETTLE):
                    await backend.checkpoint()
            except BaseException:
                await self.__aexit__(*sys.exc_info())
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:  # None among it: a type checker is not to think that it swallows exceptions
        found = self._found
        if found is None:
            return False
        mine = [number for number, block in enumerate(self._blocks) if in_shield(block)]
        block = self._blocks.pop(mine[-1] if mine else -1)  # a generator may be closed by another task
        is_due = found.end_shield(block)
        is_absorbed = block.scope is not None and bool(block.scope.__exit__(kind, exception, traceback))
        if exception is None and is_due:
            await found.backend.checkpoint()  # in which the cancellation is delivered
        return is_absorbed


def _is_in_generator(frame: FrameType | None) -> bool:
    """Whether the block is directly in an async generator, and may span a `yield`, as no cancel scope may."""
    while frame is not None and frame.f_globals.get("__name__") == "contextlib":  # an AsyncExitStack
        frame = frame.f_back
    return frame is not None and bool(frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR)
