"""Stands between the server and the app under check, and tells the check what it sees there.

Runs in the server's process, in environments made for one server: it needs nothing but the standard library and this
package. It writes one JSON object a line to a loopback connection; the same connection brings commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import json
import logging
import os
import platform
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from .. import DisconnectMiddleware, _middleware
from ._exchange import TASKS_TELL_THEIR_CONTEXT, Exchange, current, servers_tasks
from ._loading import NotLoaded, load
from ._places import PACKAGE, SERVERS, bases, describe, is_apps, line_of, name_of, where

VARIABLE = "CHECK_OF_DISCONNECT_MW"
"""The environment variable with the settings, as JSON."""

_FRAMEWORKS = ("fastapi", "litestar", "quart", "django", "channels", "falcon", "blacksheep", "starlette")
_ROUTES = 1000
_TEXT = 10_000
_COLLECTED = ("Task was destroyed", "Task exception was never", "Future exception was never", "Unclosed")


class Channel:
    """The connection to the check; tells it from any thread."""

    def __init__(self, port: int, token: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._lock = threading.Lock()
        self._token = token

    def tell(self, **fact: Any) -> None:
        line = json.dumps({"token": self._token, **fact}, default=repr).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):  # the check has ended, and ends this process next
            self._socket.sendall(line)

    def commands(self) -> Iterator[dict[str, Any]]:
        with self._socket.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                yield json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Probe:
    """The ASGI application that the server serves in place of the one under check.

    `settings`: "port" and "token" of the check; "app", "app_dir" and "factory"; "is_wrapped" and, for the middleware,
    "options". Raises `SystemExit` where there is no app; the check has been told why by then.
    """

    def __init__(self, settings: dict[str, Any], end_process: Callable[[int], object] | None = None) -> None:
        self._end_process = end_process or os._exit
        self._is_wrapped: bool = settings["is_wrapped"]
        self._options: dict[str, Any] = settings["options"]
        self.channel = Channel(settings["port"], settings["token"])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exchanges: dict[Any, Exchange] = {}
        self._is_measuring = False
        self._snapshot: tracemalloc.Snapshot | None = None
        self._installs = 0
        self._watches_pools = False
        bases[:] = [os.getcwd(), settings["app_dir"]]
        self._watch_process()
        try:
            self._bare = load(settings["app"], settings["app_dir"], is_factory=settings["factory"])
            self._wrapped = self._wrap()
        except NotLoaded as failure:
            self.channel.tell(failed=failure.sentence, traceback=failure.lines)
            self.channel.close()
            raise SystemExit(f"disconnect-mw check: {failure.sentence}") from None
        self._watch_pools()
        threading.Thread(target=self._obey, daemon=True, name="disconnect-mw check").start()
        self.channel.tell(loaded=self._facts())

    def _wrap(self) -> Any:
        if not self._is_wrapped:
            return self._bare
        before = self._installs
        try:
            wrapped = DisconnectMiddleware(self._bare, **self._options)
        except (TypeError, ValueError) as error:
            raise NotLoaded(f"the middleware refuses these options: {error}", []) from None
        self._installs = before
        return wrapped

    def _facts(self) -> dict[str, Any]:
        versions = {}
        for name in (*SERVERS, *_FRAMEWORKS):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        bases = {kind.__module__.partition(".")[0] for kind in type(self._bare).__mro__}
        return {
            "python": platform.python_version(),
            "versions": versions,
            "framework": next((name for name in _FRAMEWORKS if name in bases), None),
        }

    # The app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            if not TASKS_TELL_THEIR_CONTEXT:
                _note_tasks(self._loop)
        # One that has the middleware already is run as it is. Starlette makes its own as late as the first call.
        app = self._bare if self._installs else self._wrapped
        if scope["type"] not in ("http", "websocket"):
            return await self._live(app, scope, receive, send)
        task = asyncio.current_task()
        if task is not None and current.get() is None:
            servers_tasks.add(task)
        exchange = Exchange(scope)
        self._exchanges[exchange.port] = exchange
        current.set(exchange)
        if not self._is_wrapped:
            receive, send = exchange.around(receive, send)
        self.channel.tell(begin=exchange.port, at=exchange.began, has_own=bool(self._installs))
        try:
            result = await app(scope, receive, send)
        except BaseException as exception:
            exchange.end("cancelled" if isinstance(exception, asyncio.CancelledError) else "raised", exception)
            raise
        else:
            exchange.end("returned")
            return result
        finally:
            if self._is_measuring:
                self._exchanges.pop(exchange.port, None)
            self.channel.tell(end=exchange.port, at=exchange.ended)

    async def _live(self, app: Any, scope: Any, receive: Any, send: Any) -> Any:
        """Pass the lifespan on, and tell whether the app has started."""

        async def told_send(message: Any) -> None:
            if message["type"] == "lifespan.startup.failed":
                reason = str(message.get("message") or "it gives no reason").strip().splitlines()
                self.channel.tell(failed=f"its start-up fails: {reason[-1]}", traceback=reason[-12:])
            elif message["type"] == "lifespan.startup.complete":
                self._watch_pools()
                self.channel.tell(started=True)
            await send(message)

        try:
            return await app(scope, receive, told_send)
        finally:
            self.channel.tell(started=True)  # it does not speak lifespan, or the check knows of the failure already

    # What is watched in the process

    def _watch_process(self) -> None:
        middleware: Any = DisconnectMiddleware
        logger: Any = logging.Logger
        make = DisconnectMiddleware.__init__

        def counted(install: Any, *arguments: Any, **options: Any) -> None:
            self._installs += 1
            make(install, *arguments, **options)

        async def passing(install: Any, scope: Any, receive: Any, send: Any) -> Any:
            return await install._app(scope, receive, send)

        middleware.__init__ = counted  # to know of the app's own
        if self._is_wrapped:
            _middleware.inside = _around_current
        else:
            middleware.__call__ = passing
        logger.callHandlers = lambda logger, record: self._tell_record(record)
        logging.captureWarnings(True)
        if "twisted" in sys.modules:
            from twisted.logger import STDLibLogObserver, globalLogPublisher

            globalLogPublisher.addObserver(STDLibLogObserver())  # type: ignore[arg-type]  # it is one
        sys.addaudithook(_note_open)

    def _tell_record(self, record: logging.LogRecord) -> None:
        """Tell of a log record, in place of the handlers: what they would write is told once, and sent nowhere."""
        exception = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if record.levelno < logging.WARNING and exception is None:
            return
        text = record.getMessage()
        # Those are logged when something is collected, in whichever exchange that happens.
        is_late = record.name == "asyncio" and text.startswith(_COLLECTED)
        exchange = None if is_late else current.get() or _exchange_of(exception)
        self.channel.tell(
            log=record.levelname,
            logger=record.name,
            text=text[:_TEXT],
            exception=None if exception is None else describe(exception),
            port=None if exchange is None else exchange.port,
            at=time.monotonic(),
        )

    def _watch_pools(self) -> None:
        """Note which exchange has taken a connection from a pool of SQLAlchemy's, where that has been imported."""
        if self._watches_pools or "sqlalchemy.pool" not in sys.modules:
            return
        self._watches_pools = True
        from sqlalchemy import event
        from sqlalchemy.pool import Pool

        takers: dict[int, list[Exchange]] = {}  # several, where a pool has one connection for all

        def taken(connection: Any, record: Any, fairy: Any) -> None:
            exchange = current.get()
            if exchange is not None:
                takers.setdefault(id(record), []).append(exchange)
                exchange.connections += 1

        def given_back(connection: Any, record: Any, *others: Any) -> None:
            those, own = takers.get(id(record), []), current.get()
            if those:
                those.pop(those.index(own) if own in those else 0).connections -= 1

        event.listen(Pool, "checkout", taken)
        for name in ("checkin", "detach", "invalidate"):
            event.listen(Pool, name, given_back)

    # Commands

    def _obey(self) -> None:
        for command in self.channel.commands():
            if self._loop is None:
                self._answer(command)
            else:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._answer, command)
        self._end_process(0)  # the check has ended, or was killed: a server must not outlive it

    def _answer(self, command: dict[str, Any]) -> None:
        doing: dict[str, Callable[[dict[str, Any]], Any]] = {
            "ping": lambda command: None,
            "record": self._record,
            "where": self._where,
            "cancel": self._cancel,
            "measure": self._measure,
            "memory": self._memory,
            "routes": lambda command: [*_routes_of(self._bare, "")][:_ROUTES],
        }
        try:
            found = doing[command["do"]](command)
        except Exception as error:
            found = {"failed": f"{name_of(error)}: {error}"}
        self.channel.tell(answer=command["id"], found=found)

    def _record(self, command: dict[str, Any]) -> Any:
        exchange = self._exchanges.get(command["port"])
        return None if exchange is None else exchange.record()

    def _tasks_of(self, command: dict[str, Any]) -> list[Any]:
        exchange = self._exchanges.get(command["port"])
        tasks = [] if exchange is None else [exchange.task, *exchange.tasks_left()]
        return [task for task in tasks if task is not None]

    def _where(self, command: dict[str, Any]) -> Any:
        return where(self._tasks_of(command))

    def _cancel(self, command: dict[str, Any]) -> Any:
        """Cancel what is left of an exchange, as a server does that shuts down."""
        for task in self._tasks_of(command):
            task.cancel()

    def _measure(self, command: dict[str, Any]) -> Any:
        """Begin or end the measurement of memory, in which nothing is kept of exchanges that have ended."""
        self._is_measuring = command["on"]
        self._exchanges = {port: exchange for port, exchange in self._exchanges.items() if exchange.ended is None}
        self._snapshot = None
        if self._is_measuring:
            tracemalloc.start()
        else:
            tracemalloc.stop()

    def _memory(self, command: dict[str, Any]) -> Any:
        """Tell the bytes that Python has allocated; with "mark" and "compare" also where most of the growth is."""
        for _ in range(2):
            gc.collect()
        found: dict[str, Any] = {"bytes": tracemalloc.get_traced_memory()[0], "place": None}
        others = [
            tracemalloc.Filter(False, f"{PACKAGE}_check{os.sep}*"),
            tracemalloc.Filter(False, tracemalloc.__file__),
        ]
        if command.get("mark"):
            self._snapshot = tracemalloc.take_snapshot()
        elif command.get("compare") and self._snapshot is not None:
            before, after = (one.filter_traces(others) for one in (self._snapshot, tracemalloc.take_snapshot()))
            found["place"] = _place_of_growth(before, after)
            self._snapshot = None
        return found


