"""Where `DisconnectMiddleware` stands among other middleware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Wrap = Callable[[Any], Any]


async def _pass(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def behind(app: Any) -> Any:
    return BaseHTTPMiddleware(app, _pass)


def behind_two(app: Any) -> Any:
    return behind(behind(app))


STACKS: dict[str, Callable[[Wrap, Any], Any]] = {
    "alone": lambda install, app: install(app),
    "inside": lambda install, app: behind(install(app)),
    "outside": lambda install, app: install(behind(app)),
    "nested": lambda install, app: install(install(app)),
    "both": lambda install, app: install(behind(install(app))),
}
"""Of the `BaseHTTPMiddleware`."""


def routed(endpoint: Any, **options: Any) -> Starlette:
    return Starlette(routes=[Route("/{app}/{variant}/{run}", endpoint, **options)])
