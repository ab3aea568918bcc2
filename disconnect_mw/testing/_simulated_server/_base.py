"""What a simulated server does for both protocols."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar

from ... import _backends
from ..._backends import Waiter
from .._behaviour import Outcome, Raises
from .._clients import Leave

__tracebackhide__ = True  # pytest leaves the frames of this module out

Message = Any

NO_MESSAGE = object()
"""What `_next_message` returns where `receive` has to wait."""


class SimulatedServer(abc.ABC):
    """Stands in for a server: gives the app under test `receive`, `send` and `scope()`.

    Its client leaves when `leave` is called, or after as many messages as the `HTTPClient` or `WebSocketClient` says.
    (`leaves_after_seconds` is for `visit`, which has a clock.) The order of the app's messages is not checked: a
    message out of order, of which a server would complain, is taken.
    """

    _WAYS_TO_LEAVE: ClassVar[tuple[str, ...]]

    client: Any  # an HTTPClient or a WebSocketClient
    behaviour: Any  # HTTPServerBehaviour or WebSocketServerBehaviour

    def __init__(self, incoming: Iterable[Message]) -> None:
        self.sent: list[Message] = []
        """All messages of the app that reached the server, whatever became of them."""

        self.wasted: list[Message] = []
        """Those that came after the client had left."""

        self.delivered: list[Message] = []
        """Those that reached the client."""

        self.reads: int = 0
        """How often `receive` was called."""

        self.cancelled_reads: int = 0
        """How many of these calls ended before there was an answer."""

        self.has_left: bool = False
        self.has_ended = False
        """Whether the app sent its last message while the client was there."""

        self.left_by: Leave = self.client.leaves_by
        self.on_leave: Callable[[], None] = _do_nothing
        """Called when the client leaves."""

        self.on_progress: Callable[[], None] = _do_nothing
        """Called when the app has received a message of the client's, or the client one that it waits for."""

        self.pause: Callable[[], Awaitable[None] | None] = _do_nothing
        """Called first by each `receive` and `send`, which await what it returns, if anything.

        A loop over a silent server's `send` gives no other task a turn, so nothing else could stop it.
        """

        self._incoming = list(incoming)
        self._readers: list[Waiter] = []
        self._blocked: list[Waiter] = []
        self._sends_after_leave = 0
        self._blocks_forever = False

    def scope(self) -> dict[str, Any]:
        """Return a new scope, as the server would make it."""
        asgi = {"version": "3.0"}
        if self.behaviour.spec_version is not None:
            asgi["spec_version"] = self.behaviour.spec_version
        scope: dict[str, Any] = {**self.client.scope(self._http_version()), "asgi": asgi}
        if self.behaviour.extensions:
            scope["extensions"] = {name: {} for name in self.behaviour.extensions}
        return scope

    def leave(self, how: Leave | None = None) -> None:
        """Have the client leave, by "fin", "rst" or "half", on a WebSocket also by "close"; as its script says unless
        given.

        Raises `ValueError` for any other way. A second call changes nothing.
        """
        how = self.client.leaves_by if how is None else how
        if how not in self._WAYS_TO_LEAVE:
            raise ValueError(f"a client leaves by {' or '.join(map(repr, self._WAYS_TO_LEAVE))}, not {how!r}")
        if self.has_left:
            return
        self.has_left = True
        self.left_by = how
        self._client_left()
        self.on_leave()
        self._wake_readers_for_disconnect()
        for waiter in self._blocked:
            waiter.set()

    def deliver(self, *messages: Message) -> None:
        """Give `receive` more messages of the client's."""
        self._incoming.extend(messages)
        self._wake_readers()

    def begin(self) -> None:
        """Begin the exchange: a client that leaves before the app's first turn leaves now."""
        if self.client.leaves_at_once:
            self.leave()

    # The app's side

    async def receive(self) -> Message:
        self.reads += 1
        try:
            if (pause := self.pause()) is not None:
                await pause
            self._check_readers()
            while True:
                message = self._next_message()
                if message is not NO_MESSAGE:
                    return message
                waiter = _backends.current()[0].create_waiter()
                self._readers.append(waiter)
                try:
                    await waiter
                finally:
                    self._readers.remove(waiter)
        except Exception:
            raise
        except BaseException:
            self._receive_cancelled()
            raise

    async def send(self, message: Message) -> None:
        if (pause := self.pause()) is not None:
            await pause
        if self._leaves_on_send():
            self.leave()
        if self.has_ended:
            outcome = self._outcome_after_end(message)
            if not isinstance(outcome, Raises):
                self._record(message)
            await _perform(outcome, message)
        elif self.has_left and not self._still_delivers():
            self._record(message)
            if self._blocks_forever:
                await block_forever()
            await _perform(self._take_after_leave(message), message)
        else:
            await self._take(message)

    async def _take(self, message: Message) -> None:
        self.sent.append(message)
        stalls = self.client.stalls_after_messages
        if stalls is None or len(self.delivered) < stalls or self.has_left:
            self.delivered.append(message)
            if self.client.leaves_after_messages is not None:
                self.on_progress()
        elif self._has_content(message) and self.behaviour.blocked_send != "never blocks":
            return await self._block(message)
        self._message_taken(message)
        if len(self.delivered) == self.client.leaves_after_messages and not self.has_left:
            self.leave()

    async def _block(self, message: Message) -> None:
        """Block `send` by flow control: the client reads no more, and the buffers are full."""
        waiter = _backends.current()[0].create_waiter()
        self._blocked.append(waiter)
        try:
            await waiter
        finally:
            self._blocked.remove(waiter)
        self._blocks_forever = self.behaviour.stays_blocked
        self._send_failed()
        await _perform(self.behaviour.blocked_send, message)

    def _record(self, message: Message) -> None:
        self.sent.append(message)
        if self.has_left:
            self.wasted.append(message)

    def _wake_readers(self) -> None:
        for waiter in self._readers:
            waiter.set()

    # What differs between the protocols

    @property
    def calls_the_app(self) -> bool:
        """Whether the server calls the app at all."""
        return True

    def _http_version(self) -> str:
        return "1.1"

    @abc.abstractmethod
    def _next_message(self) -> Message:
        """Take what `receive` answers now; NO_MESSAGE if it has to wait."""

    @abc.abstractmethod
    def _message_taken(self, message: Message) -> None:
        """The server has taken a message while the client is there."""

    @abc.abstractmethod
    def _take_after_leave(self, message: Message) -> Outcome:
        """Take a message after the client has left; return what `send` does with it."""

    @abc.abstractmethod
    def _outcome_after_end(self, message: Message) -> Outcome:
        """What `send` does with a message after the last one."""

    @abc.abstractmethod
    def _has_content(self, message: Message) -> bool:
        """Whether flow control can block the message."""

    @abc.abstractmethod
    def _client_left(self) -> None:
        """The client has just left."""

    @abc.abstractmethod
    def _send_failed(self) -> None:
        """A `send` has found that the client has left."""

    def _still_delivers(self) -> bool:
        return self.left_by == "half" and bool(self.behaviour.half_close == "delivers")

    def _wake_readers_for_disconnect(self) -> None:
        self._wake_readers()

    def _leaves_on_send(self) -> bool:
        """Whether the client, which waits for its body to be read, leaves because the app answers before."""
        return False

    def _check_readers(self) -> None:  # noqa: B027  # HTTP servers let any number of tasks wait
        """Raise what the server raises in a `receive` while another one waits."""

    def _receive_cancelled(self) -> None:
        self.cancelled_reads += 1


async def _perform(outcome: Outcome, message: Message) -> None:
    if isinstance(outcome, Raises):
        raise outcome.make(message)
    if outcome == "blocks":
        await block_forever()


async def block_forever() -> None:
    await _backends.current()[0].create_waiter()


def _do_nothing() -> None:
    pass
