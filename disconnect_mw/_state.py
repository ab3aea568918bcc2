"""The state of an exchange, as one total table. Nothing is awaited here."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any


class State(enum.Enum):
    # Enum's own is a Python function.
    __hash__: Callable[[Any], int] = object.__hash__  # type: ignore[assignment]  # which is a method's function

    OPEN = "open"
    COMPLETE = "complete"  # the app has sent its last message
    DISCONNECTED = "disconnected"  # the client left before that


class Cause(enum.Enum):
    __hash__: Callable[[Any], int] = object.__hash__  # type: ignore[assignment]

    LAST_MESSAGE = "the app's last message is on its way"
    LAST_MESSAGE_REFUSED = "the server did not take the last message"
    DISCONNECT_RECEIVED = "the server delivered a disconnect"
    SEND_FAILED = "the server's send reported the disconnect"


# COMPLETE counts from the moment the last message is handed over, not from when the server's send returns: Hypercorn
# delivers http.disconnect, as the normal end of the exchange, before that send is back.
TRANSITIONS = {
    (State.OPEN, Cause.LAST_MESSAGE): State.COMPLETE,
    (State.OPEN, Cause.LAST_MESSAGE_REFUSED): State.OPEN,
    (State.OPEN, Cause.DISCONNECT_RECEIVED): State.DISCONNECTED,
    (State.OPEN, Cause.SEND_FAILED): State.DISCONNECTED,
    (State.COMPLETE, Cause.LAST_MESSAGE): State.COMPLETE,
    (State.COMPLETE, Cause.LAST_MESSAGE_REFUSED): State.OPEN,
    (State.COMPLETE, Cause.DISCONNECT_RECEIVED): State.COMPLETE,
    (State.COMPLETE, Cause.SEND_FAILED): State.COMPLETE,
    (State.DISCONNECTED, Cause.LAST_MESSAGE): State.DISCONNECTED,
    (State.DISCONNECTED, Cause.LAST_MESSAGE_REFUSED): State.DISCONNECTED,
    (State.DISCONNECTED, Cause.DISCONNECT_RECEIVED): State.DISCONNECTED,
    (State.DISCONNECTED, Cause.SEND_FAILED): State.DISCONNECTED,
}


class Body(enum.Enum):
    """How much of the request body the server has delivered."""

    UNREAD = "unread"
    PARTIAL = "partial"
    COMPLETE = "complete"


class Listener(enum.Enum):
    """Whether the app asks for the disconnect, and so acts on it by itself (P12)."""

    NONE = "no task asks"
    POLLS = "a receive was cancelled a moment ago, and the next one will come"
    WAITS = "a task waits in receive"
    TOLD = "a task has received the disconnect, or is about to"


class Receiver(enum.Enum):
    """Who reads from the server, if it is known no better."""

    APP = "app"  # one of the app's tasks
    READER = "reader"  # the reader, for every task that calls `receive`
