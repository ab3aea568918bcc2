"""An access log that has a line for every exchange, 499 where the client left before the response began.

No server measured writes a line for such a client, and gunicorn's `asgi` worker writes 500.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from time import monotonic
from typing import Any, Literal, get_args

from .._errors import report
from .._messages import field, payload, quoted
from .._middleware import DisconnectMiddleware, single_callable
from .._telling import LOGGER, OBSERVERS
from .._view import KEY, ClientConnection
from . import check_every_exchange, subscribe

Format = Literal["common", "combined", "json"]

ACCESS_LOGGER = logging.getLogger("disconnect_mw.access")

# strftime would write them in the language of the locale.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class AccessLog:
    """Write one line about each exchange of `app`, be its client there at the end or not.

    To be installed around `DisconnectMiddleware`, or inside of it. `format` is

    - `"common"`: `127.0.0.1 - - [29/Nov/2026:12:00:00 +0000] "GET /slow HTTP/1.1" 499 0 2.500 "disconnected=before the
      response"`: the common log format, then the seconds, and `"-"` where the client stayed;
    - `"combined"`: with the referer and the user agent behind the bytes;
    - `"json"`: an object a line.

    The status is the one that was sent, 499 where the client left before that, 500 where the app failed before that,
    101 for a WebSocket that was accepted, and 403 for one that was refused. Bytes are those of the bodies, without
    files that the server itself sends, until the client left; none for HEAD.

    Lines go to `logger`, or to logger `disconnect_mw.access`, which gets a handler for stdout unless it has one. They
    are at INFO; a logger without a level of its own gets that.

    As long as there is an access log, every exchange is checked for a disconnect, as it is with a hook. Raises
    `TypeError` for what is no application or no logger, and `ValueError` for a format that there is not.
    """

    def __init__(self, app: Any, *, format: Format = "common", logger: logging.Logger | None = None) -> None:
        self._app = single_callable(app)
        if format not in get_args(Format):
            raise ValueError(f"format must be 'common', 'combined' or 'json', not {format!r}: look for a misspelling")
        if logger is not None and not isinstance(logger, logging.Logger):
            raise TypeError(f"logger must be a logging.Logger, or None, not {logger!r}: pass logging.getLogger(name)")
        self._write = {"common": _common, "combined": _combined, "json": _json}[format]
        self._logger = _own_logger() if logger is None else logger
        if self._logger.level == logging.NOTSET:
            self._logger.setLevel(logging.INFO)
        self._has_warned = False
        if check_every_exchange not in OBSERVERS:
            subscribe(check_every_exchange)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if scope.get("type") not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        entry = Entry(scope, send)
        try:
            return await self._app(scope, receive, entry.send)
        finally:
            try:
                self._log(entry)
            except Exception:  # in the place of which the app's own would be lost
                report("writing a line of the access log failed")

    def _log(self, entry: Entry) -> None:
        entry.end()
        if not (self._has_warned or DisconnectMiddleware.has_installs):  # else other middleware may have answered
            self._has_warned = True
            LOGGER.warning("the access log tells of no disconnect: there is no DisconnectMiddleware around this app")
        self._logger.info("%s", self._write(entry))


def _own_logger() -> logging.Logger:
    if not ACCESS_LOGGER.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        ACCESS_LOGGER.addHandler(handler)
        ACCESS_LOGGER.propagate = False
    return ACCESS_LOGGER


class Entry:
    """What is noted of one exchange."""

    phase: str | None = None
    code: int | None = None
    seconds: float = 0.0

    def __init__(self, scope: Any, send: Callable[[Any], Awaitable[Any]]) -> None:
        self.scope = scope
        self.time: datetime = datetime.now().astimezone()
        self.status: int | None = None
        self.bytes: int = 0
        self._send = send
        self._began = monotonic()

    async def send(self, message: Any) -> Any:
        result = await self._send(message)
        # What is sent after the disconnect is for other middleware only.
        if getattr(self.scope.get(KEY), "disconnect_message", None) is None:
            kind = field(message, "type")
            if self.method != "HEAD":  # whose body the server leaves out
                self.bytes += payload(message)
            if self.status is None:
                ends = {"websocket.accept": 101, "websocket.close": 403}
                self.status = (ends.get(kind) if isinstance(kind, str) else None) or field(message, "status")
        return result

    def end(self) -> None:
        self.seconds = monotonic() - self._began
        disconnect = ClientConnection(self.scope.get(KEY), self.scope).disconnect
        if disconnect is not None:
            self.phase, self.code = disconnect.phase, disconnect.code
        if self.status is None:
            self.status = 500 if disconnect is None else 499

    def header(self, name: bytes) -> str:
        return ", ".join(_text(value) for key, value in self.scope.get("headers") or () if key.lower() == name)

    @property
    def target(self) -> str:
        """The path and the query, as in the request line."""
        raw_path, query = self.scope.get("raw_path"), _text(self.scope.get("query_string"))
        path = quoted(self.scope.get("path", "")) if raw_path is None else _text(raw_path).partition("?")[0]
        return f"{path}?{query}" if query else path

    @property
    def method(self) -> str:
        return str(self.scope.get("method", "GET"))  # a WebSocket begins with one

    @property
    def version(self) -> str:
        return str(self.scope.get("http_version", "1.1"))

    @property
    def host(self) -> str:
        client = self.scope.get("client")
        host = client[0] if isinstance(client, (list, tuple)) and client else None
        return str(host or "-")  # granian gives an empty one on a unix socket


def _text(value: object) -> str:
    """What a scope has as bytes. Not every adapter has it so."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value or "")


def _escaped(text: str) -> str:
    """`text`, which the client chose, as Apache writes it: it must not break the line, nor the field."""
    return re.sub(r'["\\]|[^\x20-\x7e]', lambda found: {'"': '\\"', "\\": "\\\\"}.get(found[0]) or _hex(found[0]), text)


def _hex(character: str) -> str:
    return f"\\x{ord(character):02x}"  # of a header: each is a byte


def _common(entry: Entry, between: str = "") -> str:
    time = entry.time
    stamp = f"{time:%d}/{_MONTHS[time.month - 1]}/{time:%Y:%H:%M:%S %z}"
    line = f"{_escaped(entry.method)} {_escaped(entry.target)} HTTP/{_escaped(entry.version)}"
    departure = "-" if entry.phase is None else f"disconnected={entry.phase}"
    host = _escaped(entry.host)
    return f'{host} - - [{stamp}] "{line}" {entry.status} {entry.bytes}{between} {entry.seconds:.3f} "{departure}"'


def _combined(entry: Entry) -> str:
    referer, agent = (_escaped(entry.header(name)) or "-" for name in (b"referer", b"user-agent"))
    return _common(entry, f' "{referer}" "{agent}"')


def _json(entry: Entry) -> str:
    return json.dumps(
        {
            "time": entry.time.isoformat(timespec="milliseconds"),
            "peer": entry.host,
            "protocol": entry.scope["type"],
            "method": entry.method,
            "path": entry.target,
            "http_version": entry.version,
            "status": entry.status,
            "bytes": entry.bytes,
            "seconds": round(entry.seconds, 6),
            "disconnected": entry.phase,
            "code": entry.code,
            "referer": entry.header(b"referer") or None,
            "user_agent": entry.header(b"user-agent") or None,
        }
    )
