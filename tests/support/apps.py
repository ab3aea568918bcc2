"""An app whose client leaves, and apps behind several layers of middleware."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from disconnect_mw import DisconnectMiddleware

from .messages import DISCONNECT
from .serving import App, turns

leaves_generators = pytest.mark.filterwarnings("ignore:Async generator 'starlette:ResourceWarning")
"""For a test in which Starlette leaves a generator to the garbage collector, of which trio warns."""


async def leaving(scope: Any, receive: Any, send: Any) -> str:
    """An app whose client leaves, and which goes on for some turns of the event loop."""
    await receive()
    send.__self__.server_receive.__self__.leave()
    assert await receive() == DISCONNECT
    await turns()
    return "done"


async def through(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    return response


def behind(app: App, layers: int, **options: Any) -> App:
    for _ in range(layers):
        app = BaseHTTPMiddleware(app, through)
    return DisconnectMiddleware(app, **options)
