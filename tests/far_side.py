"""Messages, and the far side of `disconnect_mw.testing` with what most tests want of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from disconnect_mw.testing import HTTPServerBehaviour, HTTPSimulatedServer, servers

Message = dict[str, Any]

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK: Message = {"type": "http.response.body", "body": b"payload", "more_body": True}
FINAL: Message = {"type": "http.response.body", "body": b"the end"}
EMPTY_FINAL: Message = {"type": "http.response.body", "body": b"", "more_body": False}
START_499: Message = {"type": "http.response.start", "status": 499, "headers": []}
REQUEST: Message = {"type": "http.request", "body": b"", "more_body": False}
DISCONNECT: Message = {"type": "http.disconnect"}

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


def http_scope(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **more,
    }
