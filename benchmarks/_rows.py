"""The rows of every table: what wraps the app."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from disconnect_mw import Disconnect, DisconnectMiddleware

App = Callable[[Any, Any, Any], Coroutine[Any, Any, Any]]
Receive = Callable[[], Coroutine[Any, Any, Any]]
Send = Callable[[Any], Coroutine[Any, Any, None]]


def bare(app: App) -> App:
    return app


def two_closures(app: App) -> App:
    """The limit: one more coroutine frame per call, and nothing done in it."""

    async def middleware(scope: Any, receive: Receive, send: Send) -> Any:
        async def _receive() -> Any:
            return await receive()

        async def _send(message: Any) -> None:
            await send(message)

        return await app(scope, _receive, _send)

    return middleware


def ours(**options: Any) -> Callable[[App], App]:
    return lambda app: DisconnectMiddleware(app, **options)


def hook(disconnect: Disconnect) -> None:
    pass


def rival(module: str, name: str) -> Callable[[App], App]:
    """A middleware that is imported when it first wraps an app: it may not be installed."""

    def wrap(app: App) -> App:
        middleware: Callable[[App], App] = getattr(importlib.import_module(module), name)
        return middleware(app)

    return wrap


def base_http_middleware(app: App) -> App:
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return BaseHTTPMiddleware(app, dispatch)


LIMIT = "two"
"""The row that the others are compared with."""

ROWS: dict[str, Callable[[App], App]] = {
    "bare": bare,
    LIMIT: two_closures,
    "ours": DisconnectMiddleware,
    "info": DisconnectMiddleware,
    "raise": ours(policy="raise"),
    "finish": ours(policy="finish"),
    "cancel": ours(policy="cancel"),
    "hook": ours(policy="cancel", on_disconnect=hook),
    "grace": ours(grace=30),
    "timeout": ours(send_timeout=30),
    "fastapi-disconnect": rival("fastapi_disconnect", "CancelOnDisconnectMiddleware"),
    "aiofence": rival("aiofence.contrib.starlette", "DisconnectMiddleware"),
    "aidial-sdk": rival("aidial_sdk.utils._disconnect_middleware", "DisconnectMiddleware"),
    "base": base_http_middleware,
}
NAMES = {
    "bare": "bare app",
    LIMIT: "two closures",
    "ours": "disconnect_mw",
    "info": "  logger at INFO",
    "raise": "  raise",
    "finish": "  finish",
    "cancel": "  cancel",
    "hook": "  cancel + hook",
    "grace": "  grace",
    "timeout": "  send_timeout",
    "fastapi-disconnect": "fastapi-disconnect",
    "aiofence": "aiofence",
    "aidial-sdk": "aidial-sdk",
    "base": "BaseHTTPMiddleware",
}
BASIC = ("bare", LIMIT, "ours", "info", "finish", "cancel", "hook", "base")
OURS = ("ours", "info", "raise", "finish", "cancel", "hook", "grace", "timeout")
RIVALS = ("fastapi-disconnect", "aiofence", "aidial-sdk")
WATCHED = ("info", "raise", "finish", "cancel", "hook", "grace")
"""The rows in which the watcher checks every exchange that lasts 50 to 75 ms."""

SECONDS_TO_CHECK = 0.1
"""Longer than it takes until the watcher checks an exchange (see `disconnect_mw._watcher`)."""

_LOGGER = logging.getLogger("disconnect_mw")


@contextlib.contextmanager
def logging_of(row: str) -> Iterator[None]:
    """Set logger `disconnect_mw` to INFO for the row "info", and to nothing else for the others.

    The handler drops every record, because the row counts what the middleware does, not what a terminal costs.
    """
    if row != "info":
        yield
        return
    level, propagate, disabled = _LOGGER.level, _LOGGER.propagate, logging.root.manager.disable
    handler = logging.NullHandler()
    logging.disable(logging.NOTSET)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.propagate = propagate
        _LOGGER.setLevel(level)
        logging.disable(disabled)
