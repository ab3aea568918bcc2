"""A simulated server: `receive`, `send` and a scope for one exchange, in memory, with a record's behaviour.

It needs no event loop of its own. It works on asyncio, on trio, and for coroutines that are driven by hand.
"""

from __future__ import annotations

from .._behaviour import Server
from .._clients import Client, WebSocketClient
from ._base import Message, SimulatedServer, block_forever
from ._http import HTTPSimulatedServer
from ._websocket import WebSocketSimulatedServer

__all__ = [
    "HTTPSimulatedServer",
    "Message",
    "SimulatedServer",
    "WebSocketSimulatedServer",
    "block_forever",
    "create_simulated_server",
]


def create_simulated_server(client: Client, server: Server) -> SimulatedServer:
    """Return what stands in for `server` in an exchange with `client`."""
    if isinstance(client, WebSocketClient):
        return WebSocketSimulatedServer(server.websocket, client=client)
    return HTTPSimulatedServer(server.http, client=client)
