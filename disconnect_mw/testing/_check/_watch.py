"""What an exchange leaves behind and has logged: records, tasks, connections of SQLAlchemy's pools, files."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from ... import _backends
from .._hang import is_in_app, relative
from .._tasks import frames_of

seen_now: contextvars.ContextVar[Seen | None] = contextvars.ContextVar("disconnect_mw.testing.seen", default=None)
"""The exchange that a task, a log record, a connection or a file belongs to; threads of anyio and asyncio have it."""

_UNRETRIEVED = "Task exception was never retrieved"
_COLLECTED = "The garbage collector is trying to clean up non-checked-in connection"


@dataclasses.dataclass(frozen=True)
class Logged:
    """A record of level ERROR, or with a traceback, that the app or a library has logged."""

    logger: str
    text: str
    exception: str
    """The class and the text of its exception, if it has one."""

    place: str

    @property
    def words(self) -> str:
        return self.exception or self.text


class Seen:
    """What is seen of one exchange, from when `seen_now` is set to it."""

    def __init__(self) -> None:
        self.logged: list[Logged] = []
        self.tasks: dict[Any, str] = {}
        """asyncio's, and the places where they were started."""

        self.uses_pool = False
        self.connections: dict[int, tuple[str, weakref.ref[Any]]] = {}
        """Those that have not been given back to their pools, and the places where they were taken."""

        self.collected: list[str] = []
        """The places where those were taken that only the garbage collector has given back."""

        self.gave_back: str | None = None
        """The place where the one was taken that was given back last."""

        self.files: set[str] = set()
        """Opened to be written."""

    def leaked_connections(self) -> list[str]:
        """The places where connections were taken that the exchange has not given back."""
        return [*self.collected, *(place for place, _ in self.connections.values())]

    def take_exceptions(self) -> list[Logged]:
        """Return the exceptions of asyncio's tasks that nothing has awaited. asyncio does not log them then."""
        failed = [task for task in self.tasks if task.done() and getattr(task, "_log_traceback", False)]
        exceptions = [task.exception() for task in failed]
        return [Logged("asyncio", _UNRETRIEVED, words_of(one), place_of(one)) for one in exceptions if one is not None]

    def cancel_tasks(self) -> None:
        """Cancel those that are left. trio lets nothing else cancel a task."""
        if not _backends.is_trio_running():
            for task in self.tasks_left():
                task.cancel()

    async def give_back_connections(self) -> None:
        """So that the next exchange finds them in the pool."""
        connections = [reference() for _, reference in self.connections.values()]
        self.connections = {}
        for connection in [one for one in connections if one is not None]:
            with contextlib.suppress(Exception):  # of a driver
                await _close(connection)

    def tasks_left(self) -> list[Any]:
        """The tasks that were started in the exchange, and still run; none of this package."""
        if not _backends.is_trio_running():
            return [task for task in self.tasks if not task.done() and not _is_ours(task)]
        root = sys.modules["trio"].lowlevel.current_root_task()
        tasks = _tasks_below(root)
        return [task for task in tasks if task.context.get(seen_now) is self and not _is_ours(task)]


def _tasks_below(task: Any) -> Iterator[Any]:
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield child
            yield from _tasks_below(child)


def _coroutine(task: Any) -> Any:
    """Of asyncio's tasks, and of trio's."""
    return task.coro if hasattr(task, "coro") else task.get_coro()


def _is_ours(task: Any) -> bool:
    code = getattr(_coroutine(task), "cr_code", None)
    return code is not None and code.co_filename.startswith(_PACKAGE)


_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep


def describe_task(task: Any, started_at: str = "") -> str:
    """The coroutine of a task, and where it waits, or where it was started."""
    coroutine = _coroutine(task)
    name = str(getattr(coroutine, "__qualname__", coroutine))
    own = [frame for frame, _ in frames_of(coroutine) if is_in_app(frame.f_code.co_filename)]
    if own:
        return f"{name}, at {_line(own[-1], own[-1].f_lineno)}"
    return f"{name}, started at {started_at}" if started_at else name


def place_of(exception: BaseException | None) -> str:
    """The innermost line of the app's own code that an exception came through; of a group, its first exception."""
    step, place = getattr(exception, "__traceback__", None), ""
    while step is not None:
        if is_in_app(step.tb_frame.f_code.co_filename):
            place = _line(step.tb_frame, step.tb_lineno)
        step = step.tb_next
    return (place_of(exception.exceptions[0]) or place) if isinstance(exception, BaseExceptionGroup) else place


def _line(frame: types.FrameType, number: int | None) -> str:
    return f"{relative(frame.f_code.co_filename)}:{number}, in {frame.f_code.co_name}"


