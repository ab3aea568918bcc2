"""One connection per exchange: it wraps the server's `receive` and `send` and tracks the disconnect.

This is the hot path. While the application reads the request body by itself, and as long as the client is there, a
message costs one coroutine frame and a look at whether it starts or ends something; the rest is in `_reader`.
"""

from __future__ import annotations

import abc
import contextvars
import functools
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from types import CoroutineType
from typing import Any, ClassVar, Literal

from . import _messages, _runtime, _watch
from ._errors import ClientDisconnected, tells_of_departure, tells_of_lost_websocket
from ._messages import HTTP_OWES_ALL, HTTP_OWES_BODY, Message, Owed, after_http, after_websocket, field
from ._policy import Hook, Terms, name_of
from ._reader import Reader
from ._records import Disconnect, Ended, Exchange, Phase
from ._state import TRANSITIONS, Cause, State

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[Any]]

_LOGGER = logging.getLogger("disconnect_mw")

_OPEN, _COMPLETE, _DISCONNECTED = State.OPEN, State.COMPLETE, State.DISCONNECTED
_AFTER_LAST_MESSAGE = TRANSITIONS[_OPEN, Cause.LAST_MESSAGE]  # a look into the table costs more than the send itself

# What stands for the task where no event loop runs (a coroutine driven by hand), and for a shut gate.
_BY_HAND, _SHUT = object(), object()

_STARTS = ("http.response.start", "websocket.http.response.start")

# How long the orderly end may take. gunicorn's `asgi` worker waits up to 5 s in a close, Hypercorn's HTTP/2 for ever.
_SECONDS_TO_END = 1.0


# How long a framework that listens by itself has to begin to end the handler, and from then on to end it.
_SECONDS_TO_REACT = 0.05
_SECONDS_TO_END_BY_ITSELF = 10.0


class _Nowhere(Exception):
    """Where messages go once the client has gone."""


async def _nowhere(message: Message) -> None:
    raise _Nowhere


def _is_of_server(exception: BaseException) -> bool:
    return isinstance(exception, Exception) and not isinstance(exception, (_Nowhere, _runtime.Interrupted))


class _Counted:
    """The server's `send`, and what went into it."""

    __slots__ = ("_send", "messages", "payload")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.messages = self.payload = 0

    def send(self, message: Message) -> Awaitable[Any]:
        self.messages += 1
        try:
            if "body" in message:
                self.payload += len(message["body"])
            elif message["type"] == "websocket.send":
                self.payload += _messages.payload(message)
        except (KeyError, TypeError):  # no ASGI message: that is for the server to complain of
            pass
        return self._send(message)

    def was_not_sent(self, message: Message) -> None:
        self.messages -= 1
        self.payload -= _messages.payload(message)


# The shielded blocks that a task is in, or was made in. An application that shields nothing never sees it set.
_within: contextvars.ContextVar[tuple[object, ...]] = contextvars.ContextVar("disconnect_mw.within", default=())


class _InTime:
    """The server's `send`, for at most so many seconds a message."""

    __slots__ = ("_seconds", "_send")

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds

    async def __call__(self, message: Message) -> Any:
        sending = self._send(message)
        if _runtime.running_loop() is not None and type(sending) is CoroutineType:
            try:  # nearly all come back at once: no timer for these
                sending = _runtime.Begun(sending, sending.send(None))
            except StopIteration as end:
                return end.value
        return await _runtime.within(self._seconds, sending)


class _Gone:
    """What there is to know of an exchange since its disconnect came: most have none that counts."""

    __slots__ = (
        "bytes_muted",
        "disconnected_at",
        "exchange",
        "is_guessed",
        "late_start",
        "messages_muted",
        "phase",
        "record",
        "unsaid",
        "woken",
    )

    disconnected_at: float  # on the clock of time.monotonic()
    phase: Phase  # how far the exchange had come
    unsaid: Owed  # what the application owes, be it into the void

    def __init__(self) -> None:
        self.messages_muted = self.bytes_muted = 0
        self.is_guessed = False  # from an exception alone: the server has not delivered it
        self.late_start: Message = None  # the application's own start, which came too late
        self.woken: frozenset[Any] = frozenset()  # tasks that a send had blocked
        self.record: Disconnect | None = None
        self.exchange: Exchange | None = None


