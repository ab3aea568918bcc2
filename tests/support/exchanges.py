"""The records of one exchange whose client left."""

from __future__ import annotations

from disconnect_mw import Disconnect, Exchange

DISCONNECT_RECORD = Disconnect("http", "GET", "/slow", ("10.0.0.1", 5), "before the response", None, 0.5)
EXCHANGE = Exchange(DISCONNECT_RECORD, None, 0, 0, 0, 0, 0.25, "returned", None)
