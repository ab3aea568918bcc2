"""The far side of one exchange, in memory: a server with the behaviour of a record, and its client.

It needs no event loop of its own: it works on asyncio, on trio, and for coroutines that are driven by hand. It does not
check what the application says: a message out of order, which a server would complain of, is taken.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from .. import _runtime
from .._messages import HTTP_OWES_ALL, after_http
from ._behaviour import (
    CLIENTS_CODE,
    NOTHING_MORE,
    Answers,
    Code,
    HTTPServerBehaviour,
    Outcome,
    Raises,
    Server,
    WebSocketServerBehaviour,
)
from ._clients import Client, HTTPClient, Leave, WebSocketClient

Message = Any

_NOTHING = object()

# The first `send` to a socket that the client has closed is answered by an RST, which the second meets with.
_SENDS_TO_FIND_OUT = 2


class SimulatedServer(abc.ABC):
    """What the application under test finds in place of a server: `receive`, `send` and `scope()`.

    Its client leaves when it is told to, by `leave`, or after as many messages as its `HTTPClient` or `WebSocketClient`
    says. (`leaves_after_seconds` is for `visit`, which has a clock.)
    """

    _WAYS: ClassVar[tuple[str, ...]]

    client: Any  # an HTTPClient or a WebSocketClient
    behaviour: Any  # HTTPServerBehaviour or WebSocketServerBehaviour

    def __init__(self, incoming: Iterable[Message]) -> None:
        self.sent: list[Message] = []
        """All messages of the application's that reached the server, whatever became of them."""

        self.wasted: list[Message] = []
        """Those of them that came after the client had left."""

        self.delivered: list[Message] = []
        """Those of them that reached the client."""

        self.reads = 0
        """How often `receive` was called."""

        self.cancelled_reads = 0
        """How many of the calls ended before there was an answer."""

        self.has_left = False
        self.has_ended = False
        """Has the application said its last word, while the client was there?"""

        self.left_by: Leave = self.client.leaves_by
        self.on_departure: Callable[[], None] = _nothing
        """Called at the moment when the client leaves."""

        self.on_progress: Callable[[], None] = _nothing
        """Called when the application has taken something of the client's, or the client what it waits for."""

        self.is_out_of_time: Callable[[], bool] = _never
        """When this answers True, no `send` and no `receive` comes back any more.

        A loop over a silent server's `send` gives nobody else a turn, not even whoever would stop it.
        """

        self._incoming = list(incoming)
        self._readers: list[_runtime.Waiter] = []
        self._blocked: list[_runtime.Waiter] = []
        self._late_sends = 0
        self._blocks_for_ever = False

    def scope(self) -> dict[str, Any]:
        """A new scope, as the server would make it."""
        asgi = {"version": "3.0"}
        if self.behaviour.spec_version is not None:
            asgi["spec_version"] = self.behaviour.spec_version
        scope: dict[str, Any] = {**self.client.scope(self._http_version()), "asgi": asgi}
        if self.behaviour.extensions:
            scope["extensions"] = {name: {} for name in self.behaviour.extensions}
        return scope

    def leave(self, how: Leave | None = None) -> None:
        """The client goes away: by "fin", "rst" or "half", a WebSocket's also by "close"; if not given, as it is to.

        Raises `ValueError` for any other way. To leave again changes nothing.
        """
        how = self.client.leaves_by if how is None else how
        if how not in self._WAYS:
            raise ValueError(f"a client leaves by {' or '.join(map(repr, self._WAYS))}, not {how!r}")
        if self.has_left:
            return
        self.has_left = True
        self.left_by = how
        self._was_left()
        self.on_departure()
        self._ring_departure()
        for waiter in self._blocked:
            _runtime.wake(waiter)

    def deliver(self, *messages: Message) -> None:
        """More comes from the client."""
        self._incoming.extend(messages)
        self._ring()

    def begin(self) -> None:
        """The exchange begins: a client that leaves before the application's first turn leaves now."""
        if self.client.leaves_at_once:
            self.leave()

    # The application's side

    async def receive(self) -> Message:
        self.reads += 1
        try:
            if self.is_out_of_time():
                await never_back()
            self._one_more_reads()
            while True:
                message = self._next()
                if message is not _NOTHING:
                    return message
                waiter = _runtime.new_waiter()
                self._readers.append(waiter)
                try:
                    await waiter
                finally:
                    self._readers.remove(waiter)
        except Exception:
            raise
        except BaseException:
            self._read_was_cancelled()
            raise

    async def send(self, message: Message) -> None:
        if self.is_out_of_time():
            await never_back()
        if self._leaves_by_this_send():
            self.leave()
        if self.has_ended:
            outcome = self._after_end(message)
            if not isinstance(outcome, Raises):
                self._reaches(message)
            await _become(outcome, message)
        elif self.has_left and not self._still_delivers():
            self._reaches(message)
            if self._blocks_for_ever:
                await never_back()
            await _become(self._late(message), message)
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
        self._took(message)
        if len(self.delivered) == self.client.leaves_after_messages and not self.has_left:
            self.leave()

    async def _block(self, message: Message) -> None:
        """Flow control: the client reads no more, and the buffers are full."""
        waiter = _runtime.new_waiter()
        self._blocked.append(waiter)
        try:
            await waiter
        finally:
            self._blocked.remove(waiter)
        self._blocks_for_ever = self.behaviour.stays_blocked
        self._send_failed()
        await _become(self.behaviour.blocked_send, message)

    def _reaches(self, message: Message) -> None:
        self.sent.append(message)
        if self.has_left:
            self.wasted.append(message)

    def _ring(self) -> None:
        for waiter in self._readers:
            _runtime.wake(waiter)

    # What the protocols do each in their own way

    @property
    def calls_the_app(self) -> bool:
        """Does the server call the application at all?"""
        return True

    def _http_version(self) -> str:
        return "1.1"

    @abc.abstractmethod
    def _next(self) -> Message:
        """What `receive` answers now; _NOTHING if it has to wait."""

    @abc.abstractmethod
    def _took(self, message: Message) -> None:
        """The server has taken a message, and the client is there."""

    @abc.abstractmethod
    def _late(self, message: Message) -> Outcome:
        """What becomes of a message that comes after the client has left."""

    @abc.abstractmethod
    def _after_end(self, message: Message) -> Outcome:
        """What becomes of a message that comes after the last one."""

    @abc.abstractmethod
    def _has_content(self, message: Message) -> bool:
        """Can flow control block it?"""

    @abc.abstractmethod
    def _was_left(self) -> None:
        """The client has just left."""

    @abc.abstractmethod
    def _send_failed(self) -> None:
        """A message has met with a client that has gone."""

    def _still_delivers(self) -> bool:
        return self.left_by == "half" and bool(self.behaviour.half_close == "delivers")

    def _ring_departure(self) -> None:
        self._ring()

    def _leaves_by_this_send(self) -> bool:
        """Is the client, which waits for its body to be read, to leave because the application answers before?"""
        return False

    def _one_more_reads(self) -> None:  # noqa: B027  # one protocol has nothing to say to it
        """A `receive` begins; it raises where the server does not let two wait."""

    def _read_was_cancelled(self) -> None:
        self.cancelled_reads += 1