class Connection(abc.ABC):
    """One exchange: what the application and the server have said, and whether the client is still there."""

    __slots__ = (
        "_counted",
        "_gate",
        "_gone",
        "_last",
        "_owed",
        "_owed_before",
        "_route",
        "_server_send",
        "attention",
        "began",
        "disconnect",
        "loop",
        "outer",
        "running",
        "scope",
        "server_receive",
        "shared_reader",
        "stand_in",
        "state",
        "task",
        "terms",
        "uploading",
    )

    protocol: ClassVar[Literal["http", "websocket"]]
    _OWED_AT_FIRST: ClassVar[Owed]
    can_be_peeked: ClassVar[bool]

    scope: Any  # None when the exchange is over: the scope holds the connection, and must not be held by it
    terms: Terms
    began: float  # on the clock of time.monotonic()
    outer: Connection | None  # of an install further out, which has the terms
    loop: Any  # as `_runtime.event_loop` gives it
    task: Any  # that the application runs in, for `_runtime.cancel`
    running: Any  # what the application has returned to be awaited
    state: State
    uploading: bool | None  # None: nothing of the body has been read
    disconnect: Message | None  # what every receive answers, once it is known
    _last: Message  # the last message, while it is on its way
    _gate: Any  # None: the next receive may go straight to the server; else who is there, or that it is shut
    stand_in: Any  # for the task that reads, where it is none of asyncio's
    shared_reader: Reader | None  # who reads when it is not simply the application that does
    _owed: Owed
    _owed_before: Owed  # the message on its way
    attention: _watch.Attended | None  # what belongs to it since somebody has asked for more
    _counted: _Counted | None

    _gone: _Gone | None

    def open(self, scope: Any, receive: Receive, send: Send, terms: Terms) -> None:
        """Stand between the application and the server.

        A plain method that sets only what every request needs, because a constructor costs as much as all of this.
        """
        self.scope = scope
        self.terms = terms
        self.server_receive = receive
        self._server_send = self._route = send
        self.state = _OPEN
        self._owed = self._owed_before = self._OWED_AT_FIRST
        self.disconnect = self._gate = self.shared_reader = self._last = self.uploading = None
        self.outer = self._gone = self.attention = self._counted = self.stand_in = None
        self.began = time.monotonic()
        loop = self.loop = _runtime.running_loop()
        if loop is None:
            self._open_without_asyncio()
        else:
            self.task = _runtime.current_task(loop)

    def _open_without_asyncio(self) -> None:
        self.loop = _runtime.event_loop()
        self.task = _runtime.cancellable()
        receive = _runtime.interruptible(self.server_receive)
        if receive is None:
            self.stand_in = _BY_HAND
        else:
            self.stand_in = self.server_receive = receive
            self._server_send = self._route = _runtime.Interruptible(receive.trio, self._server_send)

    def attend(self, counts: bool, watches: bool) -> None:
        """Do what the terms, or others, ask beyond telling the application what it asks about."""
        send_timeout = self.terms.send_timeout
        if send_timeout is not None:
            self._route = _InTime(self._route, send_timeout)
        if counts:
            self._counted = _Counted(self._route)
            self._route = self._counted.send
        if watches and self.loop is not None:
            self.attention = _watch.Attended()
            self.attention.watch(self, contextvars.copy_context())

    def join(self, outer: Connection) -> None:
        """Be the same exchange as that of an install further out: what that one learns, this one knows."""
        self.outer = outer
        outer.attended.inner += (self,)
        root = self.root
        root.terms = self.terms.within(root.terms)
        if self.terms.asks:
            _runtime.call_in(root.loop, functools.partial(root.watch, contextvars.copy_context()))
        if self.terms.send_timeout is not None and root.state is not _DISCONNECTED:
            root._route = _InTime(root._route, self.terms.send_timeout)
        if outer.disconnect is not None and outer.state is _DISCONNECTED:
            self.learn(Cause.DISCONNECT_RECEIVED, outer.disconnect)
            seconds = root.terms.seconds_to_cancel
            if seconds is not None and self.loop is not None:
                left = root.gone.disconnected_at + seconds - time.monotonic()
                self.attended.timer = _runtime.call_later(max(0, left), self.end_app)

    @property
    def gone(self) -> _Gone:
        if self._gone is None:
            self._gone = _Gone()
        return self._gone

    @property
    def record(self) -> Disconnect | None:
        return None if self._gone is None else self._gone.record

    @property
    def exchange(self) -> Exchange | None:
        return None if self._gone is None else self._gone.exchange

    @property
    def root(self) -> Connection:
        """The connection of the outermost install, which deals with the server."""
        return self if self.outer is None else self.outer.root

    @property
    def attended(self) -> _watch.Attended:
        if self.attention is None:
            self.attention = _watch.Attended()
        return self.attention

    def watch(self, context: contextvars.Context) -> None:
        """Have somebody look whether the client has gone, although the application may not ask."""
        if self.scope is not None and self.loop is not None and not self.is_watched:
            self.attended.watch(self, context)

    @property
    def is_watched(self) -> bool:
        return self.attention is not None and self.attention.context is not None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.value}>"

    # The scope has it, and what is plain data without the middleware must be copied and pickled with it as well.

    def __copy__(self) -> Connection:
        return self

    def __deepcopy__(self, memo: Any) -> Connection:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    @abc.abstractmethod
    def took(self, message: Message) -> Message:
        """Note what the server delivered, and give it back."""

    def is_departure(self, exception: BaseException) -> bool:
        """Is it what a server raises from send and receive alike, where it should deliver a disconnect?"""
        return False

    def took_exception(self, exception: BaseException) -> bool:
        """Note what the server's receive raised, if that was its way to deliver a disconnect."""
        if not self.is_departure(exception):
            return False
        self.learn(Cause.DISCONNECT_RECEIVED, self._new_disconnect())
        return True

    @abc.abstractmethod
    def _new_disconnect(self) -> Message:
        """The disconnect that no server delivered."""

    def status(self) -> int | None:
        """Of the response that had begun when the client left."""
        return None

    @abc.abstractmethod
    def _phase_now(self) -> Phase:
        """How far the exchange has come."""

    # Receiving

    async def receive(self) -> Message:
        """The server's next message; once the disconnect is known, that: without suspending, as often as asked."""
        if self._gate is not None:
            return await self.reader().receive()
        self._gate = self.stand_in or _runtime.current_task(self.loop) or _BY_HAND  # as `caller`, at less cost
        try:
            message = await self.server_receive()
        except BaseException as exception:
            if self._is_interrupted(exception) or self.took_exception(exception):
                return await self.reader().receive()
            self.reader().prefers_task = True  # who cancels one read (a peek, a time-out) will cancel the next
            raise
        if self.shared_reader is None:
            self._gate = None
        else:
            self._is_interrupted(None)
            if self.disconnect is not None:
                return await self.reader().receive()
        try:
            if message.get("more_body"):
                self.uploading = True
                return message
            if message["type"] == "http.request" and self.shared_reader is None:  # as nearly all of them end
                self.uploading = False
                self._gate = _SHUT  # only the disconnect can still come
                return message
        except (AttributeError, KeyError, TypeError):  # no ASGI message: that is for the application to complain of
            return message
        message = self.took(message)
        return message if self.disconnect is None else await self.reader().receive()

    def _is_interrupted(self, exception: BaseException | None) -> bool:
        """The application's task is back from the server. Only because the client turned out to have gone?"""
        task, self._gate = self._gate, _SHUT
        reader = self.reader()
        reader.tell()
        return reader.interrupted and _runtime.absorb(task, exception)

    def reader(self) -> Reader:
        """Who reads when it is not simply the application that does."""
        if self.shared_reader is None:
            # A gate that is shut without a reader: only the disconnect can still come.
            self.shared_reader = Reader(self, prefers_task=self._gate is _SHUT)
            if self._gate is None:
                self._gate = _SHUT
        return self.shared_reader

    def caller(self) -> Any:
        """The task that calls, as far as there are tasks to be told apart."""
        return self.stand_in or _runtime.current_task(self.loop) or _BY_HAND

    def is_being_read(self) -> bool:
        """Is a task of the application's at the server?"""
        return self._gate is not None and self._gate is not _SHUT

    def read_directly(self) -> Awaitable[Message]:
        self._gate = None
        return self.receive()

    def disconnect_again(self) -> Message:
        return {**self.disconnect}  # type: ignore[dict-item]  # asked for once it is known

    # Sending

    async def send(self, message: Message) -> Any:
        """Pass `message` on to the server, or keep it from there once the client is known to have gone."""
        try:
            if not message.get("more_body"):  # a chunk neither starts nor ends anything
                self._note(message)
        except (AttributeError, KeyError, TypeError):  # no ASGI message: that is for the server to complain of
            pass
        try:
            return await self._route(message)
        except BaseException as exception:
            if not await self._reports_departure(exception, message):
                raise
            cause = exception
        try:
            return await self._send_late(message, cause)
        finally:
            del cause  # whose traceback holds this frame

    @staticmethod
    @abc.abstractmethod
    def _after(owed: Owed, message: Mapping[str, Any]) -> Owed:
        """What an exchange that owes `owed` owes after `message`."""

    @abc.abstractmethod
    def _note(self, message: Mapping[str, Any]) -> None:
        """Follow what the application says, before the server has it."""

    async def _reports_departure(self, exception: BaseException, message: Message) -> bool:
        """Has the client gone, or is it something else that `send` raised?"""
        if isinstance(exception, _Nowhere) or self._is_woken(exception):
            return True
        was_last = message is self._last
        if was_last:
            self._last = None
            self.state = TRANSITIONS[self.state, Cause.LAST_MESSAGE_REFUSED]
        if isinstance(exception, _runtime.TimedOut) and self.state is _COMPLETE:
            return True  # a message after the last one, of which the server has not said a word
        if self.state is _COMPLETE or self.has_raised(exception):
            return False
        handed_over = self._owed
        if not field(message, "more_body"):
            self._owed = self._owed_before
        if not isinstance(exception, Exception):
            return False
        kind = field(message, "type")
        is_in_order = _messages.is_in_order(self._owed, kind)
        is_late = isinstance(exception, _runtime.TimedOut)
        says_so = is_late or tells_of_departure(exception, kind) or (is_in_order and self.is_departure(exception))
        # A message that was out of order is the application's mistake whatever the server would say. After a last one
        # it has nothing to say: uvicorn's receive gives the disconnect of a response that is complete, although its
        # send has just refused the end of it ("Too little data for declared Content-Length").
        if not says_so and ((was_last and kind != "websocket.close") or not is_in_order):
            return False
        if self.disconnect is None and not is_late:
            await self.reader().ask()  # for the evidence, and for the close code
        is_guessed = self.disconnect is None
        if is_guessed and not says_so:
            return False
        if self._counted is not None:
            self._counted.was_not_sent(message)
        self.learn(Cause.SEND_FAILED, self.disconnect or self._new_disconnect())
        self._owed = handed_over
        self.gone.is_guessed |= is_guessed
        if self.is_being_read() and self._gate is not _BY_HAND:
            self.reader().interrupt(self._gate)
        return True

    sends_by = send.__code__
    """What a task is in while a message of a connection's is on its way to the server."""

    def interrupt_send(self, task: Any) -> None:
        """Wake the send of `task` that is at the server, which may never do so itself."""
        if _runtime.interrupt(task):
            self.gone.woken |= {task}

    def interrupt_own_sends(self, is_meant: Callable[[list[Any]], bool]) -> None:
        """The same on trio, of all sends of which `is_meant` says so."""
        if isinstance(self._server_send, _runtime.Interruptible):
            self._server_send.cancel(is_meant)

    def _is_woken(self, exception: BaseException) -> bool:
        """Is a send back from the server only because the client is known to have gone?"""
        if isinstance(exception, _runtime.Interrupted):
            return True
        if self.disconnect is None or not self.gone.woken:
            return False
        task = _runtime.current_task(_runtime.running_loop())
        if task not in self.gone.woken:
            return False
        self.gone.woken -= {task}
        return _runtime.absorb(task, exception)

    async def _send_late(self, message: Message, cause: BaseException) -> None:
        """What becomes of a message once the client has gone."""
        if self.state is _COMPLETE:  # its last message had been blocked: that much is the normal end
            return
        self.gone.messages_muted += 1
        self.gone.bytes_muted += _messages.payload(message)
        if self.gone.woken:
            self._take_back(_runtime.current_task(self.loop))
        kind = field(message, "type")
        if self.root.terms.policy == "raise" and kind not in _messages.WEBSOCKET_ENDS:
            await _runtime.checkpoint()
            raise ClientDisconnected(self.disconnect) from (cause if _is_of_server(cause) else None)
        if kind is not None:
            self.gone.unsaid = self._after(self.gone.unsaid, message)
        # Whoever waited for the disconnect may be about to cancel this task, which must not meet it in here:
        # Starlette's StreamingResponse then leaves its generator to the garbage collector.
        reader = self.shared_reader
        gives_turn = self.gone.messages_muted > 1 or reader is None or not reader.tells_others()
        if self.outer is not None and self.outer.scope is not None and self.can_be_peeked:
            # The install further out mutes; what stands between the two may count on the whole of it (a cache).
            owed = self._owed
            if kind is not None:
                self._owed = self._after(owed, message)
            try:
                await _runtime.uninterruptible(self._server_send)(message)
            except BaseException:
                self._owed = owed
                raise
        elif kind in _STARTS and self.gone.late_start is None:
            self.gone.late_start = message
        if gives_turn:
            await _runtime.checkpoint()

    async def _pass_on(self, messages: list[Message]) -> None:
        """Send what others between here and the server may count on: whatever comes of it, and not for long."""

        async def send() -> None:
            try:
                for message in messages:
                    await self._server_send(message)
            except Exception:
                _LOGGER.debug("the orderly end was not taken", exc_info=True)

        await _runtime.run_for(_SECONDS_TO_END, send())

    # The end

    def learn(self, cause: Cause, message: Message) -> None:
        before, self.state = self.state, TRANSITIONS[self.state, cause]
        departs = self.state is _DISCONNECTED and before is not _DISCONNECTED
        if departs:
            self.gone.disconnected_at = time.monotonic()
            self.gone.phase = self._phase_now()
            self.gone.unsaid = self._owed
            self._route = _nowhere  # not a look at the state for each message, nor a cycle with a method of our own
        if self.disconnect is None:
            self.disconnect = {**message}  # the one delivered is the application's, to change as it likes
            if not self.is_being_read():
                self._gate = _SHUT
            if self.shared_reader is not None:
                self.shared_reader.tell()
            if self.attention is not None:
                self.attention.tell()
                for inner in self.attention.inner:
                    # In its own loop: what stands between may be an adapter with a thread of its own.
                    _runtime.call_in(inner.loop, functools.partial(inner.learn, Cause.DISCONNECT_RECEIVED, message))
            if self.scope is not None and _watch.can_be_blocked() and self._can_be_blocked():
                _watch.departures.add(self, self.loop)
        if departs:
            self._departed(message)

    def _departed(self, message: Message) -> None:
        """Do what the departure of the client entails."""
        scope = self.scope
        if scope is None:  # only what the application left behind still asks
            return
        record = self.gone.record = Disconnect(
            self.protocol,
            str(scope.get("method")) if self.protocol == "http" else None,
            str(scope.get("path")),
            _client_of(scope),
            self.gone.phase,
            field(message, "code") if self.protocol == "websocket" else None,
            self.gone.disconnected_at - self.began,
        )
        if self.outer is None and self.loop is not None:
            self.plan_cancellation()
            for hook in self.terms.hooks:
                _call(hook, record, self.attended.context)

    def plan_cancellation(self) -> None:
        """Have the application end, after the grace of the terms, now that its client has gone."""
        seconds = self.terms.seconds_to_cancel
        if seconds == 0:
            self.end_app()
        elif seconds is not None:
            self.attended.timer = _runtime.call_later(seconds, self.end_app)
        elif self.terms.grace is None and self.terms.policy == "mute":
            _watch.voids.add(self, self.loop)

    def plan_end(self) -> None:
        """Cancel what stands around an application that was cancelled: it takes that for an ordinary end."""
        self.attended.timer = _runtime.call_later(_SECONDS_TO_END, self.end_app)

    def end_app(self) -> None:
        """Cancel the application, or so much of it as may still answer, unless something shields it."""
        attended, outer = self.attended, self.outer
        if self.scope is None or self.state is not _DISCONNECTED or not self.gone.unsaid or attended.cancels:
            return
        if outer is not None and outer.attended.cancels and outer.task is self.task:
            return  # it is the clean-up of an application that has been cancelled
        if attended.inner:
            for inner in attended.inner:
                _runtime.call_in(inner.loop, inner.end_app)
        elif self.root.attended.shields:
            self.root.attended.is_due = True
        elif self.task is not None:
            seconds = self._seconds_to_react()
            if seconds is None:
                seconds = self._cancel()
            if seconds is not None and seconds < math.inf:
                attended.timer = _runtime.call_later(seconds, self.end_app)

    def _cancel(self) -> float | None:
        attended = self.attended
        now = time.monotonic()
        attended.tried_at = attended.tried_at or now
        attended.cancellations = _runtime.cancellations(self.task)
        seconds = _runtime.cancel(self.task, now - attended.tried_at)
        attended.cancels = seconds is None
        return seconds

    def _seconds_to_react(self) -> float | None:
        """How long to wait for a framework that has a listener in a task of its own, and the handler in another.

        Quart and Django end the handler when the listener is told. A cancellation of the task that waits for both would
        leave both behind.
        """
        attended = self.attended
        if attended.has_reacted:
            return None
        waits_for = _runtime.waits_for_others(self.running)
        if attended.waited_for is None:
            attended.waited_for = waits_for
            return None if waits_for is None else _SECONDS_TO_REACT
        if attended.waited_for is not waits_for:
            attended.has_reacted = True
            has_heard = self.shared_reader is not None and self.shared_reader.has_told()
            return _SECONDS_TO_END_BY_ITSELF if has_heard else None
        attended.turns_to_react -= 1  # a busy loop may have had no turn in all that time
        return 0 if attended.turns_to_react else None

    def shield(self) -> object:
        """Cancel nothing, and give nobody else the occasion to, until `unshield` is called with what this returns."""
        attended = self.root.attended
        block = object()
        attended.shields += (block,)
        _within.set((*_within.get(), block))
        return block

    def unshield(self, block: object) -> None:
        root = self.root
        attended = root.attended
        attended.shields = tuple(other for other in attended.shields if other is not block)
        _within.set(tuple(other for other in _within.get() if other is not block))
        if not attended.shields and root.disconnect is not None:
            _runtime.call_in(root.loop, root.come_out)

    def come_out(self) -> None:
        """Do what was held off by the last shielded block, which has ended."""
        self.tell_readers()
        if self.attended.is_due:
            self.attended.is_due = False
            self.end_app()

    def is_within(self, block: object) -> bool:
        """Is the caller in that block, or a task that was made in it?"""
        return any(other is block for other in _within.get())

    def is_held_back(self) -> bool:
        """Is the disconnect to wait for the end of a shielded block?

        Frameworks cancel the application when one of their tasks receives it: Starlette a stream, Quart and Django all.
        Not from whoever is in the block, nor where the body is cut: that may be what the block waits for.
        """
        if not self.can_be_peeked or self.uploading:
            return False
        shields = self.root.attended.shields
        return bool(shields) and not any(map(self.is_within, shields))

    def tell_readers(self) -> None:
        """Have whoever waits to receive look again."""
        if self.shared_reader is not None:
            self.shared_reader.tell()
        for inner in self.attended.inner:
            _runtime.call_in(inner.loop, inner.tell_readers)

    def _can_be_blocked(self) -> bool:
        """May a send be at the server still, and never come back? (Not every response that is complete is asked.)"""
        return self.state is _DISCONNECTED or (self.can_be_peeked and self.is_watched)

    def look(self, context: contextvars.Context) -> None:
        """Read, if nobody does, to find out whether the client has gone.

        One message ahead at the most, and nothing of a body that the application has not asked for: that would have a
        server send `100 Continue`, and defeat its back-pressure.
        """
        if self.disconnect is not None:
            return
        if self._may_be_read():
            if not self.is_being_read():
                self.reader().look(context)
        elif self.can_be_peeked:
            self.reader()  # so that `took` notices the end of the body

    @abc.abstractmethod
    def _may_be_read(self) -> bool:
        """Does reading take nothing that the application may not have wanted?"""

    def is_whole(self, messages: list[Message]) -> bool:
        """Are these, which the application has not read, all of the request but perhaps its empty end?"""
        return False

    async def end_orderly(self, has_swallowed: bool) -> None:
        """Send what the exchange still owes, now that the application has ended and its client has gone (P11).

        Not before: on uvicorn 0.28.0 it makes BaseHTTPMiddleware outside cancel the application.

        Where nothing was muted or swallowed, the application fell silent of its own will. That too is made whole, since
        BaseHTTPMiddleware outside raises at it, but not where nobody can stand outside: into a queue (asgiref's
        ApplicationCommunicator) the bare application would have put nothing.
        """
        owed, self._owed = self._owed, ()
        if not owed or owed is _messages.WEBSOCKET_ACCEPTED:
            return
        if self.gone.is_guessed and owed is not self._OWED_AT_FIRST:
            return  # should the client be there after all: better a response that is cut than one that looks whole
        if has_swallowed or self.gone.messages_muted or not self._sends_into_queue():
            messages = _messages.fresh(owed)
            if self.gone.late_start is not None and owed is self._OWED_AT_FIRST:
                start = _messages.without_length(self.gone.late_start)
                messages = [start, *_messages.fresh(self._after(owed, start))]
            await self._pass_on(messages)

    def _sends_into_queue(self) -> bool:
        """With nothing but other installs of this middleware between."""
        owner = getattr(self._server_send, "__self__", None)
        while isinstance(owner, Connection):
            owner = getattr(owner._server_send, "__self__", None)
        return _runtime.is_queue(owner)

    def leave(self) -> None:
        """Leave nothing behind."""
        self.scope = None
        if self.shared_reader is not None and self.shared_reader.leave():
            self.shared_reader = None
        attended = self.attention
        if attended is not None:
            attended.leave()
        if self.outer is not None:
            siblings = self.outer.attended
            siblings.inner = tuple(one for one in siblings.inner if one is not self)
        if self.disconnect is not None:
            _watch.departures.discard(self, self.loop)
            _watch.voids.discard(self, self.loop)
            for task in [*self.gone.woken] if self._gone is not None else ():
                self._take_back(task)

    def _take_back(self, task: Any) -> None:
        """Something between here and the server may have swallowed the interruption of `task`."""
        if task in self.gone.woken:
            self.gone.woken -= {task}
            _runtime.take_back(task)

    def has_raised(self, exception: BaseException) -> bool:
        return isinstance(exception, ClientDisconnected) and exception.message is self.disconnect

    def has_been_cancelled(self) -> bool:
        """Has the application been cancelled by us?"""
        return self.attention is not None and self.attention.cancels

    def takes_back_cancellation(self, exception: BaseException | None) -> bool:
        """The application has ended. Was it by our cancellation, and by nobody else's?"""
        is_ours = _runtime.is_ended_by_cancel(self.task, exception, self.attended.cancellations)
        self.root.attended.has_ended_by_it |= is_ours or getattr(self.task, "was_cut_short", False)
        if self.outer is not None:
            _runtime.call_in(self.outer.loop, self.outer.plan_end)
        return is_ours

    def sum_up(self, raised: BaseException | None) -> Exchange:
        """The record of the exchange, which has ended with this exception, or none."""
        assert self.record is not None
        counted = self._counted
        ended: Ended = "returned"
        if isinstance(raised, Exception):
            ended = "raised"
        elif raised is not None or self.attended.has_ended_by_it:
            ended = "cancelled"
        exchange = self.gone.exchange = Exchange(
            self.record,
            self.status(),
            None if counted is None else counted.messages,
            None if counted is None else counted.payload,
            self.gone.messages_muted,
            self.gone.bytes_muted,
            time.monotonic() - self.gone.disconnected_at,
            ended,
            type(raised).__name__ if ended == "raised" else None,
        )
        return exchange


