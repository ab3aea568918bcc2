"""The receiving side, once it is not simply the application that reads.

One reader at a time reaches the server; the others wait for the event that it sets. Once only the disconnect can still
come (the request body has been read), or after a read was cancelled (somebody peeks), the reader is a task of its own:
it outlives whoever waits for it, so a cancelled waiter loses nothing, and the server's `receive` is not cancelled
before the exchange ends. gunicorn's `asgi` worker takes such a cancellation for a departure.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

from . import _runtime
from ._messages import Message, brings_input

if TYPE_CHECKING:
    from ._connection import Connection

# How many turns of the loop the server has to say whether its client has gone, when its send raised something that may
# also be a mistake of the application's. It knows at once; the turns are for a task that brings the news.
_TURNS_TO_ASK = 5

# How many messages that wait before the disconnect are read, to be replayed, in search of it.
_MESSAGES_TO_ASK = 64

# After how many answers of the disconnect everybody else has a turn. An application that goes on asking whatever it is
# told just waits under Hypercorn and Daphne, which tell it once; it must not starve the event loop here.
_ANSWERS_WITHOUT_A_TURN = 4096


class Reader:
    """Reads for everybody."""

    __slots__ = (
        "_ahead",
        "_answers",
        "_connection",
        "_failure",
        "_is_left",
        "_mark",
        "_task",
        "_told",
        "_waiters",
        "interrupted",
        "prefers_task",
    )

    def __init__(self, connection: Connection, prefers_task: bool) -> None:
        self._connection = connection
        self.prefers_task = prefers_task
        self.interrupted = False  # the application's own read, because the client is known to have gone
        self._mark: object = None  # the read of a task of our own
        self._task: _runtime.Started | None = None
        self._ahead: list[Message] = []  # read before anybody asked
        self._failure: BaseException | None = None  # what the server's receive raised before anybody asked
        self._waiters: list[_runtime.Waiter] = []  # for a read to be over
        self._is_left = connection.scope is None
        self._answers = 0  # of the disconnect
        self._told: Any = None  # the task that had the last of them

    async def receive(self) -> Message:
        connection = self._connection
        may_be_peek = True
        while connection.disconnect is None or connection.is_held_back():
            if connection.disconnect is None:
                if self._ahead:
                    # A receive that had to wait for this message would not have got it in a cancelled scope. Nor must
                    # a peek get it now: Starlette's is_disconnected() drops whatever it finds, a request body too.
                    if connection.can_be_peeked:
                        await _runtime.checkpoint()
                    if self._ahead and connection.disconnect is None:
                        return self._ahead.pop(0)
                    continue
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                if not self._is_busy():
                    reads_on = connection.can_be_peeked
                    if not (self.prefers_task and (await self._is_there_now() or self._start(reads_on=reads_on))):
                        return await connection.read_directly()
                    if self._ahead:
                        return self._ahead.pop(0)
                    continue
                if may_be_peek and await _runtime.wait_before_peek():
                    may_be_peek = False
                    continue
            waiter = _runtime.new_waiter()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
                if self._is_left and self.leave():
                    connection.shared_reader = None
        self._answers += 1
        self._told = connection.caller()
        if self._answers % _ANSWERS_WITHOUT_A_TURN == 0:
            await _runtime.checkpoint()
        return connection.disconnect_again()

    def _is_busy(self) -> bool:
        return self._mark is not None or self._connection.is_being_read()

    def tell(self) -> None:
        """Wake whoever waits: a read is over, or the disconnect known."""
        for waiter in self._waiters:
            _runtime.wake(waiter)

    async def _is_there_now(self) -> bool:
        """On trio, where a task cannot make its first step at once: is there a message that need not be waited for?

        A peek, which comes from a cancelled scope, gets no further than this; the next one finds what a task has read
        by then. trio's own channels, and so Hypercorn's `receive`, give nothing in a cancelled scope.
        """
        scope = _runtime.cancelled_scope()
        if scope is None:
            return False
        mark = self._mark = object()
        try:
            with scope:
                await self._read(mark)
        except BaseException:
            self._start(reads_on=self._connection.can_be_peeked)
            raise
        return bool(self._ahead) or self._failure is not None or self._connection.disconnect is not None

    def look(self, context: contextvars.Context) -> None:
        """Read for nobody, until there is something that somebody may want."""
        if not (self._is_busy() or self._failure or self._is_far_ahead()):
            self._start(context, reads_on=True)

    def _is_far_ahead(self) -> bool:
        """Has a message been read that somebody may want, beyond what each exchange begins with?"""
        if self._connection.is_whole(self._ahead):
            return False
        return len(self._ahead) > 1 or any(map(brings_input, self._ahead))

    def _start(self, context: contextvars.Context | None = None, reads_on: bool = False) -> bool:
        """Have a task of our own read one message; False where no loop runs that could run it.

        With `reads_on` it goes on until there is something that somebody may want: after the end of the request there
        is nothing but the disconnect.
        """
        mark = self._mark = object()
        task = _runtime.start(self._read(mark, reads_on), context)
        if task is None:
            self._mark = None
            return False
        if self._mark is mark:  # it is not back yet
            self._task = task
        return True

    async def _read(self, mark: object, reads_on: bool = False) -> None:
        connection = self._connection
        try:
            while True:
                message = connection.took(await connection.server_receive())
                if connection.disconnect is not None:
                    break
                self._ahead.append(message)
                if not reads_on or self._is_far_ahead() or self._mark is not mark:
                    break
                self.tell()
        except BaseException as exception:
            # A cancellation that the server's receive raises belongs to the next receive, like all that it raises.
            if not isinstance(exception, Exception) and not _runtime.is_cancelled_error(exception):
                raise
            if self._mark is mark and not connection.took_exception(exception):
                self._failure = exception
        finally:
            if self._mark is mark:
                self._mark = self._task = None
                self.tell()

    async def ask(self) -> None:
        """Give the server the occasion to say that its client has gone. What else it says is kept for `receive`."""
        for _ in range(_TURNS_TO_ASK):
            while self._connection.disconnect is None and self._failure is None and not self._is_busy():
                if len(self._ahead) >= _MESSAGES_TO_ASK or not self._start():
                    return
            if self._connection.disconnect is not None or self._failure is not None:
                return
            await _runtime.checkpoint()

    def has_told(self) -> bool:
        """Has anybody received the disconnect?"""
        return self._answers > 0

    def tells_others(self) -> bool:
        """Has another task than the caller's been told of the disconnect, or is it about to be?"""
        return bool(self._waiters) or self._told not in (None, self._connection.caller())

    def interrupt(self, task: Any) -> None:
        """Wake the application's own read at the server, which may never tell it that the client has gone."""
        if not self.interrupted:
            self.interrupted = _runtime.interrupt(task)

    def rest(self) -> None:
        """End our own read, if nobody waits for it."""
        if self._task is not None and not self._waiters:
            task, self._task, self._mark = self._task, None, None
            task.cancel()

    def leave(self) -> bool:
        """End our own read, as soon as no task that the application left behind waits for it. Is that now?"""
        self._is_left = True
        self.rest()
        return not self._waiters
