"""What is kept from the disconnect on."""

from __future__ import annotations

import enum
from collections.abc import Callable
from time import monotonic
from typing import Any

from . import _messages
from ._messages import Message, Remaining
from ._records import Disconnect, Ended, Exchange

# Bytes of a response in one piece that are kept for a client that may have half-closed only.
_BYTES_TO_KEEP = 1 << 16


class _Body(enum.Enum):
    """What the app has sent of the body of its response after the disconnect."""

    NONE = "none"
    BEGUN = "one piece, and no end yet"
    WHOLE = "one piece"
    LOST = "more than is kept"


class Disconnected:
    """State kept from the moment a client's disconnect is known.

    Created once per exchange, by `Connection._on_disconnect`; an exchange whose client stays has none. Counts what the
    app sends after that moment and holds what outer middleware still expects (P11).
    """

    __slots__ = (
        "_body",
        "_piece",
        "at_end",
        "bytes_muted",
        "chunks_muted",
        "exchange",
        "is_cancelled",
        "is_guessed",
        "length",
        "message",
        "messages_muted",
        "record",
        "remaining",
        "since",
        "start",
        "unsent",
    )

    def __init__(self, message: Message, record: Disconnect | None, remaining: Remaining) -> None:
        self.since: float = monotonic()
        self.message: Message = message  # what every `receive` answers
        self.record: Disconnect | None = record  # None where the exchange was over
        self.remaining: Remaining = remaining  # what the server, and outer middleware, have not got
        self.unsent: Remaining = remaining  # what the app has not sent, not even into a muted send
        self.is_guessed: bool = False  # from an exception alone: the server has not delivered the disconnect
        self.is_cancelled: bool = False  # the app, by this middleware
        self.start: Message = None  # the app's own start, sent after the disconnect
        self.length: int | None = None  # of the body, as a start before it has announced
        self._body: _Body = _Body.NONE
        self._piece = b""  # of the body
        self.messages_muted: int = 0
        self.bytes_muted: int = 0
        self.chunks_muted: int = 0
        self.exchange: Exchange | None = None  # once the app has ended
        self.at_end: tuple[Callable[[Exchange], object], ...] = ()  # what observers want to be called with that

    def count(self, message: Message) -> None:
        self.messages_muted += 1
        self.bytes_muted += _messages.payload(message)
        if _messages.field(message, "more_body"):
            self.chunks_muted += 1

    def keep(self, kind: Any, message: Message) -> None:
        """Keep the app's own response as long as it is one piece: a client that has only half-closed gets it (P11).

        So with a body whose start, and announced length, the server has had already: BaseHTTPMiddleware outside would
        end it before that.
        """
        if kind in _messages.STARTS and self.start is None:
            self.start, self.length = message, None
        elif kind == "http.response.body" and (self.start is not None or self.length):
            self._keep_body(message.get("body", b""), bool(_messages.field(message, "more_body")))
        elif kind is not None:
            self._body = _Body.LOST

    def _keep_body(self, body: Any, goes_on: bool) -> None:
        is_payload = isinstance(body, (bytes, bytearray, memoryview))
        if is_payload and self._body is _Body.NONE and memoryview(body).nbytes <= _BYTES_TO_KEEP:
            self._piece = bytes(body)
            self._body = _Body.BEGUN
        elif self._body is not _Body.BEGUN or not is_payload or len(body):
            self._body, self._piece = _Body.LOST, b""
        if self._body is _Body.BEGUN and not goes_on:
            self._body = _Body.WHOLE

    def lose_body(self) -> None:
        """The server was given a part of the body, and may have taken it: it is never sent again."""
        self._body, self._piece = _Body.LOST, b""

    def has_whole_response(self) -> bool:
        """Whether the app has sent all of a body in one piece after the disconnect, and not in a clean-up."""
        return self._body is _Body.WHOLE and not self.is_cancelled

    def for_outside(self, message: Message) -> Message:
        """A message that the app sends after the disconnect, for whoever stands outside (P11).

        After a cut upload an error is a framework's word for a client that has left: Starlette's 500, FastAPI's 400.
        """
        status = _messages.field(message, "status")
        is_cut = self.record is not None and self.record.phase == "during the upload"
        return {**message, "status": 499} if is_cut and isinstance(status, int) and status >= 400 else message

    def _last(self) -> Message:
        return {"type": "http.response.body", "body": self._piece, "more_body": False}

    def take_remaining(self, first: Remaining, after: Callable[[Remaining, Any], Remaining]) -> list[Message]:
        """The messages that complete the response for outer middleware; only once.

        `first` is what remains of an exchange of this protocol at its beginning. An accepted WebSocket needs no message
        after its disconnect.
        """
        remaining, self.remaining = self.remaining, ()
        if remaining is _messages.CLOSE_REMAINING:
            return []
        is_whole = self.has_whole_response()
        if is_whole and remaining is first:
            return [self.for_outside(self.start), self._last()]
        if self.is_guessed and remaining is not first:
            return []  # should the client be there after all: better a response that is cut than one that looks whole
        if is_whole and remaining is _messages.BODY_REMAINING and self.length == len(self._piece):
            return [self._last()]
        if self.start is not None and remaining is first:
            start = _messages.without_length(self.for_outside(self.start))
            return [start, *_messages.copy_messages(after(remaining, start))]
        return _messages.copy_messages(remaining)

    def make_exchange(
        self,
        raised: BaseException | None,
        suppressed: BaseException | None,
        seconds: float,
        status: int | None,
        sent: int | None,
        payload: int | None,
    ) -> Exchange:
        """The record of the exchange, whose app has ended; `sent` and `payload` are None if they were not counted.

        `raised` is what it raised and was let pass, `suppressed` what was not.
        """
        ended: Ended = "returned"
        if isinstance(raised, Exception):
            ended = "raised"
        elif raised is not None or self.is_cancelled:
            ended = "cancelled"
        elif suppressed is not None:
            ended, raised = "suppressed", suppressed
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
            type(raised).__name__ if ended in ("raised", "suppressed") else None,
        )
        return self.exchange
