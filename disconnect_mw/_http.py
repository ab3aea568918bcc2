"""An HTTP exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _messages
from ._connection import Connection
from ._frames import is_running
from ._messages import RESPONSE_REMAINING, Message, after_http, field
from ._reader import Reader
from ._records import Phase
from ._state import Body, Cause, Receiver

_APP, _READER = Receiver.APP, Receiver.READER
_PARTIAL, _COMPLETE = Body.PARTIAL, Body.COMPLETE


class HTTPConnection(Connection):
    __slots__ = ()

    protocol = "http"
    is_http = True
    _DISCONNECT = "http.disconnect"
    _FIRST_REMAINING = RESPONSE_REMAINING
    _after = staticmethod(after_http)

    async def receive(self) -> Message:
        """As `Connection.receive`, which this repeats for the usual path: each chunk of an upload comes this way."""
        if self._reading is not None:
            return await self.require_reader().receive()
        self._reading = _APP  # not which task: to note that would cost each chunk, and `_reading_task` can find it
        server_receive = self.server_receive
        try:
            message = await server_receive()
        except BaseException as exception:
            if not self._read_failed(exception):
                raise
            return await self.require_reader().receive()
        if self.reader is None:
            try:
                if message["more_body"]:
                    self.body = _PARTIAL
                    self._reading = None
                    return message
                if message["type"] == "http.request":  # as nearly all of them end
                    self.body = _COMPLETE
                    self._reading = _READER  # only the disconnect can still come
                    return message
            except (AttributeError, KeyError, TypeError):
                if field(message, "type") == "http.request":  # without `more_body`, which is false then
                    self.body = _COMPLETE
                    self._reading = _READER
                    return message
        return await self._answer(message)

    def _reading_task(self) -> Any:
        calls = [(self, self.server_receive)]
        code = HTTPConnection.receive.__code__
        for tasks in (() if self.task is None else (self.task,), None):  # nearly always it is the exchange's own
            for task, _, awaited in self.backend.suspended_in(code, calls, tasks):
                if awaited and not is_running(Reader.receive.__code__, awaited[0]):  # else it waits in the reader
                    return task
        return None

    def _before_send(self, message: Mapping[str, Any]) -> None:
        before = self._remaining
        if before:  # else complete, or muted
            self._remaining = after_http(before, message)
            if before is RESPONSE_REMAINING:
                self._start = message

    def received(self, message: Message) -> Message:
        kind = field(message, "type")
        if kind == "http.request":
            self.body = Body.PARTIAL if message.get("more_body") else Body.COMPLETE
            is_complete = self.body is Body.COMPLETE
            self.require_reader().prefers_task = is_complete
            watcher = self.parts.watcher
            if is_complete and watcher is not None and watcher.has_checked:
                watcher.check()  # now, not a second later
        elif kind == self._DISCONNECT:
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
        return {"type": self._DISCONNECT}

    def status(self) -> int | None:
        record = self.record()
        return self._start.get("status") if record is not None and record.phase == "during the response" else None

    def _phase(self) -> Phase:
        if self._remaining is not RESPONSE_REMAINING:
            return "during the response"
        return "during the upload" if self.body is Body.PARTIAL else "before the response"
