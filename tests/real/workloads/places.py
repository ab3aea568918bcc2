"""Where `DisconnectMiddleware` stands around an app that has a `BaseHTTPMiddleware`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from disconnect_mw import DisconnectMiddleware

Wrap = Callable[[Any], Any]


async def _pass(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def behind(app: Any) -> Any:
    return BaseHTTPMiddleware(app, _pass)


def cancelled(app: Any) -> Any:
    return DisconnectMiddleware(app, policy="cancel")


PLACES: dict[str, Callable[[Wrap, Any], Any]] = {
    "alone": lambda install, app: install(app),
    "inside": lambda install, app: behind(install(app)),
    "outside": lambda install, app: install(behind(app)),
    "both": lambda install, app: install(behind(install(app))),
}
"""Of the `BaseHTTPMiddleware`; "alone" is without one."""
