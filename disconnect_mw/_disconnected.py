"""What is kept from the disconnect on."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from . import _messages
from ._messages import Message, Remaining
from ._records import Disconnect, Ended, Exchange


class Disconnected:
    """State kept from the moment a client's disconnect is known.

    Created once per exchange, by `Connection._on_disconnect`; an exchange whose client stays has none. Counts what the
    app sends after that moment and holds what outer middleware still expects (P11).
    """

    __slots__ = (
        "bytes_muted",
        "chunks_muted",
        "exchange",
        "is_cancelled",
        "is_guessed",
        "message",
        "messages_muted",
        "record",
        "remaining",
        "since",
        "start",
        "unsent",
    )

    def __init__(self, message: Message, record: Disconnect | None, remaining: Remaining) -> None:
        self.since = monotonic()
        self.message = message  # what every `receive` answers
        self.record = record  # None where the exchange was over
        self.remaining = remaining  # what the server, and outer middleware, have not got
        self.unsent = remaining  # what the app has not sent, not even into a muted send
        self.is_guessed = False  # from an exception alone: the server has not delivered the disconnect
        self.is_cancelled = False  # the app, by this middleware
        self.start: Message = None  # the app's own start, sent after the disconnect
        self.messages_muted = self.bytes_muted = self.chunks_muted = 0
        self.exchange: Exchange | None = None  # once the app has ended

    def count(self, message: Message) -> None:
        self.messages_muted += 1
        self.bytes_muted += _messages.payload(message)
        if _messages.field(message, "more_body"):
            self.chunks_muted += 1

    def for_outside(self, message: Message) -> Message:
        """A message that the app sends after the disconnect, for whoever stands outside (P11).

        After a cut upload an error is a framework's word for a client that has left: Starlette's 500, FastAPI's 400.
        """
        status = _messages.field(message, "status")
        is_cut = self.record is not None and self.record.phase == "during the upload"
        return {**message, "status": 499} if is_cut and isinstance(status, int) and status >= 400 else message

    def take_remaining(self, first: Remaining, after: Callable[[Remaining, Any], Remaining]) -> list[Message]:
        """The messages that complete the response for outer middleware; only once.

        `first` is what remains of an exchange of this protocol at its beginning. An accepted WebSocket needs no message
        after its disconnect.
        """
        remaining, self.remaining = self.remaining, ()
        if remaining is _messages.CLOSE_REMAINING:
            return []
        if self.is_guessed and remaining is not first:
            return []  # should the client be there after all: better a response that is cut than one that looks whole
        if self.start is not None and remaining is first:
            start = _messages.without_length(self.for_outside(self.start))
            return [start, *_messages.copy_messages(after(remaining, start))]
        return _messages.copy_messages(remaining)

    def make_exchange(
        self, raised: BaseException | None, seconds: float, status: int | None, sent: int | None, payload: int | None
    ) -> Exchange:
        """The record of the exchange, whose app has ended; `sent` and `payload` are None if they were not counted."""
        ended: Ended = "returned"
        if isinstance(raised, Exception):
            ended = "raised"
        elif raised is not None or self.is_cancelled:
            ended = "cancelled"
        assert self.record is not None
        self.exchange = Exchange(
            self.record,
            status,
            sent,
            payload,
            self.messages_muted,
            self.bytes_muted,
            seconds,
            ended,
            type(raised).__name__ if ended == "raised" else None,
        )
        return self.exchange