class HTTPSimulatedServer(SimulatedServer):
    """The far side of an HTTP exchange. `incoming` stands in place of the `http.request` messages of `client`."""

    _WAYS = ("fin", "rst", "half")

    def __init__(
        self,
        behaviour: HTTPServerBehaviour | None = None,
        incoming: Iterable[Message] | None = None,
        client: HTTPClient | None = None,
    ) -> None:
        self.behaviour: HTTPServerBehaviour = HTTPServerBehaviour() if behaviour is None else behaviour
        self.client: HTTPClient = HTTPClient() if client is None else client
        super().__init__(self._requests() if incoming is None else incoming)
        self._owed = HTTP_OWES_ALL
        self._times_told = 0
        self._buffered = 0
        self._is_false = False
        self._upload_is_cut = False
        self._body_was_read = False

    @property
    def calls_the_app(self) -> bool:
        """Daphne does not, for an upload that is cut."""
        return not (self.behaviour.buffers_upload and self.client.leaves_after_chunks is not None)

    def begin(self) -> None:
        super().begin()
        if self.client.leaves_after_chunks == 0:
            self.leave()

    def _requests(self) -> list[Message]:
        requests = self.client.requests()
        if self.behaviour.buffers_upload and requests:
            return [{**requests[-1], "body": b"".join(request["body"] for request in requests)}]
        return requests

    def _http_version(self) -> str:
        return self.behaviour.http_version

    def _next(self) -> Message:
        if self._incoming and not self._drops_unread():
            message = self._incoming.pop(0)
            self.on_progress()
            if not self._incoming and self.client.leaves_after_chunks is not None:
                self.leave()
            self._body_was_read = not (isinstance(message, dict) and message.get("more_body"))
            return message
        if self._is_false:
            return {"type": "http.disconnect"}
        if self._is_told() or (self.has_ended and self.behaviour.disconnect_after_end):
            times = self.behaviour.disconnects
            if self._upload_is_cut and self.behaviour.disconnects_of_cut_upload is not None:
                times = self.behaviour.disconnects_of_cut_upload
            if times is None or self._times_told < times:
                self._times_told += 1
                return {"type": "http.disconnect"}
        return _NOTHING

    def _drops_unread(self) -> bool:
        if self.has_ended:
            return self.behaviour.drops_unread and self.behaviour.disconnect_after_end
        return self.behaviour.drops_unread and self.has_left and not self._is_behind()

    def _is_behind(self) -> bool:
        """Does unread body keep the server from noticing the departure?"""
        limit = self.behaviour.read_ahead
        if limit is None or self._late_sends >= _SENDS_TO_FIND_OUT:
            return False
        return sum(len(message.get("body", b"")) for message in self._incoming) > limit

    def _is_told(self) -> bool:
        at_once = self.behaviour.disconnect_comes == "at once" or self._upload_is_cut
        return self.has_left and (at_once or self._late_sends > 0)

    def _was_left(self) -> None:
        requests = [message for message in self._incoming if isinstance(message, dict)]
        whole = self._body_was_read or any(not message.get("more_body") for message in requests)
        self._upload_is_cut = not whole

    def _ring_departure(self) -> None:
        if self.behaviour.wakes_all:
            self._ring()
        elif self._readers:
            _runtime.wake(self._readers[0])

    def _leaves_by_this_send(self) -> bool:
        return self.client.leaves_after_chunks is not None

    def _took(self, message: Message) -> None:
        if self.delivered[-1:] != [message]:
            self._buffered += len(message.get("body", b""))
        self._owed = after_http(self._owed, message)
        if not self._owed:
            self.has_ended = True
            self._ring()

    def _send_failed(self) -> None:
        self._late_sends += 1
        if self.behaviour.disconnect_comes == "after a send":
            self._times_told = 0
            self._ring_departure()

    def _late(self, message: Message) -> Outcome:
        is_behind = self._is_behind()
        self._send_failed()
        if is_behind:
            return "silent"
        if self.behaviour.send == "blocks":
            return self._into_buffer(message)
        return self.behaviour.send

    def _into_buffer(self, message: Message) -> Outcome:
        """Nobody empties the buffer any more: the last message waits for that in any case, the others once it is full.

        After a reset nothing goes into it.
        """
        is_reset = self.left_by == "rst" and self.behaviour.send_after_reset is not None
        if not is_reset:
            self._buffered += len(message.get("body", b""))
        is_last = bool(self._owed) and not after_http(self._owed, message)
        if self._buffered and (is_last or (self._buffered >= self.behaviour.buffer_size and not is_reset)):
            return "blocks"
        return "silent"

    def _after_end(self, message: Message) -> Outcome:
        return self.behaviour.send_after_end

    def _has_content(self, message: Message) -> bool:
        return bool(message.get("body"))

    def _read_was_cancelled(self) -> None:
        super()._read_was_cancelled()
        if self.behaviour.false_disconnect and self._body_was_read:
            self._is_false = True


