"""A WebSocket exchange."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any

from . import _messages
from ._connection import Connection
from ._errors import is_lost_websocket_error
from ._messages import CLOSE_REMAINING, DENIAL_BODY_REMAINING, HANDSHAKE_REMAINING, Message, after_websocket, field
from ._records import Phase
from ._spec_version import replace_version, right_version, stated_version
from ._state import Body, Cause, Listener

# Seconds for which the sends of an app are muted whose other task has received the disconnect, and ends it; and of an
# app that has heard its peer before, and will come back to `receive`.
_SECONDS_TO_END = 10.0
_SECONDS_TO_COME_BACK = 1.0


class WebSocketConnection(Connection):
    __slots__ = ("has_heard",)

    has_heard: bool  # the app has received something that the peer said

    protocol = "websocket"
    is_http = False
    DISCONNECT = "websocket.disconnect"
    _FIRST_REMAINING = HANDSHAKE_REMAINING
    _after = staticmethod(after_websocket)

    def _before_send(self, message: Mapping[str, Any]) -> None:
        if self._remaining:  # else complete, or muted
            self._remaining = after_websocket(self._remaining, message)
            if self._remaining is DENIAL_BODY_REMAINING:
                self._start = message
            if not self._remaining and self.reader is not None:
                self.reader.stop_reading()  # granian's send waits as long as any task is in its receive

    def received(self, message: Message) -> Message:
        kind = field(message, "type")
        if kind == self.DISCONNECT:
            message = _messages.with_code(message)
            self._on_disconnect(Cause.DISCONNECT_RECEIVED, message)
        elif self.reader is not None:
            self.reader.prefers_task = False
        if kind == "websocket.connect":
            self.body = Body.COMPLETE  # before the accept only the disconnect can still come
        return message

    def delivered(self, message: Message) -> Message:
        if field(message, "type") == "websocket.receive":
            self.has_heard = True
        return message

    def set_spec_version(self, scope: Any) -> None:
        stated, raises = stated_version(scope), self.options.policy == "raise"
        version = right_version(stated, raises)
        if version != stated and (raises or stated is not None):
            replace_version(scope, version)

    def _raises(self, message: Message) -> bool:
        """An app that listens is told by the message; one that only sends by the exception, and must stop (P7).

        Tried on Channels, Quart, and apps that only send.
        """
        if not self.root.is_to_raise() or field(message, "type") in _messages.WEBSOCKET_ENDS:
            return False
        listener, now = self._listener(), monotonic()
        if self.reader is not None and listener is Listener.TOLD:
            return self.reader.has_told_caller() or now - self.reader.told_at >= _SECONDS_TO_END
        if listener is Listener.WAITS:
            return False
        assert self.disconnected is not None
        return not self.has_heard or now - self.disconnected.since >= _SECONDS_TO_COME_BACK

    def is_disconnect(self, exception: BaseException) -> bool:
        return is_lost_websocket_error(exception)

    def _may_read_ahead(self) -> bool:
        if self._remaining is HANDSHAKE_REMAINING:
            return self.body is Body.COMPLETE
        return self._remaining is CLOSE_REMAINING

    def _new_disconnect(self) -> Message:
        # No close frame came: 1006 (RFC 6455, 7.4.1).
        return {"type": self.DISCONNECT, "code": 1006, "reason": ""}

    def _phase(self) -> Phase:
        if self._remaining is DENIAL_BODY_REMAINING:
            return "during the response"
        return "before the handshake" if self._remaining is HANDSHAKE_REMAINING else "while open"
