"""The one line per client that left."""

from __future__ import annotations

import logging

from ._messages import quoted
from ._records import Exchange

LOGGER = logging.getLogger("disconnect_mw")


def tell(exchange: Exchange) -> None:
    """Write one INFO line about `exchange`, which is an attribute of its log record, for whoever formats it anew."""
    if not LOGGER.isEnabledFor(logging.INFO):
        return
    disconnect = exchange.disconnect
    LOGGER.info(
        "client disconnected: %s %s from %s, %s: %s sent%s, %d messages muted%s; the app went on for %.3f s and %s",
        "WEBSOCKET" if disconnect.protocol == "websocket" else quoted(disconnect.method),
        quoted(disconnect.path),
        _peer(disconnect.peer),
        disconnect.phase,
        _sent(exchange),
        _bytes(exchange.messages_sent, exchange.bytes_sent),
        exchange.messages_muted,
        _bytes(exchange.messages_muted, exchange.bytes_muted),
        exchange.seconds,
        _ended(exchange),
        extra={"exchange": exchange},
    )


def _sent(exchange: Exchange) -> str:
    words = [] if exchange.status is None else [f"status {exchange.status}"]
    if exchange.messages_sent:
        words.append(f"{exchange.messages_sent} messages")
    return ", ".join(words) or "nothing"


def _bytes(messages: int | None, payload: int | None) -> str:
    return f" ({payload} bytes)" if messages else ""


def _ended(exchange: Exchange) -> str:
    if exchange.ended == "cancelled":
        return "was cancelled"
    return exchange.ended if exchange.exception is None else f"raised {exchange.exception}"


def _peer(peer: tuple[str, int] | None) -> str:
    if peer is None:
        return "an unknown peer"
    host, port = (quoted(part, safe=":") for part in peer)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
