"""An HTTP exchange."""

from __future__ import annotations

import contextvars
import functools
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from . import _messages
from ._cancellation import in_shield, is_left_stuck
from ._connection import Connection, package_of_call
from ._frames import is_running
from ._messages import BODY_REMAINING, RESPONSE_REMAINING, Message, after_http, field
from ._reader import Reader
from ._records import Phase
from ._sends import Counter
from ._spec_version import AskedVersion, replace_version, right_version, stated_version, states_raising
from ._state import Body, Cause, Receiver

_APP, _READER = Receiver.APP, Receiver.READER
_PARTIAL, _COMPLETE = Body.PARTIAL, Body.COMPLETE

# Turns of the event loop in which a response begins whose framework has looked at the version. Through one
# BaseHTTPMiddleware it takes six.
_TURNS_TO_BEGIN = 32

# Servers that keep a connection open for their keep-alive once its response is complete, lost as it is: two tasks, 5 s.
_KEEP_LOST_CONNECTIONS = ("anycorn", "hypercorn")

_OURS = f"{__package__}."

# Whose responses listen for the disconnect where `send` does not raise, and so take the request body.
_TAKES_BODY = "starlette.responses"

# Seconds that a task has which received nothing but the disconnect.
_SECONDS_OF_LISTENER = 1.0


