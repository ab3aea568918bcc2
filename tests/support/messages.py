"""The messages and the scope of most tests."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK: Message = {"type": "http.response.body", "body": b"payload", "more_body": True}
FINAL: Message = {"type": "http.response.body", "body": b"the end"}
EMPTY_FINAL: Message = {"type": "http.response.body", "body": b"", "more_body": False}
START_499: Message = {"type": "http.response.start", "status": 499, "headers": []}
REQUEST: Message = {"type": "http.request", "body": b"", "more_body": False}
DISCONNECT: Message = {"type": "http.disconnect"}

ACCEPT: Message = {"type": "websocket.accept"}
TEXT: Message = {"type": "websocket.send", "text": "tick"}
CLOSE: Message = {"type": "websocket.close"}


def http_scope(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **more,
    }