def _client_of(scope: Any) -> tuple[str, int] | None:
    client = scope.get("client")
    return tuple(client) if isinstance(client, (tuple, list)) and len(client) == 2 else None


def _call(hook: Hook, record: Disconnect, context: contextvars.Context | None) -> None:
    """Call a hook, whose own mistakes change nothing."""
    context = contextvars.Context() if context is None else context.copy()  # which may be in use
    try:
        result = context.run(hook, record)
        if inspect.isawaitable(result):
            _runtime.start_detached(_await(hook, result), context)
    except BaseException as exception:
        if not isinstance(exception, Exception) and not _runtime.is_cancelled_error(exception):
            raise
        _complain(hook)


async def _await(hook: Hook, result: Awaitable[Any]) -> None:
    try:
        await result
    except BaseException as exception:
        cancellation, rest = _runtime.split_cancellation(exception)
        if rest is not None:
            _complain(hook)
        if cancellation is not None:
            raise cancellation


def _complain(hook: Hook) -> None:
    _LOGGER.exception("on_disconnect failed: %s", name_of(hook))


class HTTPConnection(Connection):
    __slots__ = ("_start",)
    _start: Mapping[str, Any]

    protocol = "http"
    _OWED_AT_FIRST = HTTP_OWES_ALL
    can_be_peeked = True
    _after = staticmethod(after_http)

    def _note(self, message: Mapping[str, Any]) -> None:
        if self.state is _OPEN:
            owed = self._owed_before = self._owed
            if owed is HTTP_OWES_BODY and message["type"] == "http.response.body":  # as nearly all of them end
                self._owed = ()
            elif owed is HTTP_OWES_ALL and message["type"] == "http.response.start" and "trailers" not in message:
                self._start = message  # as nearly all of them begin
                self._owed = HTTP_OWES_BODY
                return
            else:
                self._owed = after_http(owed, message)
                if owed is HTTP_OWES_ALL:
                    self._start = message
                if self._owed:
                    return
            self._last = message
            self.state = _AFTER_LAST_MESSAGE
        else:
            self._last = None  # it may be the very dict of the last message again

    def took(self, message: Message) -> Message:
        kind = field(message, "type")
        if kind == "http.request":
            self.uploading = bool(message.get("more_body"))
            self.reader().prefers_task = not self.uploading  # as in receive; here somebody else has come to read
            if not self.uploading and self.attention is not None and self.attention.is_looked_at:
                self.attention.look()  # now, not a second later
        elif kind == "http.disconnect":
            self.learn(Cause.DISCONNECT_RECEIVED, message)
        return message

    def _may_be_read(self) -> bool:
        if self.uploading is None:
            # An application that answers without having read will not read: Starlette's stream, under "raise".
            return self._owed is not HTTP_OWES_ALL or not _messages.announces_body(self.scope)
        return not self.uploading

    def is_whole(self, messages: list[Message]) -> bool:
        # Hypercorn and granian make two messages of the smallest body.
        length = None if self.scope is None else _messages.announced_length(self.scope)
        return bool(length) and sum(map(_messages.payload, messages)) == length

    def _new_disconnect(self) -> Message:
        return {"type": "http.disconnect"}

    def status(self) -> int | None:
        return self._start.get("status") if self.gone.phase == "during the response" else None

    def _phase_now(self) -> Phase:
        if self._owed is not HTTP_OWES_ALL:
            return "during the response"
        return "during the upload" if self.uploading else "before the response"


