"""One connection per exchange: it wraps the server's `receive` and `send` and tracks the disconnect.

While the client is there both pass straight through: a message costs one coroutine frame, and a check of what it
starts or completes. The disconnect becomes known when the server's `receive` returns it to a task of the app, when the
server's `send` raises or takes too long, or when the watcher has the reader receive it. Each calls `_on_disconnect`,
and so does an install further out, for the installs inside of it.
"""

from __future__ import annotations

import abc
import contextvars
import dataclasses
import functools
import math
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from types import CodeType
from typing import Any, ClassVar, Literal

from . import _backends, _blocked_sends, _messages, _telling
from ._backends import Backend, Call, SendTimedOut, Woken, is_cancelled_error
from ._blocked_sends import can_block
from ._cancellation import Block, Cancellation, Told, admits
from ._disconnected import Disconnected
from ._errors import ClientDisconnected, is_disconnect_error
from ._frames import is_running, outermost_package, package_of
from ._messages import BODY_REMAINING, RESPONSE_REMAINING, Message, Remaining, field
from ._options import Options, Policy
from ._reader import Reader
from ._records import Disconnect, Exchange, Phase
from ._sends import Counter, CountingSend, MutedSend, Send, TimedSend, WakingSend
from ._spec_version import AskedVersion
from ._state import TRANSITIONS, Body, Cause, Listener, Receiver, State
from ._watcher import DisconnectWaiters, Watcher, first_checks

Receive = Callable[[], Awaitable[Message]]

_OURS = __name__.partition(".")[0]

# Packages whose code may be the outermost of a task that another one has made.
_NO_SERVERS = frozenset({"", "anyio", "asgiref", "asyncio", "opentelemetry", "sentry_sdk", "trio"})

_OPEN, _COMPLETE, _DISCONNECTED = State.OPEN, State.COMPLETE, State.DISCONNECTED
_APP, _READER = Receiver.APP, Receiver.READER
_UNREAD = Body.UNREAD

# Seconds that a task has to clean up which was told that what it reads was cut: a body, a WebSocket.
_SECONDS_TO_CLEAN_UP = 10.0

# Seconds that completing the response may take: gunicorn's `asgi` worker waits up to 5 s in a close, Hypercorn's HTTP/2
# for ever.
_SECONDS_TO_COMPLETE = 0.05

# Seconds that middleware between two installs may go on after the app inside of it was cancelled.
_SECONDS_BETWEEN_INSTALLS = 1.0


class Parts:
    """What only some connections have."""

    __slots__ = (
        "before",
        "cancellation",
        "counter",
        "inner",
        "outer",
        "stated",
        "version",
        "waiters",
        "watcher",
    )

    watcher: Watcher | None  # from the first check on
    waiters: DisconnectWaiters | None
    cancellation: Cancellation | None
    counter: Counter | None  # of a WebSocket, where what is sent is counted
    stated: object  # the `spec_version` that the server states, where the scope states another one
    version: AskedVersion | None
    before: Any  # what the scope had in the place of this connection
    outer: Connection | None  # of the next install further out
    inner: tuple[Connection, ...]  # of installs further in

    def __init__(self) -> None:
        self.watcher = self.waiters = self.cancellation = self.counter = self.outer = self.before = None
        self.stated = self.version = None
        self.inner = ()


NO_PARTS = Parts()
"""Shared by all connections that have none of these; never set an attribute of it (see `own_parts`)."""


