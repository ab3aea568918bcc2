"""What the clients do and what the apps have to do: known on both sides, in the server's process and in the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SITUATIONS: Mapping[str, str] = {
    "before": "before the response",
    "stream": "stream",
    "events": "server-sent events",
    "lines": "JSON lines",
    "upload": "cut upload",
    "form": "form with a file",
    "ws_send": "WebSocket that sends",
    "ws_receive": "that receives",
    "ws_both": "that does both",
    "ws_close": "that closes in ``finally``",
    "bug": "bug before the response",
    "bug_stream": "bug in a stream",
    "bug_ws": "bug in a WebSocket",
}
"""Each with its title. Those that begin with `bug` raise a bug of their own once their client has left."""

UPLOADS = ("upload", "form")
STREAMS = ("stream", "events", "lines", "ws_send")
"""They are endless: no client reads them to an end."""

READS = ("ws_receive", "ws_close", "bug_ws")
"""The app waits for a message when its client leaves."""

VARIANTS: Mapping[str, dict[str, Any]] = {
    "bare": {},
    "mute": {},
    "finish": {"policy": "finish", "websocket_policy": "finish"},
    "cancel": {"policy": "cancel", "websocket_policy": "cancel"},
}
"""The options of the middleware, but for `bare`, which has none."""

WAYS = ("fin", "rst")

SECONDS_OF_WORK = 0.5
"""For which a handler works on after its client has left."""

SECONDS_OF_STREAM = 3.0
"""After which an app gives up that would be endless: longer than a check of the middleware's takes to come, once a
second.
"""

SECONDS_TO_CLEAN_UP = 0.1


def is_socket(situation: str) -> bool:
    return "ws" in situation.split("_")
