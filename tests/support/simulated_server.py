"""The simulated servers of `disconnect_mw.testing`, with the defaults of most tests."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.testing import (
    HTTPClient,
    HTTPServerBehaviour,
    HTTPSimulatedServer,
    WebSocketClient,
    WebSocketSimulatedServer,
    servers,
)

from .messages import DISCONNECT, Message, http_scope
from .serving import App

ServerBehaviour = HTTPServerBehaviour
UVICORN = servers.UVICORN_0_54_0.http
UVICORN_0_28_0 = servers.UVICORN_0_28_0.http
HYPERCORN = servers.HYPERCORN_0_18_0.http
DAPHNE = servers.DAPHNE_4_2_3.http
GUNICORN = servers.GUNICORN_27_0_1.http

ALL_BEHAVIOURS = list(dict.fromkeys(dataclasses.replace(server.http, extensions=()) for server in servers.ALL))
"""The behaviours of all servers, each once."""

ServersWord = UVICORN_0_28_0.send.kind  # type: ignore[union-attr]  # it is the one that raises
"""The exception of uvicorn 0.28.0's `send` after the client has left."""


class SimulatedServer(HTTPSimulatedServer):
    """With uvicorn's behaviour unless another is given."""

    def __init__(self, behaviour: HTTPServerBehaviour = UVICORN, incoming: list[Message] | None = None) -> None:
        super().__init__(behaviour, incoming)


def http(**client: Any) -> HTTPSimulatedServer:
    """Return a server whose `send` is silent, as that of nearly all servers."""
    return HTTPSimulatedServer(servers.UVICORN_0_54_0.http, client=HTTPClient(**client))


def websocket(**client: Any) -> WebSocketSimulatedServer:
    return WebSocketSimulatedServer(servers.HYPERCORN_0_18_0.websocket, client=WebSocketClient(**client))


async def run(server: SimulatedServer, app: App, **options: Any) -> Any:
    with anyio.fail_after(5):
        return await DisconnectMiddleware(app, **options)(http_scope(), server.receive, server.send)


def after_disconnect(server: SimulatedServer, then: App) -> App:
    """Return an app that receives the disconnect, and then goes on as `then`."""

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        server.leave()
        assert await receive() == DISCONNECT
        return await then(scope, receive, send)

    return app
