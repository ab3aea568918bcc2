"""What a message passes through on its way from the app to the server."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from . import _blocked_sends, _messages
from ._backends import Backend
from ._disconnected import Disconnected
from ._errors import ClientDisconnected
from ._messages import Message, Remaining

Send = Callable[[Message], Awaitable[Any]]


class Counter(Protocol):
    """How many messages, and bytes of payload, the server was given."""

    messages_sent: int
    bytes_sent: int


class CountingSend:
    """The server's `send`, which counts what passes. (An HTTP connection counts by itself.)"""

    __slots__ = ("_send", "bytes_sent", "messages_sent")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.messages_sent = self.bytes_sent = 0

    def send(self, message: Message) -> Awaitable[Any]:
        self.messages_sent += 1
        self.bytes_sent += _messages.payload(message)
        send = self._send  # called as a variable, at half the cost
        return send(message)


class Waited(Protocol):
    """A connection whose end tasks wait for."""

    def wake_if_complete(self) -> None: ...


class WakingSend:
    """The server's `send`, where tasks wait for the end of the exchange: the app's last message is one (P3)."""

    __slots__ = ("_connection", "_send")

    def __init__(self, send: Send, connection: Waited) -> None:
        self._send = send
        self._connection = connection

    def send(self, message: Message) -> Awaitable[Any]:
        self._connection.wake_if_complete()
        return self._send(message)


class TimedSend:
    """The server's `send`, for at most so many seconds a message."""

    __slots__ = ("_backend", "_seconds", "_send")

    def __init__(self, send: Send, seconds: float, backend: Backend) -> None:
        self._send = send
        self._seconds = seconds
        self._backend = backend

    def __call__(self, message: Message) -> Awaitable[Any]:
        return self._backend.fail_after(self._seconds, self._send(message))


class Outer(Protocol):
    """The connection of an install further out; its `scope` is None when its exchange has ended."""

    scope: Any


# Muted sends in a row without a turn of the event loop, after which there is one: a generator that awaits nothing must
# not starve the loop. Not sooner, because a framework's cancellation that arrives in `send` finds the app's generator
# suspended at a `yield`, and leaves it to the garbage collector.
_SENDS_WITHOUT_A_TURN = 32


class MutedSend:
    """Takes the app's messages after the disconnect, in place of the server's `send` (P1).

    A message is counted and dropped, or raises `ClientDisconnected`, as `raises` says of it. An inner install hands
    the message on to the outer one, which mutes it: middleware between the two may need the whole response (a cache).
    `completed` is called after the app's last message.
    """

    __slots__ = ("_after", "_backend", "_completed", "_disconnected", "_outer", "_raises", "_send", "_without_turn")

    def __init__(
        self,
        *,
        send: Send,
        disconnected: Disconnected,
        after: Callable[[Remaining, Any], Remaining],
        backend: Backend,
        raises: Callable[[Message], bool],
        completed: Callable[[], None],
        outer: Outer | None,
    ) -> None:
        self._send = send
        self._disconnected = disconnected
        self._after = after
        self._backend = backend
        self._raises = raises
        self._completed = completed
        self._outer = outer
        self._without_turn = 0

    async def __call__(self, message: Message, cause: BaseException | None = None) -> None:
        """`cause` is the exception with which the server's `send` reported the disconnect for this very message."""
        disconnected, kind = self._disconnected, _messages.field(message, "type")
        disconnected.count(message)
        _blocked_sends.uncancel(self._backend)
        if self._raises(message):
            await self._give_turn()
            if cause is None or sys.exception() is not None:  # `from` would hide what the app is handling (P5)
                raise ClientDisconnected(disconnected.message)
            raise ClientDisconnected(disconnected.message) from cause
        if kind is not None and disconnected.unsent:
            disconnected.unsent = self._after(disconnected.unsent, message)
            if not disconnected.unsent:
                self._completed()
        if self._outer is not None and self._outer.scope is not None:
            await self._hand_on(disconnected.for_outside(message), kind)
        disconnected.keep(kind, message)
        await self._give_turn()

    async def _give_turn(self) -> None:
        """Give the event loop a turn, where it has had none for many sends in a row."""
        self._without_turn += 1
        if self._without_turn == 1:
            self._backend.call_soon(self._had_turn)
        elif self._without_turn >= _SENDS_WITHOUT_A_TURN:
            self._without_turn = 0
            await self._backend.checkpoint()

    def _had_turn(self) -> None:
        self._without_turn = 0

    async def _hand_on(self, message: Message, kind: Any) -> None:
        disconnected = self._disconnected
        before = disconnected.remaining
        if kind is not None:
            disconnected.remaining = self._after(before, message)
        try:
            await self._send(message)
        except BaseException:
            disconnected.remaining = before
            raise

    def close(self, raises: bool) -> None:
        """The exchange is over: do not hold the connection any more, which holds this."""
        self._raises = _always if raises else _never
        self._completed = _nothing


def _always(message: Message) -> bool:
    return _messages.field(message, "type") not in _messages.WEBSOCKET_ENDS


def _never(message: Message) -> bool:
    return False


def _nothing() -> None:
    pass