@contextlib.contextmanager
def watching() -> Iterator[Callable[[], None]]:
    """Have what happens in exchanges noted. Gives a function that begins to watch pools, once SQLAlchemy is there."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_watching_logs())
        stack.enter_context(_watching_files())
        if not _backends.is_trio_running():
            stack.enter_context(_watching_tasks())
        has_pools = False

        def watch_pools() -> None:
            nonlocal has_pools
            if not has_pools and "sqlalchemy.pool" in sys.modules:
                has_pools = True
                stack.enter_context(_watching_pools())

        watch_pools()
        yield watch_pools


# Logs


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        seen = seen_now.get()
        exception = record.exc_info[1] if record.exc_info else None
        if seen is None or (record.levelno < logging.ERROR and exception is None) or record.levelno < logging.WARNING:
            return
        text = next(iter(record.getMessage().splitlines()), "")
        if text.startswith(_COLLECTED):
            if seen.gave_back is not None:  # just before; else it was another exchange's
                seen.collected.append(seen.gave_back)
            return
        words = "" if exception is None else words_of(exception)
        seen.logged.append(Logged(record.name, text, words, place_of(exception)))


def words_of(exception: BaseException) -> str:
    """The class of an exception and the first line of its text; of a group, those of its first."""
    while isinstance(exception, BaseExceptionGroup):
        exception = exception.exceptions[0]
    text = next(iter(str(exception).splitlines()), "")
    return type(exception).__qualname__ + (f": {text}" if text else "")


@contextlib.contextmanager
def _watching_logs() -> Iterator[None]:
    """Note what is logged in exchanges, and keep it from other handlers: it would be hundreds of tracebacks."""
    notes = _Notes()
    known = [one for one in logging.Logger.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    root = logging.getLogger()
    others = {handler for logger in (root, *known) for handler in logger.handlers}
    if logging.lastResort is not None:
        others.add(logging.lastResort)
    loggers = [root, *(logger for logger in known if not logger.propagate)]
    for handler in others:
        handler.addFilter(_is_of_no_exchange)
    for logger in loggers:
        logger.addHandler(notes)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(notes)
        for handler in others:
            handler.removeFilter(_is_of_no_exchange)


def _is_of_no_exchange(record: logging.LogRecord) -> bool:
    return seen_now.get() is None


# Tasks


@contextlib.contextmanager
def _watching_tasks() -> Iterator[None]:
    """Note each task of asyncio's as it is made: before Python 3.12 it does not tell its context."""
    import asyncio

    loop = asyncio.get_running_loop()
    before: Any = loop.get_task_factory()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        task = asyncio.Task(coroutine, loop=loop, **options) if before is None else before(loop, coroutine, **options)
        context = options.get("context")
        seen = seen_now.get() if context is None else context.get(seen_now)
        if seen is not None:
            seen.tasks[task] = _place_of_caller()
        return task

    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)


# Pools


@contextlib.contextmanager
def _watching_pools() -> Iterator[None]:
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    takers: dict[int, Seen] = {}

    def taken(connection: Any, record: Any, fairy: Any) -> None:
        seen = seen_now.get()
        if seen is not None:
            seen.uses_pool = True
            takers[id(record)] = seen
            seen.connections[id(record)] = _place_of_caller(), weakref.ref(fairy)

    def given_back(connection: Any, record: Any, *more: Any) -> None:
        seen = takers.pop(id(record), None)
        taken = None if seen is None else seen.connections.pop(id(record), None)
        current = seen_now.get()
        if current is not None:
            current.gave_back = taken[0] if taken is not None and current is seen else None
        if seen is not None and taken is not None and current is not seen:
            seen.collected.append(taken[0])  # the garbage collector runs in whatever context there is

    listeners = [("checkout", taken), ("checkin", given_back), ("detach", given_back), ("invalidate", given_back)]
    for name, listener in listeners:
        event.listen(Pool, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners:
            event.remove(Pool, name, listener)


async def _close(connection: Any) -> None:
    from sqlalchemy.engine import AdaptedConnection
    from sqlalchemy.util import greenlet_spawn

    if isinstance(connection.dbapi_connection, AdaptedConnection):  # of an asynchronous driver
        await greenlet_spawn(connection.close)
    else:
        connection.close()


def _place_of_caller() -> str:
    """The innermost line of the app's own code on the stack; that of SQLAlchemy's asyncio goes on in a greenlet's."""
    frame: Any = sys._getframe()
    greenlet: Any = sys.modules.get("greenlet")
    parent: Any = None if greenlet is None else greenlet.getcurrent().parent
    while frame is not None or parent is not None:
        if frame is None:
            frame, parent = parent.gr_frame, parent.parent
            continue
        if is_in_app(frame.f_code.co_filename):
            return _line(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


# Files

_watches_files = 0
_has_hook = False


@contextlib.contextmanager
def _watching_files() -> Iterator[None]:
    global _watches_files, _has_hook
    if not _has_hook:
        _has_hook = True
        sys.addaudithook(_note_open)  # for good: there is no way to remove one
    _watches_files += 1
    try:
        yield
    finally:
        _watches_files -= 1


def _note_open(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watches_files:
        return
    seen = seen_now.get()
    if seen is None:
        return
    path, mode, flags = arguments
    is_written = set(mode) & set("wxa+") if isinstance(mode, str) else (flags or 0) & (os.O_WRONLY | os.O_RDWR)
    if is_written and isinstance(path, (str, bytes)):
        seen.files.add(os.path.abspath(os.fsdecode(path)))
