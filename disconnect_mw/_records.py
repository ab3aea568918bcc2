"""The public records of a disconnect: one made at once, one when the app has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["during the upload", "before the response", "during the response", "before the handshake", "while open"]

Ended = Literal["returned", "cancelled", "raised", "suppressed"]


@dataclass(frozen=True)
class Disconnect:
    """A client that left before the app had sent its last message."""

    protocol: Literal["http", "websocket"]
    method: str | None
    """Of the request; None for a WebSocket."""
    path: str
    peer: tuple[str, int] | None
    """Host and port, as in `scope["client"]`; None where the server does not state them."""
    phase: Phase
    """How far the exchange had come."""
    code: int | None
    """The close code of a WebSocket (RFC 6455, 7.4): 1005 where the close frame had none, 1006 where none came; else
    None."""
    seconds: float
    """From the call of the app until the disconnect was known."""

    @property
    def is_shutdown(self) -> bool:
        """Whether it was no client that left, but the server that shut down: close code 1012 (RFC 6455's registry).

        uvicorn gives a WebSocket that code.
        """
        return self.code == 1012


@dataclass(frozen=True)
class Exchange:
    """An exchange whose client left, once the app has ended."""

    disconnect: Disconnect
    status: int | None
    """Of the response that had begun by then, or the denial of a WebSocket."""
    messages_sent: int | None
    """What the server took, the start of the response included. None where it was not counted: with logger
    `disconnect_mw` above INFO, since it would cost each message."""
    bytes_sent: int | None
    """Their payload, without files that the server itself sends (pathsend, zerocopysend). None as above."""
    messages_muted: int
    """What the app sent after the disconnect."""
    bytes_muted: int
    seconds: float
    """For which the app went on after the disconnect was known."""
    ended: Ended
    """`"cancelled"`: by this middleware or by other code. `"suppressed"`: with an exception that the disconnect caused,
    and that ended at the edge of this middleware."""
    exception: str | None
    """The class name of the exception that the app raised, and that this middleware let pass or suppressed."""
