"""The records of a disconnect and of an exchange, from a client's view or a scope."""

from __future__ import annotations

from typing import Any

from disconnect_mw import ClientConnection, Disconnect, Exchange, connection


async def gone(client: ClientConnection) -> Disconnect:
    """Wait for the disconnect and return its record."""
    disconnect = await client.wait_disconnected()
    assert disconnect is not None
    return disconnect


async def known(scope: Any) -> None:
    """Wait until the disconnect is known."""
    assert await connection(scope).wait_disconnected() is not None


def record_of(scope: Any) -> Exchange:
    exchange = connection(scope).exchange
    assert exchange is not None
    return exchange


def ended(scope: Any) -> str | None:
    exchange = connection(scope).exchange
    return None if exchange is None else exchange.ended
