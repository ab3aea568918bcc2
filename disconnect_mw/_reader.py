"""Several tasks wait in `receive`, one reads from the server.

Once only the disconnect can still come (the request body has been read), or after a read was cancelled (a peek), the
reader is a task of its own. It outlives the tasks that wait for it, so a cancelled one loses no message, and the
server's `receive` is not cancelled before the exchange ends: gunicorn's `asgi` worker takes such a cancellation for a
disconnect.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable
from typing import Any, ClassVar, Protocol

from ._backends import Backend, Call, Handle, Waiter, is_cancelled_error
from ._messages import Message, brings_input

# How many turns of the loop the server has to say whether its client has disconnected, when its send raised what may
# also be a mistake of the app's. It knows at once; the turns are for a task that brings the disconnect.
_TURNS_TO_ASK = 5

# How many messages that wait before the disconnect are read, for the app to receive later, in search of it.
_MESSAGES_TO_ASK = 64

# After how many answers of the disconnect all other tasks get a turn. An app that asks again and again, whatever it is
# told, just waits under Hypercorn and Daphne, which tell it once; here it must not starve the event loop.
_ANSWERS_WITHOUT_A_TURN = 4096


class Source(Protocol):
    """What the reader needs of a connection."""

    scope: Any  # None when the exchange is over
    backend: Backend
    token: Any
    disconnect: Message | None
    can_be_peeked: ClassVar[bool]
    server_receive: Call

    def withholds_disconnect(self) -> bool: ...

    def is_being_read(self) -> bool: ...

    def read_directly(self) -> Awaitable[Message]: ...

    def received(self, message: Message) -> Message: ...

    def receive_failed(self, exception: BaseException) -> bool: ...

    def is_whole_body(self, messages: list[Message]) -> bool: ...

    def drop_reader(self) -> None: ...


class Reader:
    __slots__ = (
        "_ahead",
        "_answered",
        "_answers",
        "_failure",
        "_mark",
        "_source",
        "_task",
        "_waiters",
        "has_woken_app",
        "prefers_task",
    )

    def __init__(self, source: Source, prefers_task: bool) -> None:
        self._source = source
        self.prefers_task = prefers_task
        self.has_woken_app = False  # in its own read, because the disconnect is known
        self._mark: object = None  # the read of a task of our own
        self._task: Handle | None = None
        self._ahead: list[Message] = []  # read before the app asked
        self._failure: BaseException | None = None  # what the server's receive raised before the app asked
        self._waiters: list[Waiter] = []  # for a read to be over
        self._answers = 0  # of the disconnect
        self._answered: Any = None  # the task that got the last of them

    async def receive(self) -> Message:
        source = self._source
        may_be_peek = True
        while source.disconnect is None or source.withholds_disconnect():
            if source.disconnect is None:
                if self._ahead:
                    # A receive that had to wait for this message would not have got it in a cancelled scope. Nor must
                    # a peek get it now: Starlette's is_disconnected() drops whatever it finds, a request body too.
                    if source.can_be_peeked:
                        await source.backend.checkpoint()
                    if self._ahead and source.disconnect is None:
                        return self._ahead.pop(0)
                    continue
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                if not self._is_busy():
                    reads_on = source.can_be_peeked
                    if not (self.prefers_task and (await self._read_at_once() or self._start(reads_on=reads_on))):
                        return await source.read_directly()
                    if self._ahead:
                        return self._ahead.pop(0)
                    continue
                if may_be_peek and await source.backend.wait_before_peek():
                    may_be_peek = False
                    continue
            await self._wait()
        self._answers += 1
        self._answered = source.backend.current_task(source.token)
        if self._answers % _ANSWERS_WITHOUT_A_TURN == 0:
            await source.backend.checkpoint()
        return {**source.disconnect}

    async def _wait(self) -> None:
        waiter = self._source.backend.create_waiter()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
            if self._source.scope is None:  # the exchange is over
                self.close()

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
        scope = self._source.backend.cancelled_scope()
        if scope is None:
            return False
        mark = self._mark = object()
        try:
            with scope:
                await self._read(mark)
        except BaseException:
            self._start(reads_on=self._source.can_be_peeked)
            raise
        return bool(self._ahead) or self._failure is not None or self._source.disconnect is not None

    def read_for_disconnect(self, context: contextvars.Context) -> None:
        """Read although no task of the app waits, until there is a message that the app may want."""
        if not (self._is_busy() or self._failure or self._is_far_ahead()):
            self._start(context, reads_on=True)

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
                message = source.received(await source.server_receive())
                if source.disconnect is not None:
                    break
                self._ahead.append(message)
                if not reads_on or self._is_far_ahead() or self._mark is not mark:
                    break
                self.wake()
        except BaseException as exception:
            # A cancellation that the server's receive raises belongs to the next receive, like all that it raises.
            if not isinstance(exception, Exception) and not is_cancelled_error(exception):
                raise
            if self._mark is mark and not source.receive_failed(exception):
                self._failure = exception
        finally:
            if self._mark is mark:
                self._mark = self._task = None
                self.wake()

    async def ask_server(self) -> None:
        """Give the server the occasion to deliver the disconnect. Other messages are kept for `receive`."""
        source = self._source
        for _ in range(_TURNS_TO_ASK):
            while source.disconnect is None and self._failure is None and not self._is_busy():
                if len(self._ahead) >= _MESSAGES_TO_ASK or not self._start():
                    return
            if source.disconnect is not None or self._failure is not None:
                return
            await source.backend.checkpoint()

    # Questions

    def has_answered(self) -> bool:
        """Whether any task has received the disconnect."""
        return self._answers > 0

    def has_told_others(self) -> bool:
        """Whether another task than the caller's has received the disconnect, or is about to."""
        backend = self._source.backend
        if self._waiters or backend.repeats_cancellation:
            return bool(self._waiters)
        return self._answered not in (None, backend.current_task(self._source.token))

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
        self.stop_reading()
        if not self._waiters:
            self._source.drop_reader()
