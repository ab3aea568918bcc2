"""The words of the ASGI specification: what a message means for its exchange.

HTTP & WebSocket ASGI Message Format 2.5, and the extensions trailers, pathsend, zerocopysend and
websocket.http.response. Nothing here keeps state: what an exchange still owes travels as a tuple of messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

Message = Any
"""A message as it came. Neither side promises a dict, and whatever came is passed on as it is."""

Owed = tuple[Mapping[str, Any], ...]
"""What an exchange lacks to be whole: the least messages that would end it. Nothing, once the last word is said."""

# 499 is nginx's "client closed request": no client ever sees it, but whatever stands between the server and this
# middleware does, and may log or count it.
_START: Mapping[str, Any] = {"type": "http.response.start", "status": 499, "headers": []}
_BODY: Mapping[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}
_TRAILERS: Mapping[str, Any] = {"type": "http.response.trailers", "headers": [], "more_trailers": False}
_DENIAL_BODY: Mapping[str, Any] = {"type": "websocket.http.response.body", "body": b"", "more_body": False}
_CLOSE: Mapping[str, Any] = {"type": "websocket.close"}

HTTP_OWES_ALL: Owed = (_START, _BODY)
HTTP_OWES_BODY: Owed = (_BODY,)
_HTTP_OWES_BODY_AND_TRAILERS: Owed = (_BODY, _TRAILERS)
_HTTP_OWES_TRAILERS: Owed = (_TRAILERS,)
WEBSOCKET_OWES_HANDSHAKE: Owed = (_CLOSE,)
WEBSOCKET_ACCEPTED: Owed = (_CLOSE,)
_WEBSOCKET_OWES_DENIAL: Owed = (_DENIAL_BODY,)

_BODIES = ("http.response.body", "http.response.pathsend", "http.response.zerocopysend")

# What ends a WebSocket without having been one, or having been: an application that sends this wants no answer to it.
WEBSOCKET_ENDS = ("websocket.close", "websocket.http.response.start", "websocket.http.response.body")

_IN_ORDER: Mapping[Any, tuple[Owed, ...]] = {
    "http.response.start": (HTTP_OWES_ALL,),
    **dict.fromkeys(_BODIES, (HTTP_OWES_BODY, _HTTP_OWES_BODY_AND_TRAILERS)),
    "http.response.trailers": (_HTTP_OWES_TRAILERS,),
    "websocket.accept": (WEBSOCKET_OWES_HANDSHAKE,),
    "websocket.close": (WEBSOCKET_OWES_HANDSHAKE, WEBSOCKET_ACCEPTED),
    "websocket.send": (WEBSOCKET_ACCEPTED,),
    "websocket.http.response.start": (WEBSOCKET_OWES_HANDSHAKE,),
    "websocket.http.response.body": (_WEBSOCKET_OWES_DENIAL,),
}

_NO_STATUS_RECEIVED = 1005
"""What the specification has a `websocket.disconnect` without `code` mean (RFC 6455, 7.4.1)."""


def field(message: Message, name: str) -> Any:
    """The value under `name`; None where there is none, or where `message` is no mapping at all."""
    try:
        return message.get(name)
    except (AttributeError, TypeError):
        return None


def after_http(owed: Owed, message: Mapping[str, Any]) -> Owed:
    """What an HTTP exchange owes after `message`."""
    kind = message["type"]
    if kind == "http.response.start":
        trailers = "trailers" in message and message["trailers"]
        return _HTTP_OWES_BODY_AND_TRAILERS if trailers else HTTP_OWES_BODY
    if kind in _BODIES and not message.get("more_body"):
        return _HTTP_OWES_TRAILERS if owed is _HTTP_OWES_BODY_AND_TRAILERS else ()
    if kind == "http.response.trailers" and owed is _HTTP_OWES_TRAILERS and not message.get("more_trailers"):
        return ()
    return owed


def after_websocket(owed: Owed, message: Mapping[str, Any]) -> Owed:
    """What a WebSocket exchange owes after `message`."""
    kind = message["type"]
    if kind == "websocket.send":
        return owed
    if kind == "websocket.accept":
        return WEBSOCKET_ACCEPTED
    if kind == "websocket.http.response.start":
        return _WEBSOCKET_OWES_DENIAL
    if kind == "websocket.close" or (kind == "websocket.http.response.body" and not message.get("more_body")):
        return ()
    return owed


def is_in_order(owed: Owed, kind: Any) -> bool:
    """May a message of this type come, where `owed` is still owed? If not, it is the application's mistake."""
    return not isinstance(kind, str) or kind not in _IN_ORDER or any(owed is one for one in _IN_ORDER[kind])


def brings_input(message: Message) -> bool:
    """Is it of the client's own making, not just the request or the handshake that each exchange begins with?"""
    kind = field(message, "type")
    return not (kind == "websocket.connect" or (kind == "http.request" and not field(message, "more_body")))


def announces_body(scope: Mapping[str, Any]) -> bool:
    """May a body come with this request? (RFC 9112, 6.3; HTTP/2 need not announce it: RFC 9113, 8.1.1.)"""
    for name, value in scope.get("headers") or ():
        if name.lower() == b"transfer-encoding":
            return True
        if name.lower() == b"content-length":
            return bool(value.strip() != b"0")
    return scope.get("http_version") not in ("1.0", "1.1") and scope.get("method") not in ("GET", "HEAD", "OPTIONS")


def announced_length(scope: Mapping[str, Any]) -> int | None:
    """Of the request's body, if it is announced."""
    for name, value in scope.get("headers") or ():
        if name.lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


def fresh(owed: Owed) -> list[Message]:
    """The messages of `owed`, for others to keep and to change: middleware adds headers in place."""
    return [{**message, **({"headers": []} if "headers" in message else {})} for message in owed]


def _announces_length(name: bytes, value: bytes) -> bool:
    return bytes(name).lower() == b"content-length" and bytes(value).strip() != b"0"


def without_length(start: Message) -> Message:
    """An application's `http.response.start` as that of a response that stays empty.

    A server that counts (h11) complains of a length that is not kept, to whatever stands between it and us.
    """
    try:
        headers = [header for header in start["headers"] if not _announces_length(*header)]
    except (KeyError, TypeError, ValueError, IndexError):  # no headers, or none of their kind: not ours to judge
        return start
    return {**start, "headers": headers}


def with_code(message: Message) -> Message:
    """A `websocket.disconnect` with the code that the specification has it mean if it brings none.

    uvicorn 0.13.4 with wsproto brings none; Starlette then raises `KeyError`.
    """
    return {**message, "code": _NO_STATUS_RECEIVED} if message.get("code") is None else message


def payload(message: Message) -> int:
    """How many bytes of payload it has."""
    body = field(message, "body") or field(message, "bytes") or field(message, "text") or b""
    try:
        return len(body if not isinstance(body, str) or body.isascii() else body.encode(errors="surrogatepass"))
    except TypeError:  # no ASGI message: that is for others to complain of
        return 0


def quoted(text: Any, safe: str = "/") -> str:
    """As it stood in the request line: what the client chose to put there must not break the log's lines."""
    return quote(str(text), safe, errors="replace")
