"""The simulated server of an HTTP exchange."""

from __future__ import annotations

from collections.abc import Iterable

from ..._messages import RESPONSE_REMAINING, after_http
from .._behaviour import HTTPServerBehaviour, Outcome
from .._clients import HTTPClient
from ._base import NO_MESSAGE, Message, SimulatedServer

# The first `send` to a socket that the client has closed is answered by an RST, which the second meets with.
_SENDS_UNTIL_RST = 2


class HTTPSimulatedServer(SimulatedServer):
    """Stands in for a server in one HTTP exchange.

    `incoming` replaces the `http.request` messages of `client`.
    """

    _WAYS_TO_LEAVE = ("fin", "rst", "half")

    def __init__(
        self,
        behaviour: HTTPServerBehaviour | None = None,
        incoming: Iterable[Message] | None = None,
        client: HTTPClient | None = None,
    ) -> None:
        self.behaviour: HTTPServerBehaviour = HTTPServerBehaviour() if behaviour is None else behaviour
        self.client: HTTPClient = HTTPClient() if client is None else client
        super().__init__(self._requests() if incoming is None else incoming)
        self._remaining = RESPONSE_REMAINING
        self._disconnects = 0
        self._buffered = 0
        self._has_false_disconnect = False
        self._upload_is_cut = False
        self._body_was_read = False

    @property
    def calls_the_app(self) -> bool:
        """Whether the server calls the app at all. Daphne does not, for an upload that is cut."""
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

    # Receiving

    def _next_message(self) -> Message:
        if self._incoming and not self._drops_unread():
            message = self._incoming.pop(0)
            self.on_progress()
            if not self._incoming and self.client.leaves_after_chunks is not None:
                self.leave()
            self._body_was_read = not (isinstance(message, dict) and message.get("more_body"))
            return message
        if self._has_false_disconnect:
            return {"type": "http.disconnect"}
        if self._has_noticed_leave() or (self.has_ended and self.behaviour.disconnect_after_end):
            limit = self.behaviour.disconnects
            if self._upload_is_cut and self.behaviour.disconnects_of_cut_upload is not None:
                limit = self.behaviour.disconnects_of_cut_upload
            if limit is None or self._disconnects < limit:
                self._disconnects += 1
                return {"type": "http.disconnect"}
        return NO_MESSAGE

    def _drops_unread(self) -> bool:
        if self.has_ended:
            return self.behaviour.drops_unread and self.behaviour.disconnect_after_end
        return self.behaviour.drops_unread and self.has_left and not self._body_hides_leave()

    def _body_hides_leave(self) -> bool:
        """Whether unread body keeps the server from noticing that the client has left."""
        limit = self.behaviour.read_ahead
        if limit is None or self._sends_after_leave >= _SENDS_UNTIL_RST:
            return False
        return sum(len(message.get("body", b"")) for message in self._incoming) > limit

    def _has_noticed_leave(self) -> bool:
        at_once = self.behaviour.disconnect_comes == "at once" or self._upload_is_cut
        return self.has_left and (at_once or self._sends_after_leave > 0)

    def _client_left(self) -> None:
        requests = [message for message in self._incoming if isinstance(message, dict)]
        is_whole = self._body_was_read or any(not message.get("more_body") for message in requests)
        self._upload_is_cut = not is_whole

    def _wake_readers_for_disconnect(self) -> None:
        if self.behaviour.wakes_all:
            self._wake_readers()
        elif self._readers:
            self._readers[0].set()

    def _receive_cancelled(self) -> None:
        super()._receive_cancelled()
        if self.behaviour.false_disconnect and self._body_was_read:
            self._has_false_disconnect = True

    # Sending

    def _leaves_on_send(self) -> bool:
        return self.client.leaves_after_chunks is not None

    def _message_taken(self, message: Message) -> None:
        if self.delivered[-1:] != [message]:
            self._buffered += len(message.get("body", b""))
        self._remaining = after_http(self._remaining, message)
        if not self._remaining:
            self.has_ended = True
            self._wake_readers()

    def _send_failed(self) -> None:
        self._sends_after_leave += 1
        if self.behaviour.disconnect_comes == "after a send":
            self._disconnects = 0
            self._wake_readers_for_disconnect()

    def _take_after_leave(self, message: Message) -> Outcome:
        is_hidden = self._body_hides_leave()
        self._send_failed()
        if is_hidden:
            return "silent"
        if self.behaviour.send == "blocks":
            return self._buffer(message)
        return self.behaviour.send

    def _buffer(self, message: Message) -> Outcome:
        """Take a message into the buffer of a lost connection, which is never emptied again.

        The last message waits for that if anything is buffered, the others once the buffer is full. After a reset
        nothing more is buffered.
        """
        is_reset = self.left_by == "rst" and self.behaviour.send_after_reset is not None
        if not is_reset:
            self._buffered += len(message.get("body", b""))
        is_last = bool(self._remaining) and not after_http(self._remaining, message)
        if self._buffered and (is_last or (self._buffered >= self.behaviour.buffer_size and not is_reset)):
            return "blocks"
        return "silent"

    def _outcome_after_end(self, message: Message) -> Outcome:
        return self.behaviour.send_after_end

    def _has_content(self, message: Message) -> bool:
        return bool(message.get("body"))
