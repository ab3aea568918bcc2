"""The work of the apps, the transcript of how it ends, and the app that the server serves."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import sys
import time
import traceback
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from servers.play import emit, named, signal  # type: ignore[import-not-found]

from disconnect_mw import DisconnectMiddleware

from ..situations import SECONDS_OF_STREAM, SECONDS_OF_WORK, SECONDS_TO_CLEAN_UP, STREAMS, VARIANTS

SECONDS_PER_TICK = 0.02
TICKS_UNTIL_IT_LEAVES = 4
"""The client. They take longer than the 75 ms after which the middleware has checked for the first time."""

SECONDS_TO_SETTLE = 3.0
"""For which a task may go on after its app has ended."""

RUN: contextvars.ContextVar[str | None] = contextvars.ContextVar("RUN", default=None)
SITUATION: contextvars.ContextVar[str] = contextvars.ContextVar("SITUATION")
"""Of the exchange. What the server logs of it, it logs in the same context."""


class Bug(Exception):
    """The app's own, which must be told."""


class Work:
    """Work of the app that its client sees; `async with Work() as tick`, and `await tick()` as long as that is true.

    It goes on for some time after the client has left. Then it tells how it has ended, and cleans up, which awaits. In
    the situations of a bug it ends with one.
    """

    def __init__(self, run: str | None = None, situation: str | None = None) -> None:
        """Of that run and situation, where the framework does its work in the context of no exchange."""
        self._run = run or RUN.get()
        situation = situation or SITUATION.get()
        emit(run=self._run, begun=True)
        self._is_bug = situation.startswith("bug")  # asked now: a garbage collector ends it in another context
        self._ticks = 0
        self._left: float | None = None
        self._seconds = SECONDS_OF_STREAM if situation in STREAMS else SECONDS_OF_WORK

    async def __aenter__(self) -> Any:
        return self._tick

    async def _tick(self) -> bool:
        self._begin_tick()
        await asyncio.sleep(SECONDS_PER_TICK)
        return self._goes_on()

    def tick_in_thread(self) -> bool:
        self._begin_tick()
        time.sleep(SECONDS_PER_TICK)
        return self._goes_on()

    def _begin_tick(self) -> None:
        self._ticks += 1
        if self._ticks == TICKS_UNTIL_IT_LEAVES:
            emit(run=self._run, ready="working")

    def _goes_on(self) -> bool:
        if self._left is None and signal(self._run, "left").is_set():
            self._left = time.monotonic()
        return self._left is None or time.monotonic() - self._left < self._seconds

    def end(self, exception: BaseException | None) -> None:
        seconds = 0.0 if self._left is None else time.monotonic() - self._left
        emit(run=self._run, work="finishes" if exception is None else word_for(exception), seconds=seconds)

    def end_in_thread(self, exception: BaseException | None) -> None:
        self.end(exception)
        emit(run=self._run, clean_up="whole")
        self._raise_bug()

    def _raise_bug(self) -> None:
        if self._is_bug:
            raise Bug(f"the bug of run {self._run}")

    async def __aexit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(exception)
        try:
            await asyncio.sleep(SECONDS_TO_CLEAN_UP)
        except BaseException:
            emit(run=self._run, clean_up="cut")
            raise
        else:
            emit(run=self._run, clean_up="whole")
        finally:
            self._raise_bug()


def work_in_thread() -> Iterator[str]:
    """The work of an app that runs in a thread and awaits nothing."""
    work = Work()
    try:
        while work.tick_in_thread():
            yield "tick"
    except BaseException as exception:
        work.end_in_thread(exception)
        raise
    work.end_in_thread(None)


class Reading:
    """Reading that has no end but that the client leaves; `async with Reading()` tells how it has ended."""

    async def __aenter__(self) -> None:
        self._work = Work()

    async def __aexit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._work.__aexit__(kind, exception, traceback)


def word_for(exception: BaseException) -> str:
    words = {asyncio.CancelledError: "cancelled", GeneratorExit: "closed"}
    return words.get(type(exception), f"raised {named(exception)}")


def ran(what: str) -> None:
    """Tell that the framework ran a clean-up of its own."""
    emit(run=RUN.get(), ran=what)