class HTTPConnection(Connection):
    __slots__ = ()
    protocol = "http"
    is_http = True
    DISCONNECT = "http.disconnect"
    usual_version: ClassVar[str | None] = None  # that the server states, where that is known before it is asked
    _FIRST_REMAINING = RESPONSE_REMAINING
    _after = staticmethod(after_http)

    async def receive(self) -> Message:
        """As `Connection.receive`, which this repeats for the usual path: each chunk of an upload comes this way."""
        if self._reading is not None:
            return await self.require_reader().receive()
        self._reading = _APP  # not which task: to note that would cost each chunk, and `_wake_reading` can find it
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
            except (KeyError, TypeError):
                if field(message, "type") == "http.request":  # without `more_body`, which is false then
                    self.body = _COMPLETE
                    self._reading = _READER
                    return message
        return await self._answer(message)

    def _wake_reading(self) -> None:
        backend, call, codes = self.backend, self.server_receive, (HTTPConnection.receive.__code__,)
        tasks = (*backend.tasks_in(call), *backend.own_tasks(self.task))  # nearly always it is the exchange's own
        if not any(self._wake_if_reading(*found) for found in backend.suspended_in(codes, self, call, tasks)):
            backend.search(codes, self, self._wake_if_reading)

    def _wake_if_reading(self, task: Any, awaited: list[Any]) -> bool:
        """`task` is in `receive`, where it awaits this. Wakes it unless it awaits the reader."""
        is_reading = self.is_being_read() and bool(awaited) and not is_running(Reader.receive.__code__, awaited[0])
        if is_reading:
            self.require_reader().wake_app(task)
        return is_reading

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
        elif kind == self.DISCONNECT:
            self._on_disconnect(Cause.DISCONNECT_RECEIVED, message)
        return message

    def _may_read_ahead(self) -> bool:
        if self.body is Body.UNREAD:
            # An app that answers without having read will not read: Starlette's stream, where it does not listen.
            return self._remaining is not RESPONSE_REMAINING or not self._announces_body()
        return self.body is Body.COMPLETE or self._reads_further()

    def _reads_further(self) -> bool:
        """Whether the app answers and does not listen: the disconnect lies behind all of the body that it leaves."""
        return self._remaining is not RESPONSE_REMAINING and self.root.is_to_raise()

    def _announces_body(self) -> bool:
        return self.scope is not None and _messages.announces_body(self.scope)

    def withholds_disconnect(self) -> bool:
        root = self.root
        if root.scope is None or self._awaits_body():
            return False
        of_root, disconnected = root.parts.cancellation, root.disconnected
        is_over = of_root is not None and of_root.is_over
        if disconnected is not None and disconnected.unsent and not is_over:
            if root.options.policy == "finish":
                return True
            if root.options.policy == "cancel" and root.options.seconds_to_cancel and root.token is not None:
                return True
        return of_root is not None and bool(of_root.blocks) and not any(map(in_shield, of_root.blocks))

    def _awaits_body(self) -> bool:
        """Whether a request body is announced that the app has not received in full."""
        if self.body is Body.COMPLETE:
            return False
        return self.body is Body.PARTIAL or self._announces_body()

    def _seconds_to_clean_up(self) -> float:
        # Whoever receives after the whole body does so for the disconnect alone, and should have ended the app by then.
        return super()._seconds_to_clean_up() if self._awaits_body() else _SECONDS_OF_LISTENER

    def take_empty_body(self) -> Message | None:
        if self.body is not Body.UNREAD:
            return None
        self.body = Body.COMPLETE  # it is asked only where nothing was announced
        return {"type": "http.request", "body": b"", "more_body": False}

    # What the scope states (P4). All of this is the root's.

    def set_spec_version(self, scope: Any) -> None:
        parts, is_muted = self.parts, self.options.policy == "mute"
        asked, stated = parts.version, parts.stated or self.usual_version
        if stated is None:
            try:
                asgi = scope["asgi"]
                if asgi["spec_version"] == "2.3" and scope["method"] == "GET" and asked is None:  # as nearly always
                    if not is_muted:
                        scope["asgi"] = asgi = asgi.copy()  # a server may share one dict among requests
                        asgi["spec_version"] = "2.4"
                        self.own_parts().stated = "2.3"
                    return
            except (AttributeError, KeyError, TypeError):
                pass
            stated = stated_version(scope)
        if asked is None and not is_muted and not self.asks_for_body(scope):  # the same at every look
            version = right_version(stated, True)
            if version != stated:
                if self.usual_version is None:
                    self.own_parts().stated = stated
                replace_version(scope, version)
        elif asked is not None or states_raising(stated) or self.asks_for_body(scope):
            self.ask_for_spec_version(scope, stated)
        elif stated is not None:
            version = right_version(stated, False)
            if version != stated_version(scope):
                replace_version(scope, version)

    def set_usual_version(self, scope: Any, has_body: bool) -> None:
        """As `set_spec_version`, at less cost, for the usual exchange: 2.3 is stated, and a body announced."""
        asked = self.own_parts().version = AskedVersion(scope["asgi"])
        asked.ask_about_body(self._look)
        scope["asgi"] = asked

    @staticmethod
    def asks_for_body(scope: Any) -> bool:
        """Whether a body is announced that a listener might take. (Nobody expects that of a GET, bare.)"""
        return scope.get("method") != "GET" and _messages.announces_body(scope)

    def ask_for_spec_version(self, scope: Any, stated: object) -> None:
        """Have `scope`, and its copies, state what is right each time that somebody looks."""
        parts = self.own_parts()
        asked = parts.version
        if asked is None:
            asked = parts.version = AskedVersion()
            asked.stated = stated
        if scope.get("asgi") is not asked:
            asked.ask(scope, self._look, self.states_raising())

    def states_raising(self) -> bool:
        """Whether frameworks are to leave the disconnect to us, and the request body to whoever reads it."""
        if self.options.policy != "mute":
            return True
        # A listener would take the body that a stream is about to read, or spin on a middleware that replays one.
        holds_input = self.reader is not None and self.reader.holds_input()
        if (self.body is not Body.COMPLETE or holds_input) and self._announces_body():
            return True
        has_received = self.body is Body.PARTIAL or (self.body is Body.COMPLETE and not holds_input)
        return has_received and self.parts.version is not None and states_raising(self.parts.version.stated)

    def _look(self, looker: str) -> bool:
        """A module looks whether `send` raises. Note what it will rely on, until the response begins."""
        raises = self.states_raising()
        if looker.startswith(_OURS):  # an install further in
            return raises
        asked, disconnected = self.parts.version, self.disconnected
        remaining = self._remaining if disconnected is None else disconnected.unsent
        if asked is not None and remaining is RESPONSE_REMAINING:
            asked.is_relied_on = raises
            if raises:
                self.backend.call_in(self.token, functools.partial(self._relied_on, contextvars.copy_context()))
        return raises

    def _relied_on(self, context: contextvars.Context) -> None:
        """Somebody relies on `send` to raise, and does not listen."""
        self.watch(context)  # nobody else detects the disconnect: a server's send may be silent
        self._read_away(context, _TURNS_TO_BEGIN)

    def _read_away(self, context: contextvars.Context, turns: int) -> None:
        """Read the body that the app leaves unread while it answers, as the framework's listener would have.

        A client may send all of it before it reads the answer. An app that answers by itself may read it later.
        """
        asked = self.parts.version
        if (
            asked is None
            or not asked.is_relied_on
            or states_raising(asked.stated)
            or self.disconnect_message is not None
            or not self._awaits_body()
        ):
            return
        if self._reads_further() and self._is_answered_by(_TAKES_BODY):
            self.require_reader().read_away(context)
        elif turns:
            self.backend.call_soon(functools.partial(self._read_away, context, turns - 1))

    def _is_answered_by(self, module: str) -> bool:
        scope = self.backend.app_scope(self.task)
        return scope is not None and scope.is_in_module(module)

    def check(self, context: contextvars.Context) -> None:
        super().check(context)
        self._read_away(context, 0)

    def is_to_raise(self) -> bool:
        """Whether the app, or its framework, relies on `send` to raise."""
        asked = self.parts.version
        return self.options.policy != "mute" or (asked is not None and asked.is_relied_on)

    def _raises(self, message: Message) -> bool:
        root = self.root
        if root.options.policy == "raise":
            return not (self._reports_error(message) or self._is_left_stuck())
        # BaseHTTPMiddleware makes a chunk and an empty end of a response in one piece: the first chunk is muted.
        disconnected = self.disconnected
        return (
            root.options.policy == "mute"
            and root.is_to_raise()
            and bool(field(message, "more_body"))
            and disconnected is not None
            and disconnected.chunks_muted > 1
        )

    def _reports_error(self, message: Message) -> bool:
        """Whether it is of a response of 500 or more that begins after the disconnect: a framework's for a bug.

        Raised there, `ClientDisconnected` would take the place of the bug (P5). An inner install makes a 499 of it.
        """
        assert self.disconnected is not None
        start = message if field(message, "type") == "http.response.start" else self.disconnected.start
        status = None if start is None else field(start, "status")
        return isinstance(status, int) and status >= 499

    def _is_left_stuck(self) -> bool:
        scope = self.backend.app_scope(self.task)
        return scope is not None and is_left_stuck(scope)

    def is_whole_body(self, messages: list[Message]) -> bool:
        # Hypercorn and granian make two messages of the smallest body.
        length = None if self.scope is None else _messages.announced_length(self.scope)
        return bool(length) and sum(map(_messages.payload, messages)) == length

    def _without_keep_alive(self, scope: Any, messages: list[Message]) -> list[Message]:
        if not messages or sys.modules.keys().isdisjoint(_KEEP_LOST_CONNECTIONS):
            return messages
        server = self.server()
        if server not in _KEEP_LOST_CONNECTIONS or scope.get("http_version") not in ("1.0", "1.1"):
            return messages
        assert self.disconnected is not None
        if field(messages[0], "type") != "http.response.start":  # that the rest is missing closes the connection
            is_direct = package_of_call(self.server_send) == server
            return [] if is_direct and not _messages.payload(messages[0]) else messages
        if self.disconnected.has_whole_response():  # for a client that may have half-closed only
            return messages
        headers = [*(messages[0].get("headers") or ()), (b"connection", b"close")]
        return [{**messages[0], "headers": headers}, *messages[1:]]

    def _new_disconnect(self) -> Message:
        return {"type": self.DISCONNECT}

    def _phase(self) -> Phase:
        if self._remaining is not RESPONSE_REMAINING:
            return "during the response"
        return "during the upload" if self.body is Body.PARTIAL else "before the response"


