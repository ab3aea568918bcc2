"""What is logged of clients that have left.

`configure` makes the lines of logger `disconnect_mw` seen: servers configure their own loggers only. `install` drops
the lines of servers and frameworks that tell of nothing but a client that has left.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
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
    was; a line that a handler of the root logger writes to the same terminal is not written twice.

    With the logger at INFO or below every exchange is checked for a disconnect, as it is with a hook.

    Raises `ValueError` for a level or a format that there is not.
    """
    if format not in ("text", "json"):
        raise ValueError(f"format must be 'text' or 'json', not {format!r}: look for a misspelling")
    if isinstance(level, bool) or not isinstance(level, (int, str)):
        raise ValueError(f"level must be the name or the number of a level of logging, not {level!r}")
    if isinstance(level, str) and level not in logging.getLevelNamesMapping():
        names = ", ".join(name for name in logging.getLevelNamesMapping() if name != "NOTSET")
        raise ValueError(f"level must be one of {names}, not {level!r}: look for a misspelling")
    for handler in [one for one in LOGGER.handlers if isinstance(one, Handler)]:
        LOGGER.removeHandler(handler)
    LOGGER.addHandler(Handler(JSONFormatter() if format == "json" else TextFormatter()))
    LOGGER.setLevel(level)
    LOGGER.disabled = False  # logging.config disables what was there before it, unless it is told not to


def is_configured() -> bool:
    """Whether `configure` has been called."""
    return any(isinstance(handler, Handler) for handler in LOGGER.handlers)


class Handler(logging.StreamHandler[Any]):
    """Writes to what is `sys.stderr` at the time."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream: Any = sys.stderr
        if not any(_writes(handler, record) for handler in _inherited(record.name)):
            super().emit(record)


def _inherited(name: str) -> list[logging.Handler]:
    """The handlers that the record meets further up."""
    logger: logging.Logger | None = logging.getLogger(name)
    handlers: list[logging.Handler] = []
    while logger is not None:
        handlers += logger.handlers
        logger = logger.parent if logger.propagate else None
    return handlers


def _writes(handler: logging.Handler, record: logging.LogRecord) -> bool:
    """Whether another handler writes the line where this one would."""
    return (
        isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, Handler)
        and handler.stream in (sys.stderr, sys.stdout)
        and record.levelno >= handler.level
    )


class TextFormatter(logging.Formatter):
    """As the server formats its own lines; where there is none that is known, as uvicorn does."""

    def format(self, record: logging.LogRecord) -> str:
        for name in _SERVERS:
            for handler in logging.getLogger(name).handlers:
                if handler.formatter is not None:
                    return handler.formatter.format(record)
        level = record.levelname
        if sys.stderr.isatty():
            level = f"\x1b[{_COLOURS.get(record.levelno, 0)}m{level}\x1b[0m"
        return f"{level}:{' ' * (9 - len(record.levelname))}{super().format(record)}"


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
