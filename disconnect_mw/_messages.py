"""What a message of the ASGI specification means for its exchange.

HTTP & WebSocket ASGI Message Format 2.5, and the extensions trailers, pathsend, zerocopysend and
websocket.http.response. Nothing here keeps state: what remains of a response is a tuple of messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Message = Any
"""A message as it came. Neither side promises a dict, and each message is passed on as it is."""

Remaining = tuple[Mapping[str, Any], ...]
"""The least messages that would complete the exchange. None, once the last message has been sent."""

# 499 is nginx's "client closed request": no client ever sees it, but middleware between the server and this one does,
# and may log or count it.
_START: Mapping[str, Any] = {"type": "http.response.start", "status": 499, "headers": []}
_BODY: Mapping[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}
_TRAILERS: Mapping[str, Any] = {"type": "http.response.trailers", "headers": [], "more_trailers": False}
_DENIAL_BODY: Mapping[str, Any] = {"type": "websocket.http.response.body", "body": b"", "more_body": False}
_CLOSE: Mapping[str, Any] = {"type": "websocket.close"}

RESPONSE_REMAINING: Remaining = (_START, _BODY)
BODY_REMAINING: Remaining = (_BODY,)
_BODY_AND_TRAILERS_REMAINING: Remaining = (_BODY, _TRAILERS)
_TRAILERS_REMAINING: Remaining = (_TRAILERS,)
HANDSHAKE_REMAINING: Remaining = (_CLOSE,)
CLOSE_REMAINING: Remaining = (_CLOSE,)
DENIAL_BODY_REMAINING: Remaining = (_DENIAL_BODY,)

STARTS = ("http.response.start", "websocket.http.response.start")
_BODIES = ("http.response.body", "http.response.pathsend", "http.response.zerocopysend")

# What ends a WebSocket, accepted or denied: an app that sends this wants no answer to it, not even an exception.
WEBSOCKET_ENDS = ("websocket.close", "websocket.http.response.start", "websocket.http.response.body")

_IN_ORDER: Mapping[Any, tuple[Remaining, ...]] = {
    "http.response.start": (RESPONSE_REMAINING,),
    **dict.fromkeys(_BODIES, (BODY_REMAINING, _BODY_AND_TRAILERS_REMAINING)),
    "http.response.trailers": (_TRAILERS_REMAINING,),
    "websocket.accept": (HANDSHAKE_REMAINING,),
    "websocket.close": (HANDSHAKE_REMAINING, CLOSE_REMAINING),
    "websocket.send": (CLOSE_REMAINING,),
    "websocket.http.response.start": (HANDSHAKE_REMAINING,),
    "websocket.http.response.body": (DENIAL_BODY_REMAINING,),
}

_NO_STATUS_RECEIVED = 1005
"""What the specification has a `websocket.disconnect` without `code` mean (RFC 6455, 7.4.1)."""


def field(message: Message, name: str) -> Any:
    """The value under `name`; None where there is none, or where `message` is no mapping at all."""
    try:
        return message.get(name)
    except (AttributeError, TypeError):
        return None


def after_http(remaining: Remaining, message: Mapping[str, Any]) -> Remaining:
    """What remains of an HTTP exchange after `message`."""
    kind = message["type"]
    if kind == "http.response.start":
        trailers = "trailers" in message and message["trailers"]
        return _BODY_AND_TRAILERS_REMAINING if trailers else BODY_REMAINING
    if kind in _BODIES and not message.get("more_body"):
        return _TRAILERS_REMAINING if remaining is _BODY_AND_TRAILERS_REMAINING else ()
    if kind == "http.response.trailers" and remaining is _TRAILERS_REMAINING and not message.get("more_trailers"):
        return ()
    return remaining


def after_websocket(remaining: Remaining, message: Mapping[str, Any]) -> Remaining:
    """What remains of a WebSocket exchange after `message`."""
    kind = message["type"]
    if kind == "websocket.send":
        return remaining
    if kind == "websocket.accept":
        return CLOSE_REMAINING
    if kind == "websocket.http.response.start":
        return DENIAL_BODY_REMAINING
    if kind == "websocket.close" or (kind == "websocket.http.response.body" and not message.get("more_body")):
        return ()
    return remaining


def is_in_order(remaining: Remaining, kind: Any) -> bool:
    """Whether the app may send a message of this type now. If not, it is the app's mistake."""
    return not isinstance(kind, str) or kind not in _IN_ORDER or any(remaining is one for one in _IN_ORDER[kind])


def brings_input(message: Message) -> bool:
    """Whether the client sent it, beyond the request or the handshake that each exchange begins with."""
    kind = field(message, "type")
    return not (kind == "websocket.connect" or (kind == "http.request" and not field(message, "more_body")))


def announces_body(scope: Mapping[str, Any]) -> bool:
    """Whether a body may come with this request. (RFC 9112, 6.3; HTTP/2 need not announce it: RFC 9113, 8.1.1.)"""
    for name, value in scope.get("headers") or ():
        name = name.lower()
        if name == b"content-length":
            return bool(value.strip() != b"0")
        if name == b"transfer-encoding":
            return True
    return scope.get("http_version") not in ("1.0", "1.1") and scope.get("method") not in ("GET", "HEAD", "OPTIONS")


def announced_length(headed: Mapping[str, Any]) -> int | None:
    """The length in bytes that a scope, or an `http.response.start`, announces of its body; None if it does not."""
    try:
        for name, value in headed.get("headers") or ():
            if name.lower() == b"content-length" and value.strip().isdigit():
                return int(value)
    except (AttributeError, TypeError, ValueError):  # of headers that the specification does not know
        pass
    return None


def copy_messages(remaining: Remaining) -> list[Message]:
    """The messages as new dicts: middleware keeps them, and adds headers in place."""
    return [{**message, **({"headers": []} if "headers" in message else {})} for message in remaining]


def _announces_length(name: bytes, value: bytes) -> bool:
    return bytes(name).lower() == b"content-length" and bytes(value).strip() != b"0"


def without_length(start: Message) -> Message:
    """The app's `http.response.start` for a response that stays empty.

    A server that counts (h11) raises in the middleware between for a `content-length` that is not kept.
    """
    try:
        headers = [header for header in start["headers"] if not _announces_length(*header)]
    except (KeyError, TypeError, ValueError, IndexError):  # no headers, or malformed ones: the server complains of them
        return start
    return {**start, "headers": headers}


def with_code(message: Message) -> Message:
    """A `websocket.disconnect` with the specification's default code if it has none.

    uvicorn 0.13.4 with wsproto gives none; Starlette then raises `KeyError`.
    """
    return {**message, "code": _NO_STATUS_RECEIVED} if message.get("code") is None else message


def payload(message: Message) -> int:
    """The payload of `message` in bytes."""
    try:
        body = message.get("body") or message.get("bytes") or message.get("text") or b""
        return len(body if not isinstance(body, str) or body.isascii() else body.encode(errors="surrogatepass"))
    except (AttributeError, TypeError):  # no ASGI message: the server complains of it
        return 0


def quoted(text: Any, safe: str = "/") -> str:
    """`text` as it stood in the request line: what the client chose to put there must not break the log's lines."""
    from urllib.parse import quote  # not imported until there is a line to write

    return quote(str(text), safe, errors="replace")
