"""Clients: what they request, and when and how they leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import unquote_to_bytes

from ._fields import check_choice, check_close_code, check_count, check_flag, check_seconds, check_sequence, check_text

Leave: TypeAlias = Literal["fin", "rst", "half", "close"]
"""How a client leaves.

"fin": it closes the connection. "rst": it resets the connection. "half": it shuts its sending side and reads on.
"close": it sends a close frame.
"""

Headers: TypeAlias = "Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]"

_METHODS_WITH_CONTENT = ("POST", "PUT", "PATCH")

_WRONG_HEADER = "headers must hold pairs of name and value, (b'accept', b'text/html') or both as str, not {!r}"


@dataclasses.dataclass(frozen=True)
class _Client:
    """What HTTP and WebSocket clients have in common."""

    path: str = "/"
    _: dataclasses.KW_ONLY
    headers: Headers = ()
    state: Mapping[str, Any] | None = None
    leaves_after_messages: int | None = None
    leaves_after_seconds: float | None = None
    leaves_by: Leave = "fin"
    stalls_after_messages: int | None = None

    def _check(self, ways: tuple[str, ...], times: tuple[str, ...]) -> None:
        check_text("path", self.path)
        if not self.path.startswith("/"):
            advice = "leave scheme and host out" if "://" in self.path else f"write {'/' + self.path!r}"
            raise ValueError(f"path must begin with '/', not {self.path!r}: {advice}")
        object.__setattr__(self, "headers", _header_pairs(self.headers))
        check_choice("leaves_by", self.leaves_by, ways)
        for name in ("leaves_after_messages", "stalls_after_messages"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.leaves_after_seconds is not None:
            check_seconds("leaves_after_seconds", self.leaves_after_seconds)
        values = {name: getattr(self, name) for name in times}
        given = [name for name, value in values.items() if value is not None and value is not False]
        if len(given) > 1:
            raise ValueError(f"{given[0]} contradicts {given[1]}: a client leaves once, so give one of them")
        if not given and self.leaves_by != "fin":
            raise ValueError(f"leaves_by {self.leaves_by!r} contradicts a client that stays: say when it leaves")
        if self.stalls_after_messages is not None:
            left_at = 0 if "leaves_before_accept" in given else self.leaves_after_messages
            if left_at is not None:
                raise ValueError(
                    f"stalls_after_messages contradicts {given[0]}: no message reaches a client that has stalled, and "
                    "a client that has left does not stall; give leaves_after_seconds, or none of the two"
                )

    @property
    def leaves_at_once(self) -> bool:
        """Whether the client leaves before the app has sent a message."""
        return self.leaves_after_messages == 0

    def _scope(self, kind: str, scheme: str) -> dict[str, Any]:
        path, _, query = self.path.partition("?")
        raw_path = path.encode()
        scope: dict[str, Any] = {
            "type": kind,
            "scheme": scheme,
            "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
            "raw_path": raw_path,
            "query_string": query.encode(),
            "root_path": "",
            "headers": list(self.headers),
            "client": ("127.0.0.1", 50000),
            "server": ("testserver", 80),
        }
        if self.state is not None:
            scope["state"] = dict(self.state)
        return scope


@dataclasses.dataclass(frozen=True)
class HTTPClient(_Client):
    """A client of one HTTP request.

    `path` may have a query. `body` is bytes or a sequence of chunks. `method` is POST if there is a body, else GET.
    `headers` are pairs of bytes or str. They announce the body as a real client's do, unless given ones do: bytes by
    `content-length`, chunks on HTTP/1.1 by `transfer-encoding: chunked` (RFC 9110, 8.6; RFC 9112, 6.1). `state` is what
    a lifespan would have left in `scope["state"]`.

    The client leaves

    - as soon as `leaves_after_messages` of the app's messages have reached it (0: before the app's first turn),
    - or `leaves_after_seconds` after the exchange began,
    - or in the middle of its upload: when the app has read `leaves_after_chunks` of the body, or sends without having
      read so many. The rest of the body never comes.

    Without any of these it stays to the end. It leaves by "fin", by "rst", or by "half": it shuts its sending side and
    reads on. After `stalls_after_messages` it reads no more, so that a `send` of content blocks until it leaves.

    Raises `TypeError` or `ValueError` for a value that is wrong, and for values that contradict each other.
    """

    _: dataclasses.KW_ONLY
    method: str | None = None
    body: bytes | Iterable[bytes] = b""
    leaves_after_chunks: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.body, str):
            raise TypeError(f"body must be bytes, or a sequence of them, not {self.body!r}: encode it")
        if not isinstance(self.body, bytes):
            object.__setattr__(self, "body", check_sequence("body", self.body, (bytes,)))
        chunks = self.chunks()
        if self.method is None:
            object.__setattr__(self, "method", "POST" if chunks else "GET")
        check_text("method", self.method)
        if self.leaves_after_chunks is not None:
            check_count("leaves_after_chunks", self.leaves_after_chunks)
            if self.leaves_after_chunks >= len(chunks):
                raise ValueError(
                    f"leaves_after_chunks {self.leaves_after_chunks} contradicts body, which has {len(chunks)} "
                    f"chunk{'' if len(chunks) == 1 else 's'}: to leave in the middle it must leave before the last"
                )
        self._check(("fin", "rst", "half"), ("leaves_after_messages", "leaves_after_seconds", "leaves_after_chunks"))

    def chunks(self) -> tuple[bytes, ...]:
        body: Any = self.body  # bytes, or a tuple since __post_init__
        return body if isinstance(body, tuple) else (body,) if body else ()

    def _body_headers(self, http_version: str) -> list[tuple[bytes, bytes]]:
        """Return the header that announces the body (RFC 9110, 8.6; RFC 9112, 6.1), if a real client would send one."""
        pairs: Any = self.headers  # since _check
        names = {name for name, _ in pairs}
        if names & {b"content-length", b"transfer-encoding"}:
            return []
        if not self.chunks():
            return [(b"content-length", b"0")] if self.method in _METHODS_WITH_CONTENT else []
        if isinstance(self.body, bytes):
            return [(b"content-length", str(len(self.body)).encode())]
        return [(b"transfer-encoding", b"chunked")] if http_version == "1.1" else []

    def requests(self) -> list[dict[str, Any]]:
        """Return the `http.request` messages that come before the client leaves."""
        chunks = self.chunks() or (b"",)
        last = len(chunks) - 1
        messages = [
            {"type": "http.request", "body": chunk, "more_body": index < last} for index, chunk in enumerate(chunks)
        ]
        return messages[: self.leaves_after_chunks]

    def scope(self, http_version: str = "1.1") -> dict[str, Any]:
        """Return a new scope, without the keys that only the server knows."""
        scope = {**self._scope("http", "http"), "method": self.method, "http_version": http_version}
        scope["headers"] += self._body_headers(http_version)
        return scope


@dataclasses.dataclass(frozen=True)
class WebSocketClient(_Client):
    """A client of one WebSocket.

    It sends its `messages`, each str or bytes, as soon as the app has accepted. `path`, `headers`, `state` and
    `stalls_after_messages` are as an `HTTPClient`'s.

    The client leaves

    - as soon as `leaves_after_messages` of the app's messages have reached it (the accept is the first; 0: before it),
    - or `leaves_after_seconds` after the exchange began,
    - or, with `leaves_before_accept`, before the app's first turn.

    Without any of these it stays until the app closes or ends. It leaves by "fin", "rst" or "half", or by "close": a
    close frame with `close_code` (1000 unless given) and `close_reason`.

    Raises `TypeError` or `ValueError` for a value that is wrong, and for values that contradict each other.
    """

    _: dataclasses.KW_ONLY
    subprotocols: Iterable[str] = ()
    messages: Iterable[str | bytes] = ()
    leaves_before_accept: bool = False
    close_code: int | None = None
    close_reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "subprotocols", check_sequence("subprotocols", self.subprotocols, (str,)))
        object.__setattr__(self, "messages", check_sequence("messages", self.messages, (str, bytes)))
        check_flag("leaves_before_accept", self.leaves_before_accept)
        self._check(get_args(Leave), ("leaves_before_accept", "leaves_after_messages", "leaves_after_seconds"))
        check_text("close_reason", self.close_reason)
        if self.leaves_by == "close":
            if self.leaves_at_once:
                raise ValueError(
                    "leaves_by 'close' contradicts leaving before the accept: there are no frames before it"
                )
            if self.close_code is not None:
                check_close_code("close_code", self.close_code)
        elif self.close_code is not None or self.close_reason:
            name = "close_reason" if self.close_code is None else "close_code"
            raise ValueError(f"{name} contradicts leaves_by {self.leaves_by!r}: only 'close' has one")

    @property
    def leaves_at_once(self) -> bool:
        return self.leaves_before_accept or super().leaves_at_once

    def receives(self) -> list[dict[str, Any]]:
        """Return the `websocket.receive` messages that the client sends."""
        return [
            {"type": "websocket.receive", "text": message, "bytes": None}
            if isinstance(message, str)
            else {"type": "websocket.receive", "text": None, "bytes": message}
            for message in self.messages
        ]

    def scope(self, http_version: str = "1.1") -> dict[str, Any]:
        """Return a new scope, without the keys that only the server knows."""
        scope = self._scope("websocket", "ws")
        return {**scope, "subprotocols": list(self.subprotocols), "http_version": http_version}


Client: TypeAlias = "HTTPClient | WebSocketClient"


def _header_pairs(headers: Any) -> tuple[tuple[bytes, bytes], ...]:
    given = tuple(headers.items()) if isinstance(headers, Mapping) else headers
    pairs = []
    for pair in check_sequence("headers", given, (tuple, list)):
        if len(pair) != 2 or not all(isinstance(item, (str, bytes)) for item in pair):
            raise TypeError(_WRONG_HEADER.format(pair))
        name, value = (item.encode("latin-1") if isinstance(item, str) else item for item in pair)
        pairs.append((name.lower(), value))
    return tuple(pairs)