# The server's app

_lifespans: list[Any] = []


def at(app: Any, path: str, query: bytes | None = None) -> Any:
    """The app, which is called with that path whatever the client has asked for, and with that query, or its own."""

    async def moved(scope: Any, receive: Any, send: Any) -> None:
        scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope if query is None else {**scope, "query_string": query}, receive, send)

    return moved


def play(app: Any, *situations: str, lifespan: Any = False) -> None:
    """Have the server play the app in these situations, bare and under each policy.

    With `lifespan` it runs that of the app, or of another one.
    """
    for situation in (*situations, "session"):  # which a client opens before it begins
        for variant, options in VARIANTS.items():
            reads = _Reads(app)
            wrapped = reads if variant == "bare" else DisconnectMiddleware(reads, **options)
            serve.APPS[situation, variant] = _Entered(wrapped, situation)
    if lifespan:
        _lifespans.append(app if lifespan is True else lifespan)


class _Entered:
    """The app, whose context has the run."""

    def __init__(self, app: Any, situation: str) -> None:
        self._app = app
        self._situation = situation

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        run = scope["path"].rpartition("/")[2]
        RUN.set(run)
        SITUATION.set(self._situation)
        emit(run=run, called=True)
        return await self._app(scope, receive, send)


class _Reads:
    """The framework's app, of which it is told that it waits for what the client never sends."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        run, calls = RUN.get(), 0
        before = {"http": 1, "websocket": 2}[scope["type"]]  # the first part of an upload; the connect and a message

        async def noted_receive() -> Any:
            nonlocal calls
            calls += 1
            if calls == before + 1:
                emit(run=run, ready="reading")
            return await receive()

        return await self._app(scope, noted_receive, send)


def _emit_record(self: logging.Logger, record: logging.LogRecord) -> None:
    exception = record.exc_info[1] if record.exc_info else None
    emit(
        record_of=RUN.get(),
        log=record.levelname,
        logger=record.name,
        text=record.getMessage(),
        exception=None if exception is None else named(exception),
        traceback="" if exception is None else "".join(traceback.format_exception(exception)),
    )


logging.Logger.callHandlers = _emit_record  # type: ignore[method-assign]


async def _tasks(scope: Any, receive: Any, send: Any) -> None:
    """Answer which tasks are left since the first such question, once there are none, or they have had time."""
    if not _of_process:
        _of_process.update(asyncio.all_tasks())
    ends = time.monotonic() + SECONDS_TO_SETTLE
    while (left := _tasks_left()) and time.monotonic() < ends:
        await asyncio.sleep(0.05)
    body = json.dumps(left).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def _tasks_left() -> list[str]:
    """The tasks of exchanges, each behind its run where Python tells that: 3.12 does."""
    found = []
    task: Any  # its context can be asked for from Python 3.12 on
    for task in asyncio.all_tasks() - set(_of_process):
        coroutine = task.get_coro()
        run = task.get_context().get(RUN) if sys.version_info >= (3, 12) else None
        code = getattr(coroutine, "cr_code", None)
        package = "" if code is None else code.co_filename.rpartition("site-packages/")[2].partition("/")[0]
        if task is not asyncio.current_task() and package not in (*_SERVERS, *_lasting):
            found.append(f"{run or ''} {package}.{getattr(coroutine, '__qualname__', coroutine)}")
    return found


_SERVERS = ("uvicorn", "hypercorn", "granian", "daphne", "sse_starlette")
"""Packages whose tasks are the server's. The one of sse-starlette waits for the server's end, once in a process."""

_lasting: list[str] = []


def lasting(package: str) -> None:
    """Count no task of that package: it outlasts an exchange by design."""
    _lasting.append(package)


_of_process: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

serve.APPS["tasks", "-"] = _tasks


async def _filter(scope: Any, receive: Any, send: Any) -> None:
    """Install the filter."""
    from disconnect_mw.observe.logging import install

    emit(filtered=install())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


serve.APPS["filter", "-"] = _filter


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan" and _lifespans:
        await _lifespans[0](scope, receive, send)
    else:
        await serve.app(scope, receive, send)


gc.collect()
gc.freeze()
