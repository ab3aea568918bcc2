"""An HTTP exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _messages
from ._connection import Connection
from ._messages import RESPONSE_REMAINING, Message, after_http, field
from ._records import Phase
from ._state import TRANSITIONS, Body, Cause


class HTTPConnection(Connection):
    __slots__ = ()

    protocol = "http"
    can_be_peeked = True  # Starlette's request.is_disconnected()
    _FIRST_REMAINING = RESPONSE_REMAINING
    _after = staticmethod(after_http)

    def _before_send(self, message: Mapping[str, Any]) -> None:
        before = self._remaining
        if before:  # else complete, or muted
            remaining = self._remaining = after_http(before, message)
            if before is RESPONSE_REMAINING:
                self._start = message
            if not remaining:
                self.state = TRANSITIONS[self.state, Cause.LAST_MESSAGE]

    def received(self, message: Message) -> Message:
        kind = field(message, "type")
        if kind == "http.request":
            self.body = Body.PARTIAL if message.get("more_body") else Body.COMPLETE
            is_complete = self.require_reader().prefers_task = self.body is Body.COMPLETE
            if is_complete and self.watcher is not None and self.watcher.has_checked:
                self.watcher.check()  # now, not a second later
        elif kind == "http.disconnect":
            self._on_disconnect(Cause.DISCONNECT_RECEIVED, message)
        return message

    def _may_read_ahead(self) -> bool:
        if self.body is Body.UNREAD:
            # An app that answers without having read will not read: Starlette's stream, under "raise".
            return self._remaining is not RESPONSE_REMAINING or not _messages.announces_body(self.scope)
        return self.body is Body.COMPLETE

    def is_whole_body(self, messages: list[Message]) -> bool:
        # Hypercorn and granian make two messages of the smallest body.
        length = None if self.scope is None else _messages.announced_length(self.scope)
        return bool(length) and sum(map(_messages.payload, messages)) == length

    def _new_disconnect(self) -> Message:
        return {"type": "http.disconnect"}

    def status(self) -> int | None:
        record = self.record()
        return self._start.get("status") if record is not None and record.phase == "during the response" else None

    def _phase(self) -> Phase:
        if self._remaining is not RESPONSE_REMAINING:
            return "during the response"
        return "during the upload" if self.body is Body.PARTIAL else "before the response"
