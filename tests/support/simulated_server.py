"""The simulated servers of `disconnect_mw.testing`, with what most tests want of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from disconnect_mw.testing import (
    HTTPClient,
    HTTPServerBehaviour,
    HTTPSimulatedServer,
    WebSocketClient,
    WebSocketSimulatedServer,
    servers,
)

from .messages import Message

ServerBehaviour = HTTPServerBehaviour
UVICORN = servers.UVICORN_0_54_0.http
UVICORN_0_28_0 = servers.UVICORN_0_28_0.http
HYPERCORN = servers.HYPERCORN_0_18_0.http
DAPHNE = servers.DAPHNE_4_2_3.http
GUNICORN = servers.GUNICORN_27_0_1.http

ALL_BEHAVIOURS = list(dict.fromkeys(dataclasses.replace(server.http, extensions=()) for server in servers.ALL))
"""Those that differ, of all that were measured."""

ServersWord = UVICORN_0_28_0.send.kind  # type: ignore[union-attr]  # it is the one that raises
"""How uvicorn 0.28.0 says that the client has gone."""


class SimulatedServer(HTTPSimulatedServer):
    """uvicorn's unless another is named."""

    def __init__(self, behaviour: HTTPServerBehaviour = UVICORN, incoming: list[Message] | None = None) -> None:
        super().__init__(behaviour, incoming)


def http(**client: Any) -> HTTPSimulatedServer:
    """A server that stays silent, as nearly all servers do."""
    return HTTPSimulatedServer(servers.UVICORN_0_54_0.http, client=HTTPClient(**client))


def websocket(**client: Any) -> WebSocketSimulatedServer:
    return WebSocketSimulatedServer(servers.HYPERCORN_0_18_0.websocket, client=WebSocketClient(**client))