class WebSocketConnection(Connection):
    __slots__ = ()

    protocol = "websocket"
    _OWED_AT_FIRST = _messages.WEBSOCKET_OWES_HANDSHAKE
    can_be_peeked = False
    _after = staticmethod(after_websocket)

    def _note(self, message: Mapping[str, Any]) -> None:
        if self.state is _OPEN:
            owed = self._owed_before = self._owed
            owed = self._owed = after_websocket(owed, message)
            if not owed:
                self._last = message
                self.state = _AFTER_LAST_MESSAGE
                if self.shared_reader is not None:
                    self.shared_reader.rest()  # granian's send waits as long as anybody is in its receive
        else:
            self._last = None  # it may be the very dict of the last message again

    def took(self, message: Message) -> Message:
        kind = field(message, "type")
        if kind == "websocket.disconnect":
            message = _messages.with_code(message)
            self.learn(Cause.DISCONNECT_RECEIVED, message)
        elif self.shared_reader is not None:
            self.shared_reader.prefers_task = False
        if kind == "websocket.connect":
            self.uploading = False  # before the accept only the disconnect can still come
        return message

    def is_departure(self, exception: BaseException) -> bool:
        return tells_of_lost_websocket(exception)

    def _may_be_read(self) -> bool:
        if self._owed is _messages.WEBSOCKET_OWES_HANDSHAKE:
            return self.uploading is False
        return self._owed is _messages.WEBSOCKET_ACCEPTED

    def _new_disconnect(self) -> Message:
        # No close frame came: 1006 (RFC 6455, 7.4.1).
        return {"type": "websocket.disconnect", "code": 1006, "reason": ""}

    def _phase_now(self) -> Phase:
        return "before the handshake" if self._owed is _messages.WEBSOCKET_OWES_HANDSHAKE else "while open"
