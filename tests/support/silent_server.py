"""Simulated servers whose `send` never reports the disconnect."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from disconnect_mw import DisconnectMiddleware, _blocked_sends, _watcher
from disconnect_mw.testing import (
    HTTPClient,
    HTTPSimulatedServer,
    Server,
    WebSocketClient,
    WebSocketSimulatedServer,
    servers,
)

from .serving import App

SILENT = servers.HYPERCORN_0_18_0  # its `send` never fails


def look_soon_at_silent_servers(monkeypatch: pytest.MonkeyPatch, blocking: str) -> None:
    """Have the middleware check after milliseconds, and take a `send` of module `blocking` for one that may block."""
    monkeypatch.setattr(_blocked_sends, "BLOCKING", (*_blocked_sends.BLOCKING, blocking))
    monkeypatch.setattr(_blocked_sends, "_modules", (0, False))
    for batch, seconds in (
        (_watcher.first_checks, 0.01),
        (_watcher._checks, 0.02),
        (_blocked_sends.blocked, 0.01),
    ):
        monkeypatch.setattr(batch, "seconds", seconds)


async def run(far: Any, app: App, **options: Any) -> Any:
    with anyio.fail_after(5):
        return await DisconnectMiddleware(app, **options)(far.scope(), far.receive, far.send)


class SlowServer(HTTPSimulatedServer):
    async def deliver_soon(self, message: Any) -> None:
        await anyio.sleep(0.01)
        self.deliver(message)


def http(behaviour: Any = SILENT.http, client: HTTPClient | None = None, incoming: Any = None) -> SlowServer:
    return SlowServer(behaviour, incoming, client=client or HTTPClient())


def websocket(server: Server = SILENT, **client: Any) -> WebSocketSimulatedServer:
    return WebSocketSimulatedServer(server.websocket, client=WebSocketClient(**client))


def http_scope(version: str = "1.1") -> dict[str, Any]:
    return {**HTTPSimulatedServer().scope(), "http_version": version}


async def silent(scope: Any, receive: Any, send: Any) -> None:
    pass
