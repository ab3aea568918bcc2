"""What is told of a client that left: at once, and when the application has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["during the upload", "before the response", "during the response", "before the handshake", "while open"]

Ended = Literal["returned", "cancelled", "raised"]


@dataclass(frozen=True)
class Disconnect:
    """A client that left before the application had said its last word."""

    protocol: Literal["http", "websocket"]
    method: str | None
    """Of the request; None for a WebSocket."""
    path: str
    peer: tuple[str, int] | None
    """Host and port, as `scope["client"]` has them; None where the server does not say."""
    phase: Phase
    """How far the exchange had come."""
    code: int | None
    """The close code of a WebSocket (RFC 6455, 7.4): 1005 where the close frame had none, 1006 where none came; else
    None."""
    seconds: float
    """Since the application was called, until the departure was known."""


@dataclass(frozen=True)
class Exchange:
    """An exchange whose client left, when all is over."""

    disconnect: Disconnect
    status: int | None
    """Of the response that had begun by then (HTTP)."""
    messages_sent: int | None
    """What the server took, the start of the response included. None where nobody counted: under the default options
    with logger `disconnect_mw` above INFO, since it would cost each message."""
    bytes_sent: int | None
    """Their payload; of a file that the server itself sends (pathsend, zerocopysend) nothing. None as above."""
    messages_muted: int
    """What the application sent into the void."""
    bytes_muted: int
    seconds: float
    """For which the application went on after the departure was known."""
    ended: Ended
    """`"cancelled"`: by this middleware or by somebody else."""
    exception: str | None
    """The name of the class of what the application raised, and this middleware let pass."""