class Connection(abc.ABC):
    """One exchange: what the app and the server have said, and whether the client is still there."""

    __slots__ = (
        "_reading",
        "_remaining",
        "_send",
        "_start",
        "backend",
        "began",
        "body",
        "disconnect_message",
        "disconnected",
        "options",
        "parts",
        "reader",
        "scope",
        "server_receive",
        "server_send",
        "task",
        "token",
        "unchecked",
    )

    protocol: ClassVar[Literal["http", "websocket"]]
    is_http: ClassVar[bool]
    _FIRST_REMAINING: ClassVar[Remaining]
    DISCONNECT: ClassVar[str]  # the type of the message

    scope: Any  # None when the exchange is over, since the scope holds the connection
    options: Options
    began: float  # on the clock of monotonic()
    backend: Backend
    token: Any  # of the event loop
    task: Any  # of the app: asyncio's task, trio's AppScope; None where nothing can cancel it
    body: Body
    server_receive: Call
    server_send: Send
    _send: Send  # the server's, or what stands between
    _remaining: Remaining  # what the app has not sent yet; none from the disconnect on (see `Disconnected`)
    _start: Mapping[str, Any]  # of the response, once that has begun
    # What a `receive` finds. None: it may call the server's. A task of the app, or APP where it is not noted: that task
    # awaits the server's. READER: it asks the reader.
    _reading: Any
    unchecked: dict[Any, contextvars.Context] | None  # what has it until the first check, if it is to be watched
    reader: Reader | None  # made by the first `receive` that may not simply call the server's
    disconnect_message: Message | None  # what every `receive` answers, once it is known
    disconnected: Disconnected | None  # once it is known, if the app had not sent its last message before
    parts: Parts

    def open(self, scope: Any, receive: Receive, send: Send, options: Options, token: Any) -> None:
        """Stand between the app and the server. `token` is asyncio's running loop, or None.

        A plain method that sets only what every request needs, because a constructor costs as much as all of this.
        """
        self.scope = scope
        self.options = options
        self.server_receive = receive
        self.server_send = self._send = send
        self.body = _UNREAD
        self._remaining = self._FIRST_REMAINING
        self.parts = NO_PARTS
        self.disconnect_message = self.disconnected = self.reader = self._reading = self.unchecked = None
        self.began = monotonic()
        self.token = token
        if token is None:
            self.task = None
        else:
            backend = self.backend = _backends.asyncio_backend
            current_task = backend.current_task
            self.task = current_task(token)

    def open_without_task(self, app: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Be on the event loop that runs where that has no task of asyncio: trio's, or none.

        Returns `app`, on trio in a scope by which it can be cancelled. granian 1.7.6 drives the app by callbacks of
        asyncio, and trio may be a guest of asyncio.
        """
        self.backend, self.token = _backends.current()
        self.task = self.backend.app_scope(None)
        self.server_receive = self.backend.wakeable(self.server_receive)
        self.server_send = self._send = self.backend.wakeable(self.server_send)
        return app if self.task is None else functools.partial(self.task.run, app)

    def observe(self, counts: bool, watches: bool) -> None:
        """Add what is asked for: the time-out of `send`, the counter, the watcher."""
        if can_block() and self.token is not None:
            self.server_send = self._send = self.backend.noted(self.server_send)
        send_timeout = self.options.send_timeout
        if send_timeout is not None:
            self._send = TimedSend(self._send, send_timeout, self.backend)
        if counts:
            self.count()
        if watches:
            self.watch(contextvars.copy_context())

    def count(self) -> None:
        """Count what is sent from now on."""
        counter = self.own_parts().counter = CountingSend(self._send)
        self._send = counter.send

    @property
    def counter(self) -> Counter | None:
        """Of what the server was given, if that is counted."""
        return self.parts.counter

    def watch(self, context: contextvars.Context) -> None:
        """Detect the disconnect from now on, even if the app does not call `receive`."""
        if not self.is_watched() and self.scope is not None and self.token is not None:
            self.unchecked = first_checks.add(self, self.backend, self.token, context)

    def is_watched(self) -> bool:
        return self.unchecked is not None or self.parts.watcher is not None

    def require_watcher(self, context: contextvars.Context) -> Watcher:
        """The watcher, made with this context if there is none yet."""
        parts = self.own_parts()
        if parts.watcher is None:
            parts.watcher = Watcher(self.check, context)
        return parts.watcher

    def context(self) -> contextvars.Context | None:
        """The context of an exchange that is watched."""
        if self.parts.watcher is not None:
            return self.parts.watcher.context
        return None if self.unchecked is None else self.unchecked.get(self)

    def own_parts(self) -> Parts:
        """The parts of this connection, made if it has none yet."""
        if self.parts is NO_PARTS:
            self.parts = Parts()
        return self.parts

    @property
    def state(self) -> State:
        """DISCONNECTED if the disconnect became known while messages remained; else OPEN while any remain."""
        if self.disconnected is not None:
            return _DISCONNECTED
        return _OPEN if self._remaining else _COMPLETE

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.value}>"

    # The scope holds the connection, and must be copied and pickled with it as plain data is.

    def __copy__(self) -> Connection:
        return self

    def __deepcopy__(self, memo: Any) -> Connection:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    # What each protocol has of its own

    @abc.abstractmethod
    def received(self, message: Message) -> Message:
        """Note what the server delivered, and return it."""

    @abc.abstractmethod
    def _before_send(self, message: Mapping[str, Any]) -> None:
        """Note a message of the app's before the server has it."""

    @staticmethod
    @abc.abstractmethod
    def _after(remaining: Remaining, message: Mapping[str, Any]) -> Remaining:
        """What remains after `message`."""

    @abc.abstractmethod
    def _new_disconnect(self) -> Message:
        """The disconnect message where the server delivers none."""

    @abc.abstractmethod
    def _may_read_ahead(self) -> bool:
        """Whether a message may be read from the server before the app asks for it."""

    @abc.abstractmethod
    def _phase(self) -> Phase:
        """How far the exchange has come."""

    def is_disconnect(self, exception: BaseException) -> bool:
        """Whether a server raises `exception` from `send` and `receive` in place of delivering a disconnect."""
        return False

    def _reads_further(self) -> bool:
        """Whether more than one message may be read ahead."""
        return False

    def is_to_raise(self) -> bool:
        """Whether the app, or its framework, relies on `send` to raise."""
        return self.options.policy == "raise"

    @abc.abstractmethod
    def set_spec_version(self, scope: Any) -> None:
        """Have `scope` state the version that is right under the policy (P4). Called on the root."""

    @abc.abstractmethod
    def _raises(self, message: Message) -> bool:
        """Whether a message that the app sends after the disconnect raises `ClientDisconnected`."""

    def delivered(self, message: Message) -> Message:
        """Note what the app receives, and return it."""
        return message

    def take_empty_body(self) -> Message | None:
        """The body of a request without one, if the app has not received that; only once."""
        return None

    def is_whole_body(self, messages: list[Message]) -> bool:
        """Whether these messages, which the app has not read, have the whole request body."""
        return False

    def status(self) -> int | None:
        """The status of the response, or of the denial of a WebSocket, that had begun when the client left."""
        record = self.record()
        return self._start.get("status") if record is not None and record.phase == "during the response" else None

    # Receiving

    async def receive(self) -> Message:
        """The server's next message; once the disconnect is known, the disconnect, on every call.

        Without suspending, unless a shielded block withholds it.
        """
        if self._reading is not None:
            return await self.require_reader().receive()
        # Functions that a slot holds are called as variables: as attributes they cost twice as much.
        current_task, server_receive = self.backend.current_task, self.server_receive
        self._reading = current_task(self.token) or _APP
        try:
            message = await server_receive()
        except BaseException as exception:
            if not self._read_failed(exception):
                raise
            return await self.require_reader().receive()
        return await self._answer(message)

    async def _answer(self, message: Message) -> Message:
        """What the app receives, whose own call to the server has returned `message`.

        A message that the server returns after the disconnect has become known is dropped.
        """
        if self.reader is None:
            self._reading = None
        else:
            self._end_read(None)
        if field(message, "type") == self.DISCONNECT:
            reader = self.require_reader()
            reader.has_read_disconnect = reader.is_answering = True
            try:
                self.received(message)
            finally:
                reader.is_answering = False
        elif self.disconnect_message is None or not self.is_http:  # what a WebSocket's peer said before it left (P2)
            return self.delivered(self.received(message))
        return await self.require_reader().receive()

    def _read_failed(self, exception: BaseException) -> bool:
        """The app's own call to the server has raised. Returns whether the disconnect is why."""
        if self._end_read(exception):
            return True
        reader = self.require_reader()
        reader.is_answering = True
        try:
            if self.receive_failed(exception):
                reader.has_read_disconnect = True
                return True
        finally:
            reader.is_answering = False
        # A caller that cancels one `receive` (a peek, a time-out) will cancel others: from now on a task of ours reads.
        reader.prefers_task = True
        reader.receive_cancelled()
        return False

    def _end_read(self, exception: BaseException | None) -> bool:
        """The app's own call to the server has ended. Returns whether our wake ended it, and nothing else did."""
        self._reading = _READER
        reader = self.require_reader()
        reader.wake()
        return reader.has_woken_app and self.backend.absorb(self.backend.current_task(self.token), exception)

    def _wake_reading(self) -> None:
        """Wake the task of the app that awaits the server's `receive`, which may never deliver the disconnect."""
        self.require_reader().wake_app(self._reading)

    def receive_failed(self, exception: BaseException) -> bool:
        """The server's `receive` raised. Returns whether that was its way to deliver a disconnect."""
        if not self.is_disconnect(exception):
            return False
        self._on_disconnect(Cause.DISCONNECT_RECEIVED, self._new_disconnect())
        return True

    def require_reader(self) -> Reader:
        """The reader, made if there is none yet."""
        if self.reader is None:
            prefers_task = self.is_http and self.body is Body.COMPLETE
            self.reader = Reader(self, prefers_task, self.body is not _UNREAD)
            if self._reading is None:
                self._reading = _READER
        return self.reader

    def drop_reader(self) -> None:
        """The reader is closed and no task waits for it: do not hold it, since it holds this connection."""
        self.reader = None

    def is_being_read(self) -> bool:
        """Whether a task of the app awaits the server's `receive`."""
        return self._reading is not None and self._reading is not _READER

    def read_directly(self) -> Awaitable[Message]:
        """Have the calling task of the app call the server's `receive` itself."""
        self._reading = None
        return self.receive()

    # Sending

    async def send(self, message: Message) -> Any:
        """Pass `message` on to the server, or mute it after the disconnect."""
        before, send = self._remaining, self._send
        try:
            if before is RESPONSE_REMAINING and message["type"] == "http.response.start" and "trailers" not in message:
                self._start = message  # as nearly all responses begin
                self._remaining = BODY_REMAINING
            elif not message.get("more_body"):  # a chunk neither starts nor completes anything
                if before is BODY_REMAINING and message["type"] == "http.response.body":
                    self._remaining = ()  # as nearly all of them end
                else:
                    self._before_send(message)
        except (AttributeError, KeyError, TypeError):  # no ASGI message: the server complains of it
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
            del cause  # whose traceback holds this frame

    async def _send_failed(self, message: Message, before: Remaining, exception: BaseException) -> bool:
        """The server's `send` has raised. Returns whether the disconnect is why; if it is, calls `_on_disconnect`.

        `before` is what remained before `message`: nothing, if the disconnect was known or the response complete.
        """
        if _blocked_sends.absorb_wake(self, self.backend, exception):
            return True
        is_late = isinstance(exception, SendTimedOut)
        after = self._get_remaining()
        is_last = bool(before) and self._completes(before, message)
        if is_last or (before and not field(message, "more_body")):
            self._set_remaining(before)  # undo the note of `message`: the server has not taken it
        if self.state is _COMPLETE:
            return is_late  # else the server refuses a message after the last one, and the app must hear of it (P3)
        if not before or self.is_ours(exception) or not isinstance(exception, Exception):
            return False
        kind = field(message, "type")
        is_in_order = _messages.is_in_order(before, kind)
        is_servers_own = is_late or (is_in_order and self.is_disconnect(exception))
        is_reported = is_servers_own or is_disconnect_error(exception, kind)
        # A message out of order is the app's mistake, whatever the server would answer. After the last message its
        # answer proves nothing: uvicorn's receive gives the disconnect of a response that is complete, although its
        # send has just refused the end of it ("Too little data for declared Content-Length").
        if not is_reported and ((is_last and kind != "websocket.close") or not is_in_order):
            return False
        if self.disconnect_message is None and not is_late:
            await self.require_reader().ask_server()  # does its receive confirm the disconnect, and by which code?
        is_guessed = self.disconnect_message is None
        if is_guessed and not (is_servers_own or (is_reported and self._is_of_server(exception))):
            return False
        counter = self.counter
        if counter is not None:
            counter.messages_sent -= 1
            counter.bytes_sent -= _messages.payload(message)
        self._on_disconnect(Cause.SEND_FAILED, self.disconnect_message or self._new_disconnect())
        self._set_remaining(after)  # outer middleware has had `message`: it must not be sent again
        assert self.disconnected is not None  # since messages remained
        self.disconnected.is_guessed |= is_guessed
        if self.is_being_read():  # by a call that a server with such a `send` may never end
            self._wake_reading()
        return True

    def _is_of_server(self, exception: Exception) -> bool:
        """Whether the server's own `send` raised this, and not other middleware's: an audit, a mirror (P5)."""
        server = self.server()
        if not server:
            return True
        traceback = exception.__traceback__
        while traceback is not None and package_of(traceback.tb_frame) == _OURS:
            traceback = traceback.tb_next
        return traceback is None or package_of(traceback.tb_frame) == server

    def _completes(self, before: Remaining, message: Message) -> bool:
        try:
            return not self._after(before, message)
        except (AttributeError, KeyError, TypeError):  # no ASGI message
            return False

    def _get_remaining(self) -> Remaining:
        return self._remaining if self.disconnected is None else self.disconnected.remaining

    def _set_remaining(self, remaining: Remaining) -> None:
        if self.disconnected is None:
            self._remaining = remaining
        else:
            self.disconnected.remaining = remaining

    async def _mute(self, message: Message, cause: BaseException) -> None:
        """Mute a message whose `send` has reported the disconnect, or was woken because of it.

        Not where the response is complete: a blocked last message, once woken, is the normal end.
        """
        if isinstance(self._send, MutedSend):
            assert self.disconnected is not None
            if field(message, "type") not in _messages.STARTS:
                self.disconnected.lose_body()
            is_of_server = isinstance(cause, Exception) and not isinstance(cause, Woken)
            await self._send(message, cause if is_of_server else None)

    muted_by: ClassVar[CodeType] = MutedSend.__call__.__code__
    sends_by: ClassVar[tuple[CodeType, ...]] = (send.__code__,)  # tells the tasks that are in it

    # The disconnect

    def _on_disconnect(self, cause: Cause, message: Message) -> None:
        """The disconnect is known. `message` is the one that the server delivered, or should have.

        From here on, in this order: sends are muted; tasks that wait for the disconnect wake; inner installs hear of
        it; the app is cancelled, now or later; hooks are called. After 50 ms sends that the server blocks are woken.
        Where the response was complete it is the normal end: only the waiting tasks and the inner installs hear of it.
        """
        before = self.state
        departs = before is not _DISCONNECTED and TRANSITIONS[before, cause] is _DISCONNECTED
        is_first = self.disconnect_message is None
        if is_first:
            self.disconnect_message = {**message}  # a copy: the server, or the app, may change its own
        if departs:
            self._mute_sends()
        if is_first:
            self._tell(message)
        if departs:
            self._cancel_and_call_hooks()

    def _mute_sends(self) -> None:
        """Mute what the app sends from now on."""
        disconnected = Disconnected(self.disconnect_message, self._make_record(), self._remaining)
        self.disconnected = disconnected
        if self._remaining is BODY_REMAINING:
            disconnected.length = _messages.announced_length(self._start)
        self._remaining = ()
        self._send = muted = MutedSend(
            send=self.backend.unwrap(self.server_send),
            disconnected=disconnected,
            after=self._after,
            backend=self.backend,
            raises=self._raises,
            completed=self._completed_for_nobody,
            outer=self.parts.outer if self.is_http else None,
        )
        if self.scope is None:  # the exchange is over
            muted.close(self.root.options.policy == "raise")

    def _make_record(self) -> Disconnect | None:
        scope = self.scope
        if scope is None:  # the exchange is over: only tasks that the app has left behind hear of the disconnect
            return None
        return Disconnect(
            self.protocol,
            str(scope.get("method")) if self.is_http else None,
            str(scope.get("path")),
            _client_of(scope),
            self._phase(),
            None if self.is_http else field(self.disconnect_message, "code"),
            monotonic() - self.began,
        )

    def _tell(self, message: Message) -> None:
        """Wake the tasks that wait for the disconnect, tell the inner installs, and have blocked sends woken later."""
        if not self.is_being_read():
            self._reading = _READER
        if self.parts.cancellation is not None:
            self.parts.cancellation.shield_scopes()
        if self.reader is not None:
            self.reader.wake()
        if self.parts.waiters is not None:
            self.parts.waiters.wake()
        self._for_inner(lambda inner: inner._on_disconnect(Cause.DISCONNECT_RECEIVED, message))
        if self.scope is not None and self.token is not None and self.backend.tasks_in(self.server_send):
            _blocked_sends.blocked.add(self, self.backend, self.token)

    def _cancel_and_call_hooks(self) -> None:
        """Cancel the app, now or later, or have it warned of; and call the hooks. The outermost install does it."""
        record = self.record()
        if self.parts.outer is not None or self.token is None or record is None:
            return
        options, seconds = self.options, self.options.seconds_to_cancel
        if seconds == 0:
            self.cancel_app()
        elif seconds is not None:
            self.cancel_later(seconds)
        elif options.grace is None and options.policy in ("mute", "finish"):
            _telling.abandoned.add(self, self.backend, self.token)
        self._add_orphan()
        for hook in self.options.hooks:
            _telling.call_hook(hook, record, self.backend, self.context())
        if _telling.OBSERVERS:
            from ._observers import tell_of_departure  # not imported unless used

            tell_of_departure(self, record)

    def record(self) -> Disconnect | None:
        return None if self.disconnected is None else self.disconnected.record

    def exchange(self) -> Exchange | None:
        return None if self.disconnected is None else self.disconnected.exchange

    def is_observed(self) -> bool:
        """Whether an observer wants to hear of the end of the app."""
        return self.disconnected is not None and bool(self.disconnected.at_end)

    def is_ours(self, exception: BaseException) -> bool:
        """Whether this connection raised `exception` (P5): told by the identity of its message."""
        return isinstance(exception, ClientDisconnected) and exception.message is self.disconnect_message

    # The tasks that wait for the disconnect

    def check(self, context: contextvars.Context) -> None:
        """Read, if no task does, to find out whether the client has disconnected.

        One message ahead at the most, and nothing of a body that the app has not asked for: that would have a server
        send `100 Continue`, and defeat its back-pressure. But see `_reads_further`.
        """
        if self.disconnect_message is not None:
            return
        if self._may_read_ahead():
            if not self.is_being_read():
                self.require_reader().read_for_disconnect(context, self._reads_further())
        elif self.is_http:
            self.require_reader()  # so that `received` is called at the end of the body, and checks again

    def require_waiters(self) -> DisconnectWaiters:
        """The tasks in `wait_disconnected`, made if there are none yet."""
        parts = self.own_parts()
        if parts.waiters is None:
            parts.waiters = DisconnectWaiters()
            if self.disconnected is None:
                self._send = WakingSend(self._send, self).send
        return parts.waiters

    def wake_if_complete(self) -> None:
        """Wake the tasks in `wait_disconnected`, if the app has sent its last message."""
        if self.state is _COMPLETE and self.parts.waiters is not None:
            self.parts.waiters.wake()

    def wake_readers(self) -> None:
        """Have the tasks that wait in `receive` ask again."""
        if self.reader is not None:
            self.reader.wake()
        self._for_inner(Connection.wake_readers)

    def _listener(self) -> Listener:
        """Whether the app asks for the disconnect, and is to act on it by itself (P12)."""
        if self.reader is None:
            return Listener.WAITS if self.is_being_read() else Listener.NONE
        return self.reader.listener()

    def _told(self) -> Told | None:
        if self.reader is None or not self.reader.told_goes_on():
            return None
        return Told(self.reader.told_at, self._seconds_to_clean_up())

    def _seconds_to_clean_up(self) -> float:
        """Seconds that a task has which has received the disconnect, before the app is cancelled all the same."""
        return _SECONDS_TO_CLEAN_UP

    # Cancelling and shielding

    def require_cancellation(self) -> Cancellation:
        """The cancellation, made if there is none yet."""
        parts = self.own_parts()
        if parts.cancellation is None:
            parts.cancellation = Cancellation(self.backend, self.backend.app_scope(self.task))
        return parts.cancellation

    def cancel_later(self, seconds: float) -> None:
        """Call `cancel_app` after so many seconds, in place of an earlier call."""
        self.require_cancellation().call_later(seconds, self.cancel_app)

    def cancel_app(self) -> None:
        """End the app; with inner installs, their apps instead; with a shielded block, at the end of that.

        From now on the disconnect is not withheld any more. Where the app listens, that is what ends it.
        """
        if (
            self.scope is None
            or self.disconnected is None
            or not self.disconnected.unsent
            or self.has_requested_cancellation()
        ):
            return
        outer = self.parts.outer
        if outer is not None and outer.has_requested_cancellation() and outer.task is self.task:
            return  # the outer install has cancelled this task already: what still runs is its clean-up
        of_root = self.root.require_cancellation()
        if of_root.blocks:
            of_root.is_due = True
            return
        if not of_root.is_over:
            of_root.is_over = True
            self.root.wake_readers()
            self.root.discard_orphan()
        if self.parts.inner:
            self._for_inner(Connection.cancel_app)
            return
        cancellation = self.require_cancellation()
        if not admits(self.backend, self.token, cancellation.is_untried(), self.cancel_app):
            return
        seconds = self._seconds_to_leave_send()
        if seconds is None:
            # Under `mute` and `raise` the app was told long ago, and `grace` is all the time that it has.
            options = self.root.options
            was_told = options.policy in ("mute", "raise") and options.seconds_to_cancel != 0
            seconds = cancellation.cancel(Listener.NONE if was_told else self._listener(), self._told())
        if seconds is not None and seconds < math.inf:
            self.cancel_later(seconds)

    def _seconds_to_leave_send(self) -> float | None:
        """Seconds until the app's task may have come back from `send`, if it is there; None if it may be cancelled.

        A cancellation that arrives in `send` finds the app's generator suspended at a `yield`. A server has it come
        back when it loses its connection, or `_blocked_sends` has.
        """
        if self.task is not None:
            own_tasks = self.backend.own_tasks(self.task)
            for _, awaited in self.backend.suspended_in(self.sends_by, self, self.server_send, own_tasks):
                if not any(is_running(self.muted_by, awaitable) for awaitable in awaited):
                    return self.require_cancellation().wait_for_send()
        return None

    def has_requested_cancellation(self) -> bool:
        """Whether the cancellation of the app was requested, by this install."""
        return self.parts.cancellation is not None and self.parts.cancellation.is_requested()

    async def absorb_cancellation(self, exception: BaseException | None) -> tuple[bool, BaseException | None]:
        """The app has ended with `exception`. Returns whether our cancellation ended it, and what else did (P6)."""
        cancellation, outer = self.parts.cancellation, self.parts.outer
        if cancellation is None or not cancellation.is_requested():
            return False, exception
        is_ours = cancellation.absorb(exception)
        disconnected = self.root.disconnected or self.disconnected
        assert disconnected is not None  # else nothing was cancelled
        disconnected.is_cancelled |= is_ours or cancellation.has_ended_app()
        if outer is not None:  # middleware between takes our cancellation for an ordinary end, and may go on
            outer.backend.call_in(outer.token, functools.partial(outer.cancel_later, _SECONDS_BETWEEN_INSTALLS))
        if is_ours or exception is None:
            return is_ours, None
        return False, await cancellation.others(exception)

    def shield(self, scope: Any) -> Block:
        """Begin a block in which the app is not cancelled. Returns what `end_shield` takes.

        `scope` is a cancel scope around the block, or None.
        """
        block = Block(scope)
        cancellation = self.root.require_cancellation()
        cancellation.shield(block)
        if self.disconnect_message is not None:
            cancellation.shield_scopes()
        return block

    def end_shield(self, block: Block) -> bool:
        """Returns whether a cancellation by us, which the block has held off, is on its way now."""
        root = self.root
        cancellation = root.require_cancellation()
        cancellation.end_shield(block)
        if cancellation.blocks or root.disconnect_message is None:
            return False
        is_due = cancellation.is_due
        root.backend.call_in(root.token, root.shield_ended)
        return is_due

    def shield_ended(self) -> None:
        """Do what the last shielded block held off."""
        self.wake_readers()
        cancellation = self.require_cancellation()
        if cancellation.is_due:
            cancellation.is_due = False
            self.cancel_app()

    def withholds_disconnect(self) -> bool:
        """Whether `receive` should withhold the disconnect for now (P12).

        Frameworks end the app when one of their tasks receives it (Starlette a stream, Quart and Django every app),
        which would break a shielded block, and end what is to go on. It is not withheld from tasks inside of such a
        block, nor while a request body is undelivered: it can never be whole, and a task may wait for it. Whoever reads
        a WebSocket is told.
        """
        return False

    # Going on for nobody

    def _completed_for_nobody(self) -> None:
        """The app has sent its last message, which was muted."""
        self.wake_readers()
        self.discard_orphan()

    def _add_orphan(self) -> None:
        """The app goes on for nobody from now on, unless it is being ended, or has sent its last message."""
        disconnected, cancellation = self.disconnected, self.parts.cancellation
        is_ending = cancellation is not None and cancellation.is_over
        if self.options.orphans is not None and disconnected is not None and disconnected.unsent and not is_ending:
            self.options.orphans.add(self)

    def discard_orphan(self) -> None:
        if self.options.orphans is not None:
            self.options.orphans.discard(self)

    def is_shielded(self) -> bool:
        return self.parts.cancellation is not None and bool(self.parts.cancellation.blocks)

    def end_orphan(self) -> None:
        self.backend.call_in(self.token, self.cancel_app)

    # Several installs

    @property
    def root(self) -> Connection:
        """The connection of the outermost install, which deals with the server."""
        return self if self.parts.outer is None else self.parts.outer.root

    def has_come_through(self, install: object) -> bool:
        """Whether this middleware stands around the app already: then a call of it is an exchange of its own (P0).

        A batch endpoint makes such calls, with a copy of the scope and its own `receive` and `send`.
        """
        outer = self.parts.outer
        return self.options.install is install or (outer is not None and outer.has_come_through(install))

    def join(self, outer: Connection, policy: Policy | None) -> None:
        """Share the exchange of an install further out: give the root these options, learn what it knows already.

        `policy` is what `policy_for` chose for this install.
        """
        self.own_parts().outer = outer
        outer.own_parts().inner += (self,)
        root = self.root
        options = self.options.within(root.options)
        if policy is not None:
            options = dataclasses.replace(options, policy=policy)
        is_moved = options.orphans is not root.options.orphans
        if is_moved:
            root.discard_orphan()
        root.options = options
        if is_moved:
            root._add_orphan()  # it counts among those of this install from now on
        if self.options.needs_watcher:
            root.backend.call_in(root.token, functools.partial(root.watch, contextvars.copy_context()))
        disconnected, record = root.disconnected, root.record()
        if disconnected is None or record is None:
            if self.options.send_timeout is not None:
                root._send = TimedSend(root._send, self.options.send_timeout, root.backend)
            return
        self._on_disconnect(Cause.DISCONNECT_RECEIVED, root.disconnect_message)
        if options.seconds_to_cancel is not None and self.token is not None:
            ends = root.began + record.seconds + options.seconds_to_cancel
            self.cancel_later(max(0, ends - monotonic()))

    def _for_inner(self, call: Callable[[Connection], None]) -> None:
        """Call `call` with each inner connection, on its own event loop: an adapter may run it in another thread."""
        for inner in self.parts.inner:
            inner.backend.call_in(inner.token, functools.partial(call, inner))

    # The end

    async def look_once(self, exception: BaseException) -> None:
        """The app has ended with `exception`. If it was cancelled, find out whether the client has left.

        Some servers cancel it in the turn in which they would tell (Ray Serve, h2corn, echocorn; gunicorn's `asgi`
        worker with a grace period of 0), and whoever watches is to be told.
        """
        # A request that nobody has read is left to whoever stands outside.
        may_read = self.body is not _UNREAD and self._may_read_ahead()
        may_know = self.is_watched() and self.disconnect_message is None and may_read
        if may_know and is_cancelled_error(exception) and self._is_cancelled_by_server():
            self.require_cancellation().is_over = True  # there is nothing to end any more
            try:
                await self.require_reader().look_once()
            except BaseException as second:  # echocorn cancels at the end of the stream, and of the connection
                if not is_cancelled_error(second):
                    raise

    def _is_cancelled_by_server(self) -> bool:
        """Whether it may be the server that has cancelled the app, and its own `receive` that the app was given.

        A cancel scope of middleware outside may have done it; and to call the `receive` of BaseHTTPMiddleware once more
        opens a group of tasks there.
        """
        return not self.backend.is_in_cancelled_scope() and package_of_call(self.server_receive) != "starlette"

    async def complete_response(self, scope: Any, has_suppressed: bool) -> None:
        """Send what outer middleware still expects, now that the app has ended and its client has left (P11).

        Not while the app runs: on uvicorn 0.28.0 a complete response makes BaseHTTPMiddleware outside cancel it.

        Where nothing was muted or suppressed, the app fell silent by itself. That response too is completed, since
        BaseHTTPMiddleware outside raises for it, but not where no middleware can stand outside: into a queue (asgiref's
        ApplicationCommunicator) the bare app would have put nothing.
        """
        assert self.disconnected is not None
        messages = self.disconnected.take_remaining(self._FIRST_REMAINING, self._after)
        messages = self._without_keep_alive(scope, messages)
        if messages and (has_suppressed or self.disconnected.messages_muted or not self._sends_into_queue()):
            await self.backend.move_on_after(_SECONDS_TO_COMPLETE, self._pass_on(messages))

    async def complete_whole_response(self, scope: Any) -> None:
        """As `complete_response`, for an app that has failed after it had sent all of a response in one piece.

        Not in a cancelled scope, where a cancellation would take the place of the failure.
        """
        is_whole = self.disconnected is not None and self.disconnected.has_whole_response()
        if is_whole and not self.backend.is_in_cancelled_scope():
            await self.complete_response(scope, False)

    def _without_keep_alive(self, scope: Any, messages: list[Message]) -> list[Message]:
        """These messages, so that the server does not wait for another request of a client that has left."""
        return messages

    def server(self) -> str:
        """The package of the server, where that is known: of whoever runs the task. "" if that may be this package."""
        package = outermost_package(self.backend.coroutine(self.task), _NO_SERVERS)
        return "" if package == _OURS else package

    async def _pass_on(self, messages: list[Message]) -> None:
        """Send these to outer middleware, and log what it raises."""
        try:
            for message in messages:
                await self.server_send(message)
        except Exception:
            _telling.LOGGER.debug("the server did not take the end of the response", exc_info=True)

    def _sends_into_queue(self) -> bool:
        """Whether `send` puts into a queue, with nothing but other installs of this middleware between."""
        owner = getattr(self.server_send, "__self__", None)
        while isinstance(owner, Connection):
            owner = getattr(owner.server_send, "__self__", None)
        return _backends.is_asyncio_queue(owner)

    def close(self) -> None:
        """Stop the reader, the watcher and the timers, wake what waits, and leave the outer install."""
        self.scope = None
        parts = self.parts
        if self.reader is not None:
            if self.disconnect_message is not None:
                self.reader.wake()  # it is not withheld any more
            self.reader.close()
        if self.unchecked is not None:
            self.unchecked.pop(self, None)
        if parts.watcher is not None:
            parts.watcher.close()
        if parts.waiters is not None:
            parts.waiters.wake()
            if self.disconnected is None:
                self._send = self.server_send  # in the place of a `WakingSend`, which holds this
        if parts.cancellation is not None:
            parts.cancellation.close()
        if isinstance(self._send, MutedSend):
            self._send.close(self.root.options.policy == "raise")
        if parts.version is not None:
            parts.version.close()
        if parts.outer is not None:
            siblings = parts.outer.parts
            siblings.inner = tuple(one for one in siblings.inner if one is not self)
        if self.disconnect_message is not None and self.token is not None:
            _blocked_sends.close(self, self.backend, self.token)
            _telling.abandoned.discard(self, self.token)
        self.discard_orphan()

    def make_exchange(self, raised: BaseException | None, suppressed: BaseException | None) -> Exchange:
        """The record of the exchange, whose app has ended with what was raised, or suppressed, or none."""
        assert self.disconnected is not None and self.disconnected.record is not None
        seconds, counter = monotonic() - self.began - self.disconnected.record.seconds, self.counter
        sent = (None, None) if counter is None else (counter.messages_sent, counter.bytes_sent)
        return self.disconnected.make_exchange(raised, suppressed, seconds, self.status(), *sent)


def package_of_call(call: Any) -> str:
    """The package of a function, or of the object whose method it is."""
    owner = getattr(call, "__self__", None)
    return str(getattr(call if owner is None else type(owner), "__module__", "")).partition(".")[0]


def _client_of(scope: Any) -> tuple[str, int] | None:
    client = scope.get("client")
    return tuple(client) if isinstance(client, (tuple, list)) and len(client) == 2 else None
