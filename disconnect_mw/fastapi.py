"""A FastAPI dependency: a parameter `client: Client` is the view of the endpoint's client."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from ._view import ClientConnection
from ._view import connection as _connection


async def client_connection(connection: HTTPConnection) -> ClientConnection:
    """The dependency behind `Client`: `disconnect_mw.connection(request)`, for HTTP and WebSocket endpoints."""
    return _connection(connection)


Client = Annotated[ClientConnection, Depends(client_connection)]
"""Annotates a parameter of an endpoint, `client: Client`: FastAPI gives it the `ClientConnection` of its exchange."""
