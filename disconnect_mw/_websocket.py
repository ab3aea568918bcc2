"""A WebSocket exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _messages
from ._connection import Connection
from ._errors import is_lost_websocket_error
from ._messages import CLOSE_REMAINING, HANDSHAKE_REMAINING, Message, after_websocket, field
from ._records import Phase
from ._state import Body, Cause


class WebSocketConnection(Connection):
    __slots__ = ()

    protocol = "websocket"
    is_http = False
    _DISCONNECT = "websocket.disconnect"
    _FIRST_REMAINING = HANDSHAKE_REMAINING
    _after = staticmethod(after_websocket)

    def _before_send(self, message: Mapping[str, Any]) -> None:
        if self._remaining:  # else complete, or muted
            self._remaining = after_websocket(self._remaining, message)
            if not self._remaining and self.reader is not None:
                self.reader.stop_reading()  # granian's send waits as long as any task is in its receive

    def received(self, message: Message) -> Message:
        kind = field(message, "type")
        if kind == self._DISCONNECT:
            message = _messages.with_code(message)
            self._on_disconnect(Cause.DISCONNECT_RECEIVED, message)
        elif self.reader is not None:
            self.reader.prefers_task = False
        if kind == "websocket.connect":
            self.body = Body.COMPLETE  # before the accept only the disconnect can still come
        return message

    def is_disconnect(self, exception: BaseException) -> bool:
        return is_lost_websocket_error(exception)

    def _may_read_ahead(self) -> bool:
        if self._remaining is HANDSHAKE_REMAINING:
            return self.body is Body.COMPLETE
        return self._remaining is CLOSE_REMAINING

    def _new_disconnect(self) -> Message:
        # No close frame came: 1006 (RFC 6455, 7.4.1).
        return {"type": self._DISCONNECT, "code": 1006, "reason": ""}

    def _phase(self) -> Phase:
        return "before the handshake" if self._remaining is HANDSHAKE_REMAINING else "while open"