def _place_of_growth(before: tracemalloc.Snapshot, after: tracemalloc.Snapshot) -> str | None:
    """The line that allocated most of what has come; one of the app's own, if that is a tenth of it."""
    grown = [line for line in after.compare_to(before, "lineno") if line.size_diff > 0]
    whole = sum(line.size_diff for line in grown)
    own = [line for line in grown if is_apps(line.traceback[0].filename) and line.size_diff > whole / 10]
    frames = [line.traceback[0] for line in (*own, *grown)]
    return line_of(frames[0].filename, frames[0].lineno) if frames else None


def _around_current(scope: Any, receive: Any, send: Any) -> tuple[Any, Any]:
    """What the middleware gives the app in place of its `receive` and `send`."""
    exchange = current.get()
    return (receive, send) if exchange is None else exchange.around(receive, send)


def _exchange_of(exception: BaseException | None) -> Exchange | None:
    """The exchange whose call an exception came out of: servers may log it elsewhere."""
    step = None if exception is None else exception.__traceback__
    while step is not None:
        if step.tb_frame.f_code is Probe.__call__.__code__:
            found = step.tb_frame.f_locals.get("exchange")
            return found if isinstance(found, Exchange) else None
        step = step.tb_next
    return None


def _note_open(event: str, arguments: tuple[Any, ...]) -> None:
    """Note each file that a handler opens to write anew."""
    exchange = current.get() if event == "open" else None
    if exchange is None:
        return
    path, mode, flags = arguments
    if not isinstance(path, (str, bytes)):
        return
    is_written = set(mode) & set("wx") if isinstance(mode, str) else (flags or 0) & (os.O_CREAT | os.O_TRUNC)
    path = os.path.abspath(os.fsdecode(path))
    if is_written and path not in exchange.files:
        exchange.files.append(path)


def _note_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Note each task as it is made: before Python 3.12 it does not tell its context."""
    before: Any = loop.get_task_factory()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        task: Any = (before or _make_task)(loop, coroutine, **options)
        exchange = current.get()
        if exchange is not None:
            exchange.tasks.add(task)
        return task

    loop.set_task_factory(make)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
    return asyncio.Task(coroutine, loop=loop, **options)


def _routes_of(app: Any, prefix: str) -> Iterator[dict[str, Any]]:
    """The routes of Starlette, FastAPI and what is made of them, by their attributes."""
    for route in getattr(app, "routes", None) or ():
        path = prefix + str(getattr(route, "path", ""))
        if hasattr(route, "endpoint"):
            methods = sorted(getattr(route, "methods", None) or ())
            yield {"path": path, "methods": methods, "is_websocket": "WebSocket" in type(route).__name__}
        else:
            yield from _routes_of(route, path)
