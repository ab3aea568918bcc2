"""What is logged of clients that have left.

`configure` makes the lines of logger `disconnect_mw` seen: servers configure their own loggers only. `install` drops
the lines of servers and frameworks that tell of nothing but a client that has left.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import logging
import sys
import threading
import time
from logging.handlers import MemoryHandler, QueueHandler, QueueListener
from typing import Any, Literal

from .._records import Exchange
from .._telling import LOGGER
from ._filter import DisconnectFilter, install

__all__ = ["DisconnectFilter", "configure", "install"]

Format = Literal["text", "json"]

_SERVERS = ("uvicorn", "gunicorn.error", "hypercorn.error", "_granian")
"""The loggers that servers configure, in the order in which they count: gunicorn's uvicorn worker configures two."""

_COLOURS = {logging.DEBUG: 36, logging.INFO: 32, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 91}


def configure(level: int | str = "INFO", format: Format = "text") -> None:
    """Have the lines of logger `disconnect_mw` appear on stderr, from `level` on.

    `format` is `"text"`, which looks as the lines of the server that runs (its own formatter is used, with its
    colours), or `"json"`, an object a line.

    It may be called at any time; the last call counts, and there is one handler. The logger's propagation remains as it
    was, and a line is written to a terminal once: where another handler of this logger or of the root logger writes
    text to stderr or stdout, that handler writes it; with `"json"` this one does, and the other leaves it out. A
    handler of a kind that logging and Rich do not have, as loguru's recipe has it, is not known to write there.

    With the logger at INFO or below every exchange is checked for a disconnect, as it is with a hook.

    Raises `ValueError` for a level or a format that there is not.
    """
    if format not in ("text", "json"):
        raise ValueError(f"format must be 'text' or 'json', not {format!r}: look for a misspelling")
    number = _level(level)
    for handler in [one for one in LOGGER.handlers if isinstance(one, Handler)]:
        LOGGER.removeHandler(handler)
    LOGGER.addHandler(Handler(JSONFormatter() if format == "json" else TextFormatter()))
    LOGGER.handlers.insert(0, LOGGER.handlers.pop())  # it says to those behind it what it has written
    LOGGER.setLevel(number)
    LOGGER.disabled = False  # logging.config disables what was there before it, unless it is told not to


def _level(level: object) -> int:
    names = logging.getLevelNamesMapping()
    if isinstance(level, str):
        number = names.get(level, names.get(level.upper(), logging.NOTSET))
    elif isinstance(level, int) and not isinstance(level, bool):
        number = level
    else:
        raise ValueError(f"level must be the name or the number of a level of logging, not {level!r}")
    if number <= logging.NOTSET:
        shown = ", ".join(name for name in names if name != "NOTSET")
        raise ValueError(f"level must be one of {shown}, not {level!r}: look for a misspelling")
    return number


def is_configured() -> bool:
    """Whether `configure` has been called."""
    return any(isinstance(handler, Handler) for handler in LOGGER.handlers)


class Handler(logging.StreamHandler[Any]):
    """Writes to what is `sys.stderr` at the time."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        others = _others(record)
        if isinstance(self.formatter, JSONFormatter) and record.name == LOGGER.name:
            setattr(record, _WRITTEN, True)
            for handler in others:
                handler.addFilter(_is_unwritten)  # once, as addFilter has it
        elif others:
            return
        self.stream: Any = sys.stderr
        super().emit(record)


_WRITTEN = "disconnect_mw_written"


def _is_unwritten(record: logging.LogRecord) -> bool:
    """A filter for the handlers that would write to the terminal what `Handler` has written there."""
    return not getattr(record, _WRITTEN, False)


def _others(record: logging.LogRecord) -> list[logging.Handler]:
    """The other handlers that write the record to the terminal."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    found: list[logging.Handler] = []
    while logger is not None:
        for handler in logger.handlers:
            found += [] if isinstance(handler, Handler) else _writers(handler, record)
        logger = logger.parent if logger.propagate else None
    return found


def _writers(handler: logging.Handler, record: logging.LogRecord) -> list[logging.Handler]:
    """`handler`, or those to which it hands on, if they write the record to the terminal."""
    if record.levelno < handler.level or not handler.filter(copy.copy(record)):
        return []
    if isinstance(handler, QueueHandler):
        return [one for behind in _behind(handler.queue) for one in _writers(behind, record)]
    if isinstance(handler, MemoryHandler):
        return [] if handler.target is None else _writers(handler.target, record)
    console = getattr(handler, "console", None)  # Rich's
    stream = getattr(handler if console is None else console, "stream" if console is None else "file", None)
    if stream is None or stream not in (sys.stderr, sys.stdout):
        return []
    # Where stderr alone is a terminal, stdout goes elsewhere; where neither is, both may be collected (containers).
    return [handler] if stream is sys.stderr or sys.stdout.isatty() == sys.stderr.isatty() else []


def _behind(queue: object) -> list[logging.Handler]:
    """The handlers of the listener that takes records out of `queue`: a thread runs it, and nothing else has it."""
    listeners = [getattr(getattr(thread, "_target", None), "__self__", None) for thread in threading.enumerate()]
    return [
        handler
        for listener in listeners
        if isinstance(listener, QueueListener) and listener.queue is queue
        for handler in listener.handlers
    ]


class TextFormatter(logging.Formatter):
    """As the server formats its own lines; where there is none that is known, as uvicorn does."""

    def format(self, record: logging.LogRecord) -> str:
        for name in _SERVERS:
            for handler in logging.getLogger(name).handlers:
                if handler.formatter is not None:
                    with contextlib.suppress(Exception):  # it may need what only the server's own records have
                        return handler.formatter.format(_filtered(handler, record))
        level = record.levelname
        if sys.stderr.isatty():
            level = f"\x1b[{_COLOURS.get(record.levelno, 0)}m{level}\x1b[0m"
        return f"{level}:{' ' * (9 - len(record.levelname))}{super().format(record)}"


def _filtered(handler: logging.Handler, record: logging.LogRecord) -> logging.LogRecord:
    """A copy of the record with the fields that the handler's filters add, be it one that they drop."""
    copied = copy.copy(record)
    found: object = handler.filter(copied)
    return found if isinstance(found, logging.LogRecord) else copied  # since Python 3.12 it may be another one


class JSONFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and the fields of the exchange."""

    converter: Any = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        exchange = getattr(record, "exchange", None)
        if isinstance(exchange, Exchange):
            fields["exchange"] = dataclasses.asdict(exchange)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)
