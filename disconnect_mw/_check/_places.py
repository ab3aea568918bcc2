"""What an exception is and where it comes from, and what a task awaits, in words for a report.

Runs in the server's process.
"""

from __future__ import annotations

import asyncio
import linecache
import os
import sysconfig
import traceback
from collections.abc import Iterable
from typing import Any

from .. import _frames
from .._errors import ClientDisconnected, is_disconnect_error, remove_disconnect_errors

SERVERS = ("uvicorn", "hypercorn", "granian", "gunicorn", "daphne")
_SERVER_PACKAGES = frozenset({*SERVERS, "_granian", "websockets", "wsproto", "h11", "h2", "twisted", "uvloop"})

_LINES_OF_TRACEBACK = 12

_LIBRARIES = tuple({os.path.realpath(path) + os.sep for path in sysconfig.get_paths().values()})
bases: list[str] = []
"""The directories that are left out where a line of a file below them is named."""

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def describe(exception: BaseException) -> dict[str, Any]:
    """Return what a report tells of an exception: its kind, text and place, and whether a departure causes it."""
    return {
        "kind": name_of(exception),
        "text": str(exception)[:300],
        "is_of_departure": is_of_departure(exception),
        "place": place_of(exception),
        "traceback": "".join(traceback.format_exception(exception)).splitlines()[-_LINES_OF_TRACEBACK:],
    }


def is_of_departure(exception: BaseException) -> bool:
    """Whether it is a framework's or a server's word for a client that has left, or a cancellation."""
    return isinstance(exception, asyncio.CancelledError) or remove_disconnect_errors(exception, _is_servers) is None


def _is_servers(exception: BaseException) -> bool:
    if isinstance(exception, ClientDisconnected) or _raised_in(exception) in _SERVER_PACKAGES:
        return True
    return isinstance(exception, ConnectionError) and is_disconnect_error(exception, None)


def _raised_in(exception: BaseException) -> str:
    """The package of the code that raised it."""
    step, package = exception.__traceback__, ""
    while step is not None:
        package = _frames.package_of(step.tb_frame)
        step = step.tb_next
    return package


def place_of(exception: BaseException) -> str | None:
    """The innermost line of the app's own code that it came through; of a group, that of its first exception."""
    while isinstance(exception, BaseExceptionGroup):
        exception = exception.exceptions[0]
    lines = traceback.extract_tb(exception.__traceback__)
    own = [line for line in lines if is_apps(line.filename)]
    return line_of(own[-1].filename, own[-1].lineno, own[-1].name) if own else None


def is_apps(file: str) -> bool:
    """Whether the file is the app's own: no library's and none of this package."""
    return not file.startswith(("<", PACKAGE, *_LIBRARIES)) and "site-packages" not in file


def name_of(exception: BaseException) -> str:
    kind = type(exception)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def place_of_task(task: Any) -> str:
    """The coroutine of a task, and where it is suspended in the app's own code."""
    name = str(getattr(task.get_coro(), "__qualname__", task.get_coro()))
    own = _own_frames([task])
    return f"{name}, {_line_of(own[-1])}" if own else name


def package_of_task(task: Any) -> str:
    """The package of the coroutine that a task runs."""
    return _frames.package_of(_frames.frame_of(task.get_coro()))


def where(tasks: Iterable[Any]) -> dict[str, Any]:
    """Tell what a handler that still runs in these tasks awaits, and whether a thread does its work."""
    own = _own_frames(tasks)
    names = [frame.f_code.co_name for frame in _all_frames(tasks)]
    return {
        "place": _line_of(own[-1]) if own else None,
        "source": linecache.getline(own[-1].f_code.co_filename, own[-1].f_lineno).strip() if own else None,
        "in_thread": any("to_thread" in name or "worker_thread" in name for name in names),
    }


def _own_frames(tasks: Iterable[Any]) -> list[Any]:
    return [frame for frame in _all_frames(tasks) if is_apps(frame.f_code.co_filename)]


def _all_frames(tasks: Iterable[Any]) -> list[Any]:
    """The frames in which the tasks are suspended, the outermost of each first."""
    return [
        frame for task in tasks for frame in map(_frames.frame_of, _frames.chain(task.get_coro())) if frame is not None
    ]


def _line_of(frame: Any) -> str:
    return line_of(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def line_of(file: str, number: int | None, name: str = "") -> str:
    base = next((base for base in bases if file.startswith(base + os.sep)), None)
    return f"{file if base is None else os.path.relpath(file, base)}:{number}{name and f', in {name}'}"
