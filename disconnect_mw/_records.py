"""The public records of a disconnect: one made at once, one when the app has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["during the upload", "before the response", "during the response", "before the handshake", "while open"]

Ended = Literal["returned", "cancelled", "raised", "suppressed"]


@dataclass(frozen=True)
class Disconnect:
    """The record of a client that left before the app had sent its last message."""

    protocol: Literal["http", "websocket"]
    """Of the exchange; `"http"` is HTTP/1.1 as well as HTTP/2."""
    method: str | None
    """The method of the request; None for a WebSocket."""
    path: str
    """The path of the request, `scope["path"]`: decoded, without the query."""
    peer: tuple[str, int] | None
    """The client's host and port, `scope["client"]`; None where the server does not state them."""
    phase: Phase
    """How far the exchange had come."""
    code: int | None
    """The close code of a WebSocket (RFC 6455, 7.4): 1005 where the close frame had none, 1006 where no close frame
    came. None for HTTP."""
    seconds: float
    """The seconds from the call of the app until the disconnect was known."""

    @property
    def is_shutdown(self) -> bool:
        """Whether the server has shut down, and no client has left: close code 1012 (RFC 6455's registry).

        uvicorn gives a WebSocket that code.
        """
        return self.code == 1012


@dataclass(frozen=True)
class Exchange:
    """The record of an exchange whose client left, once the app has ended."""

    disconnect: Disconnect
    """The record of the client that left."""
    status: int | None
    """The status of the response, or of the denial of a WebSocket, if that had begun by then."""
    messages_sent: int | None
    """How many messages the server took before the disconnect, the start of the response included. None where they were
    not counted: with logger `disconnect_mw` above INFO, since that would cost each message."""
    bytes_sent: int | None
    """The bytes of these messages' bodies, without files that the server itself sends (pathsend, zerocopysend). None
    where messages were not counted."""
    messages_muted: int
    """How many messages the app sent after the disconnect, which the middleware dropped."""
    bytes_muted: int
    """The bytes of the bodies of these messages."""
    seconds: float
    """The seconds for which the app went on after the disconnect was known."""
    ended: Ended
    """How the app ended: it `"returned"`; it was `"cancelled"`, by this middleware or by other code; it `"raised"` an
    exception of its own; or the disconnect caused its exception, which this middleware `"suppressed"`."""
    exception: str | None
    """The class name of the exception with which the app ended, passed on or suppressed; None if it raised none."""
