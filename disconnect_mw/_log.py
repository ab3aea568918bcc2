"""The one line per client that left."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote

from ._connection import Connection

LOGGER = logging.getLogger("disconnect_mw")

_TOLD = "disconnect_mw.told"  # in the scope: the line has been written, by an install further in


def tell(scope: Any, connection: Connection, raised: BaseException | None) -> None:
    """Write one INFO line about `connection`, whose client left before the application was done."""
    if scope.get(_TOLD) or not LOGGER.isEnabledFor(logging.INFO):
        return
    scope[_TOLD] = True
    LOGGER.info(
        "client disconnected: %s %s from %s, %s: %s sent, %d messages muted; the app went on for %.3f s and %s",
        "WEBSOCKET" if connection.protocol == "websocket" else _quoted(scope.get("method")),
        _quoted(scope.get("path")),
        _peer(scope.get("client")),
        connection.phase,
        connection.sent(),
        connection.messages_muted,
        time.monotonic() - connection.disconnected_at,
        "returned" if raised is None else f"raised {type(raised).__name__}",
    )


def _quoted(text: Any, safe: str = "/") -> str:
    """As it stood in the request line: what the client chose to put there must not break the log's lines."""
    return quote(str(text), safe, errors="replace")


def _peer(client: Any) -> str:
    if not isinstance(client, (tuple, list)) or len(client) != 2:
        return "an unknown peer"
    host, port = (_quoted(part, safe=":") for part in client)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
