"""A dependency for FastAPI: `from disconnect_mw.fastapi import Client`, and a parameter `client: Client`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from ._view import ClientConnection
from ._view import connection as _connection


async def client_connection(connection: HTTPConnection) -> ClientConnection:
    """What `disconnect_mw.connection(request)` gives, for HTTP and WebSocket endpoints alike."""
    return _connection(connection)


Client = Annotated[ClientConnection, Depends(client_connection)]
"""The type of a parameter by which an endpoint is given its client."""
