"""Several tasks wait in `receive`, one reads from the server.

Once only the disconnect can still come (the request body has been read), or after a read was cancelled (a peek), the
reader is a task of its own. It outlives the tasks that wait for it, so a cancelled one loses no message, and the
server's `receive` is not cancelled before the exchange ends: gunicorn's `asgi` worker takes such a cancellation for a
disconnect.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
from collections.abc import Awaitable
from time import monotonic
from typing import Any, ClassVar, Protocol

from ._backends import Backend, Call, Handle, Waiter, is_cancelled_error
from ._errors import report
from ._messages import Message, brings_input, field, payload
from ._state import Listener

_LOGGER = logging.getLogger("disconnect_mw")

# How many turns of the loop the server has to say whether its client has disconnected, when its send raised what may
# also be a mistake of the app's. It knows at once; the turns are for a task that brings the disconnect.
_TURNS_TO_ASK = 5

# How many messages that wait before the disconnect are read, for the app to receive later, in search of it.
_MESSAGES_TO_ASK = 64

# How many messages a look at the end of the app may take: an empty request, and the disconnect.
_MESSAGES_TO_LOOK_AT = 2

# And how many bytes of a request body that the app does not read, while it answers. (Beyond it a body that a
# framework's listener would have taken is discarded, as by that.)
_BYTES_TO_ASK = 1 << 20

# Seconds for which a task whose `receive` was cancelled counts as one that will ask again; or half as long again as it
# took from one time to the next, up to a limit.
_BETWEEN_POLLS = 1.0
_BETWEEN_POLLS_AT_MOST = 10.0

# After how many answers of the disconnect all other tasks get a turn. An app that asks again and again, whatever it is
# told, just waits under Hypercorn and Daphne, which tell it once; here it must not starve the event loop.
_ANSWERS_WITHOUT_A_TURN = 4096


class Source(Protocol):
    """What the reader needs of a connection."""

    scope: Any  # None when the exchange is over
    backend: Backend
    token: Any
    disconnect_message: Message | None  # what every `receive` answers, once it is known
    is_http: ClassVar[bool]
    DISCONNECT: ClassVar[str]  # the type of the message
    server_receive: Call

    def withholds_disconnect(self) -> bool: ...

    def take_empty_body(self) -> Message | None: ...

    def delivered(self, message: Message) -> Message: ...

    def is_being_read(self) -> bool: ...

    def read_directly(self) -> Awaitable[Message]: ...

    def received(self, message: Message) -> Message: ...

    def receive_failed(self, exception: BaseException) -> bool: ...

    def is_whole_body(self, messages: list[Message]) -> bool: ...

    def drop_reader(self) -> None: ...


class Reader:
    __slots__ = (
        "_ahead",
        "_answers",
        "_asking",
        "_failure",
        "_has_delivered",
        "_has_discarded",
        "_has_drained",
        "_is_asked",
        "_mark",
        "_polled_at",
        "_polls_until",
        "_reads_away",
        "_source",
        "_task",
        "_told",
        "_waiters",
        "has_read_disconnect",
        "has_woken_app",
        "is_answering",
        "prefers_task",
        "told_at",
    )

    def __init__(self, source: Source, prefers_task: bool, has_delivered: bool) -> None:
        self._source = source
        self._has_delivered = has_delivered  # a message, at any time
        self._is_asked = has_delivered  # by the app, at any time
        self.prefers_task: bool = prefers_task
        self.has_woken_app: bool = False  # in its own read, because the disconnect is known
        self._mark: object = None  # the read of a task of our own
        self._task: Handle | None = None
        self._ahead: list[Message] = []  # read before the app asked
        self._failure: BaseException | None = None  # what the server's receive raised before the app asked
        self._waiters: list[Waiter] = []  # for a read to be over
        self._reads_away = False  # a body for which nobody has asked yet
        self._has_discarded = False  # of that body
        self._has_drained = False  # a WebSocket, of what its peer said before it left
        self._polled_at = -math.inf  # when a `receive` was last cancelled, on the clock of monotonic()
        self._polls_until = -math.inf  # the time until which the next one may come
        self._asking = 0  # tasks that are in `receive`
        self._answers = 0  # of the disconnect
        self._told: set[Any] = set()  # the tasks that got one
        self.told_at: float = 0.0  # when the first of them did, on the clock of monotonic()
        self.is_answering: bool = False  # a read of the app's own has brought the disconnect, which it is about to get
        self.has_read_disconnect: bool = False  # the server has nothing more to deliver

    async def receive(self) -> Message:
        self._asking += 1
        is_late = self._has_discarded and not self._is_asked and self._source.disconnect_message is None
        self._is_asked, self._reads_away = True, False
        if is_late:
            _LOGGER.warning("the app asks for a request body which it had left unread while it answered: it is lost")
        try:
            return await self._receive()
        finally:
            self._asking -= 1

    async def _receive(self) -> Message:
        source = self._source
        may_be_peek = True
        while True:
            is_known = source.disconnect_message is not None
            if is_known and not source.withholds_disconnect() and (source.is_http or not await self._finds_more()):
                return await self._answer()
            if is_known and (body := source.take_empty_body()) is not None:
                self._ahead.append(body)
            if self._ahead:
                # A receive that had to wait for this message would not have got it in a cancelled scope. Nor must a
                # peek get it now: Starlette's is_disconnected() drops whatever it finds, a request body too.
                if source.is_http:
                    await source.backend.checkpoint()
                if self._ahead and (is_known or source.disconnect_message is None):
                    return self._deliver()
                continue
            if not is_known:
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                if not self._is_busy():
                    reads_on = source.is_http  # after the request only the disconnect can come
                    if not (self.prefers_task and (await self._read_at_once() or self._start(reads_on=reads_on))):
                        return await source.read_directly()
                    if self._ahead:
                        return self._deliver()
                    continue
                if may_be_peek and await source.backend.wait_before_peek():
                    may_be_peek = False
                    continue
            await self._wait()

    def _deliver(self) -> Message:
        self._has_delivered = True
        return self._source.delivered(self._ahead.pop(0))

    async def _answer(self) -> Message:
        """The disconnect."""
        source = self._source
        self._answers += 1
        if source.scope is not None:
            self.told_at = self.told_at or monotonic()
            self._told.add(source.backend.current_task(source.token))
        if self._answers % _ANSWERS_WITHOUT_A_TURN == 0:
            await source.backend.checkpoint()
        assert source.disconnect_message is not None
        return {**source.disconnect_message}

    async def _finds_more(self) -> bool:
        """Whether a WebSocket's peer said something before it left, which the app has not received (P2)."""
        if self._has_drained:
            return False
        if not (self._ahead or self.has_read_disconnect):
            await self.ask_server(at_most=1)  # more would keep an install further in waiting
        if self._has_delivered:  # granian 1.7.6 says `websocket.connect` once more
            self._ahead = [message for message in self._ahead if brings_input(message)]
        self._has_drained = not self._ahead
        return bool(self._ahead)

    async def _wait(self) -> None:
        waiter = self._source.backend.create_waiter()
        self._waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            self.receive_cancelled()
            raise
        finally:
            self._waiters.remove(waiter)
            if self._source.scope is None:  # the exchange is over
                self.close()

    def receive_cancelled(self) -> None:
        """A task has given up waiting for a message. If that was a peek, or a time-out, others will come."""
        now = monotonic()
        interval = now - self._polled_at  # without an end, the first time
        may_take = 1.5 * interval if interval < _BETWEEN_POLLS_AT_MOST else 0
        self._polls_until = now + min(max(_BETWEEN_POLLS, may_take), _BETWEEN_POLLS_AT_MOST)
        self._polled_at = now

    def wake(self) -> None:
        """Wake the waiting tasks: a read is over, or the disconnect is known."""
        for waiter in self._waiters:
            waiter.set()

    # Reading

    def _is_busy(self) -> bool:
        return self._mark is not None or self._source.is_being_read()

    async def _read_at_once(self) -> bool:
        """On trio, where a task cannot make its first step at once: read a message that need not be waited for.

        Returns whether there was one. A peek, which comes from a cancelled scope, gets no further than this; the next
        one finds what a task has read by then. trio's own channels, and so Hypercorn's `receive`, give nothing in a
        cancelled scope.
        """
        if not self._source.backend.peeks_itself():
            return False
        mark = self._mark = object()
        try:
            await self._read(mark)
        except BaseException:
            self.receive_cancelled()
            self._start(reads_on=self._source.is_http)
            raise
        return bool(self._ahead) or self._failure is not None or self._source.disconnect_message is not None

    def read_for_disconnect(self, context: contextvars.Context, reads_further: bool) -> None:
        """Read although no task of the app waits, until there is a message that the app may want.

        With `reads_further` one more than there are such messages, within limits.
        """
        if self._is_busy() or self._failure:
            return
        if not self._is_far_ahead() or (reads_further and not self._is_full()):
            self._start(context, reads_on=True)

    def read_away(self, context: contextvars.Context) -> None:
        """Read a body for which nobody asks, to its end. What does not fit is discarded, unless the app asks first."""
        if not (self._is_asked or self._failure):
            self._reads_away = True
            if not self._is_busy():
                self._start(context, reads_on=True)

    def _is_full(self) -> bool:
        return len(self._ahead) >= _MESSAGES_TO_ASK or sum(map(payload, self._ahead)) >= _BYTES_TO_ASK

    def _is_far_ahead(self) -> bool:
        """Whether a message was read that the app may want, beyond what each exchange begins with."""
        if self._source.is_whole_body(self._ahead):
            return False
        return len(self._ahead) > 1 or any(map(brings_input, self._ahead))

    def _start(self, context: contextvars.Context | None = None, reads_on: bool = False) -> bool:
        """Have a task of our own read one message. Returns False where no event loop runs.

        With `reads_on` it goes on until there is a message that the app may want: after the end of the request there is
        nothing but the disconnect.
        """
        mark = self._mark = object()
        task = self._source.backend.spawn(self._read(mark, reads_on), context)
        if task is None:
            self._mark = None
            return False
        if self._mark is mark:  # it has not returned yet
            self._task = task
        return True

    async def _read(self, mark: object, reads_on: bool = False) -> None:
        source = self._source
        try:
            while True:
                message = self._received(await source.server_receive())
                if field(message, "type") == source.DISCONNECT and source.disconnect_message is not None:
                    self.has_read_disconnect = True
                    break
                if not self._has_discarded:
                    self._ahead.append(message)
                if self._reads_away and self._is_full():
                    self._has_discarded = True
                    self._ahead.clear()
                is_known = source.disconnect_message is not None
                is_enough = self._is_far_ahead() and not self._reads_away
                if is_known or not reads_on or is_enough or self._mark is not mark:
                    break
                self.wake()
        except BaseException as exception:
            # A cancellation that the server's receive raises belongs to the next receive, like all that it raises.
            if not isinstance(exception, Exception) and not is_cancelled_error(exception):
                raise
            if self._mark is mark:
                self.has_read_disconnect = source.receive_failed(exception)
                if not self.has_read_disconnect:
                    self._failure = exception
        finally:
            if self._mark is mark:
                self._mark = self._task = None
                self.wake()

    def _received(self, message: Message) -> Message:
        """Note what the server delivered. An error of ours in that harms no app: it gets the message, as bare."""
        try:
            return self._source.received(message)
        except Exception:
            report("a message of the server could not be noted")
            return message

    async def look_once(self) -> None:
        """Find out whether the server has the disconnect to deliver at this moment. The app has ended.

        The server's `receive` is not cancelled for that: gunicorn's `asgi` worker would take it for a disconnect.
        """
        source = self._source
        if self._is_busy():  # our own task, which may be about to learn of it
            await source.backend.checkpoint()
            return
        for _ in range(_MESSAGES_TO_LOOK_AT):
            try:
                steps = source.server_receive().__await__()
                next(steps)
            except StopIteration as end:
                if brings_input(source.received(end.value)) or source.disconnect_message is not None:
                    return
            except Exception as exception:
                source.receive_failed(exception)
                return
            else:
                # It may be no coroutine, or not let itself be closed.
                with contextlib.suppress(AttributeError, RuntimeError):
                    steps.close()
                return

    async def ask_server(self, at_most: int = _MESSAGES_TO_ASK) -> None:
        """Give the server the occasion to deliver the disconnect. Other messages are kept for `receive`."""
        for _ in range(_TURNS_TO_ASK):
            while not (self._has_ended() or self._is_busy()):
                if len(self._ahead) >= at_most or not self._start():
                    return
            if self._has_ended():
                return
            await self._source.backend.checkpoint()

    # Questions

    def _has_ended(self) -> bool:
        """Whether the server has nothing more to deliver that the app may want."""
        is_known = self._source.disconnect_message is not None
        return self.has_read_disconnect or self._failure is not None or (is_known and self._source.is_http)

    def holds_input(self) -> bool:
        """Whether a message was read that the app has not asked for yet."""
        return bool(self._ahead)

    def listener(self) -> Listener:
        """Whether the app asks for the disconnect."""
        if self._answers or self.is_answering:
            return Listener.TOLD
        if self._asking or self._source.is_being_read():
            return Listener.WAITS
        return Listener.POLLS if monotonic() < self._polls_until else Listener.NONE

    def has_told_caller(self) -> bool:
        """Whether the calling task has received the disconnect itself."""
        return self._source.backend.current_task(self._source.token) in self._told

    def told_goes_on(self) -> bool:
        """Whether a task that has received the disconnect still runs, and so may clean up."""
        backend = self._source.backend
        return not all(map(backend.has_ended, self._told))

    # The end

    def wake_app(self, task: Any) -> None:
        """Wake the app's own read at the server, which may never deliver the disconnect."""
        if not self.has_woken_app:
            self.has_woken_app = self._source.backend.wake(task, self._source.server_receive)

    def stop_reading(self) -> None:
        """End our own read, if no task waits for it."""
        if self._task is not None and not self._waiters:
            task, self._task, self._mark = self._task, None, None
            task.cancel()

    def close(self) -> None:
        """End our own read, as soon as no task that the app left behind waits for it."""
        self._told.clear()  # a task may hold an exception whose traceback holds this
        self.stop_reading()
        if not self._waiters:
            self._source.drop_reader()