class CountingHTTPConnection(HTTPConnection):
    """One that counts what is sent: in its own `send`, since another frame would cost twice as much."""

    __slots__ = ("bytes_sent", "messages_sent")

    messages_sent: int
    bytes_sent: int

    def count(self) -> None:
        """It does from the beginning."""

    @property
    def counter(self) -> Counter:
        return self

    async def send(self, message: Message) -> Any:
        """As `Connection.send`, which this repeats."""
        before, send = self._remaining, self._send
        try:
            if before is RESPONSE_REMAINING and message["type"] == "http.response.start" and "trailers" not in message:
                self._start = message
                self._remaining = BODY_REMAINING
                self.messages_sent += 1
            elif before:  # else complete, or muted
                self.messages_sent += 1
                if not message.get("more_body"):
                    if before is BODY_REMAINING and message["type"] == "http.response.body":
                        self._remaining = ()
                    else:
                        self._before_send(message)
                if "body" in message:
                    self.bytes_sent += len(message["body"])
        except (AttributeError, KeyError, TypeError):
            pass
        try:
            return await send(message)
        except BaseException as exception:
            if not await self._send_failed(message, before, exception):
                raise
            cause = exception
        try:
            return await self._mute(message, cause)
        finally:
            del cause

    sends_by = (send.__code__,)


class WatchedHTTPConnection(HTTPConnection):
    """HTTP/1.1, by a server that states version 2.3, with options that need no more than a watcher.

    What it needs to know of that is in its class, so it has no `Parts` at first.
    """

    __slots__ = ()

    usual_version = "2.3"

    def set_usual_version(self, scope: Any, has_body: bool) -> None:
        """As `set_spec_version`, at less cost for what is no request with a body."""
        if has_body:
            self.set_spec_version(scope)
        else:
            scope["asgi"] = {**scope["asgi"], "spec_version": "2.4"}


class ToldHTTPConnection(WatchedHTTPConnection, CountingHTTPConnection):
    """One with logger `disconnect_mw` at INFO."""

    __slots__ = ()
