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
    client = scope.get("client")
    LOGGER.info(
        "client disconnected: %s %s from %s, %s: %d messages muted, the app went on for %.3f s and %s",
        "WEBSOCKET" if connection.protocol == "websocket" else scope.get("method", "?"),
        quote(str(scope.get("path", "?"))),  # a path may hold line breaks
        f"{client[0]}:{client[1]}" if client else "an unknown peer",
        connection.phase,
        connection.messages_muted,
        time.monotonic() - connection.disconnected_at,
        "returned" if raised is None else f"raised {type(raised).__name__}",
    )