class WebSocketSimulatedServer(SimulatedServer):
    """The far side of a WebSocket. `incoming` stands in place of the `websocket.connect` that opens it.

    What the client sends comes when the application has accepted.
    """

    _WAYS = ("fin", "rst", "half", "close")

    def __init__(
        self,
        behaviour: WebSocketServerBehaviour | None = None,
        incoming: Iterable[Message] | None = None,
        client: WebSocketClient | None = None,
    ) -> None:
        self.behaviour: WebSocketServerBehaviour = WebSocketServerBehaviour() if behaviour is None else behaviour
        self.client: WebSocketClient = WebSocketClient() if client is None else client
        super().__init__([{"type": "websocket.connect"}] if incoming is None else incoming)
        self.is_accepted = False
        self._left_before_accept = False
        self._is_told = False
        self._is_refused = False
        self._has_failed = False
        self._codes: list[Code] = []

    def _one_more_reads(self) -> None:
        if self._readers and self.is_accepted and isinstance(self.behaviour.second_reader, Raises):
            raise self.behaviour.second_reader.make()

    def _next(self) -> Message:
        if self._incoming:
            is_dropped = self.has_left and self.behaviour.drops_unread
            if not is_dropped or self._incoming[0]["type"] == "websocket.connect":
                self.on_progress()
                return self._incoming.pop(0)
        if not self.is_accepted and (self._left_before_accept or self.has_ended):
            if self.behaviour.receive_before_accept == "connect":
                return {"type": "websocket.connect"}
            if self.behaviour.receive_before_accept == "waits" and not self._is_refused:
                return _NOTHING
        return self._disconnect() if self.has_left or self.has_ended else _NOTHING

    def _disconnect(self) -> Message:
        if not self._codes:
            if isinstance(self.behaviour.then, Raises):
                self._has_failed = True
                raise self.behaviour.then.make()
            return _NOTHING
        code = self._codes[0]
        if code == NOTHING_MORE:
            return _NOTHING
        if len(self._codes) > 1 or self.behaviour.then != "repeats":
            del self._codes[0]
        self._is_told = True
        message: dict[str, Any] = {"type": "websocket.disconnect"}
        if code == CLIENTS_CODE:
            message["code"] = 1000 if self.client.close_code is None else self.client.close_code
        elif code is not None:
            message["code"] = code
        if self.behaviour.gives_reason:
            message["reason"] = self.client.close_reason if code == CLIENTS_CODE else ""
        return message

    def _was_left(self) -> None:
        if self.has_ended:
            return
        behaviour = self.behaviour
        self._left_before_accept = not self.is_accepted
        codes = behaviour.codes_of_loss
        if self.left_by == "rst" and behaviour.codes_of_reset is not None:
            codes = behaviour.codes_of_reset
        if self.left_by == "close":
            codes = behaviour.codes_of_close
        elif self._left_before_accept and behaviour.codes_before_accept is not None:
            codes = behaviour.codes_before_accept
        self._codes = list(codes)

    def _took(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.is_accepted = True
            self.deliver(*self.client.receives())
        elif kind == "websocket.close" or (
            kind == "websocket.http.response.body" and not message.get("more_body", False)
        ):
            self.has_ended = True
            self._is_refused = not self.is_accepted
            self._codes = list(self._codes_after_end(kind))
            self._ring()

    def _codes_after_end(self, kind: str) -> tuple[Code, ...]:
        behaviour = self.behaviour
        codes: tuple[Code, ...] | None = None
        if kind == "websocket.http.response.body":
            codes = behaviour.codes_after_denial
        if codes is None and not self.is_accepted:
            codes = behaviour.codes_after_refusal
        return behaviour.codes_after_end if codes is None else codes

    def _late(self, message: Message) -> Outcome:
        kind = message["type"]
        outcome = _answer(self._answers(), kind, self.is_accepted)
        if kind == "websocket.send" and not self._left_before_accept:
            self._late_sends += 1
            if self._late_sends <= self.behaviour.sends_until_noticed and not (
                self.left_by == "rst" or self._has_failed
            ):
                return "silent"
            if isinstance(self.behaviour.then, Raises) and isinstance(outcome, Raises):
                self._codes.clear()  # from a send that failed on, its receive fails as well
        elif kind == "websocket.accept" and outcome == "silent":
            self.is_accepted = True
            self._ring()
        elif kind == "websocket.close":
            self._closes_late()
        return outcome

    def _answers(self) -> Answers:
        behaviour = self.behaviour
        if self._left_before_accept:
            return behaviour.before_accept
        if behaviour.unread_hides_disconnect and any(
            message["type"] == "websocket.receive" for message in self._incoming
        ):
            return Answers()
        if self._is_told and behaviour.received is not None:
            return behaviour.received
        return behaviour.closed if self.left_by == "close" and behaviour.closed is not None else behaviour.lost

    def _closes_late(self) -> None:
        code = self.behaviour.late_close_code
        if self.behaviour.late_refusal_codes is not None and not self.is_accepted:
            if self.behaviour.receive_before_accept == "waits":
                self._codes = []
                self._is_refused = True
            self._codes += self.behaviour.late_refusal_codes
            self._ring()
        elif code is not None:
            if self.behaviour.then != "repeats":
                self._codes.append(code)
            elif not self._left_before_accept:
                self._codes = [code]
            self._ring()

    def _after_end(self, message: Message) -> Outcome:
        behaviour = self.behaviour
        if self.is_accepted or behaviour.after_refusal is None:
            return _answer(behaviour.after_end, message["type"], is_accepted=True)
        return _answer(behaviour.after_refusal, message["type"], is_accepted=False)

    def _send_failed(self) -> None:
        self._late_sends = self.behaviour.sends_until_noticed

    def _still_delivers(self) -> bool:
        return super()._still_delivers() and not self._has_failed

    def _has_content(self, message: Message) -> bool:
        return bool(message["type"] == "websocket.send")


def between(client: Client, server: Server) -> SimulatedServer:
    """The far side that `client` has when it talks to `server`."""
    if isinstance(client, WebSocketClient):
        return WebSocketSimulatedServer(server.websocket, client=client)
    return HTTPSimulatedServer(server.http, client=client)


def _answer(answers: Answers, kind: str, is_accepted: bool) -> Outcome:
    if kind == "websocket.accept":
        return answers.accept
    if kind == "websocket.send":
        return answers.send
    if kind == "websocket.http.response.start":
        return answers.denial_start
    if kind == "websocket.http.response.body":
        return answers.denial_body
    return answers.close if is_accepted else answers.refuse


async def _become(outcome: Outcome, message: Message) -> None:
    if isinstance(outcome, Raises):
        raise outcome.make(message)
    if outcome == "blocks":
        await never_back()


async def never_back() -> None:
    await _runtime.new_waiter()


def _nothing() -> None:
    pass


def _never() -> bool:
    return False
