"""A pytest plugin that has another project's tests call each app through `DisconnectMiddleware`.

Runs in the environment of that suite. The environment variable `WRAPPED_SUITE` names the project; without it nothing is
wrapped. `LEFT_OUT` names the tests that are not run.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

from disconnect_mw import DisconnectMiddleware

wrapped_calls = 0


class Counted:
    """The middleware, which counts its calls: a run that wraps nothing proves nothing."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._wrapped = DisconnectMiddleware(app)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        global wrapped_calls
        wrapped_calls += 1
        return await self._wrapped(scope, receive, send)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)


def wrap_attribute(module: str, owner: str, attribute: str = "app", method: str = "__init__") -> None:
    """Wrap the app that instances of a class keep, once `method` has run."""
    try:
        kind = getattr(importlib.import_module(module), owner)
    except ImportError:
        return
    original: Callable[..., Any] = getattr(kind, method)

    @functools.wraps(original)
    def replacement(self: Any, *arguments: Any, **named: Any) -> Any:
        result = original(self, *arguments, **named)
        app = getattr(self, attribute)
        if not isinstance(app, Counted):
            setattr(self, attribute, Counted(app))
        return result

    setattr(kind, method, replacement)


def wrap_clients() -> None:
    wrap_attribute("starlette.testclient", "_TestClientTransport")
    wrap_attribute("httpx", "ASGITransport")


def wrap_django() -> None:
    """Each application that a test gets, and the one that the test client calls."""
    module: Any = importlib.import_module("django.core.asgi")
    original = module.get_asgi_application
    module.get_asgi_application = lambda: Counted(original())


def wrap_channels() -> None:
    module: Any = importlib.import_module("asgiref.testing")
    original = module.ApplicationCommunicator.__init__

    def replacement(self: Any, application: Any, scope: Any) -> None:
        original(self, Counted(application), scope)

    module.ApplicationCommunicator.__init__ = replacement


WRAPS: dict[str, list[Callable[[], None]]] = {
    "starlette": [wrap_clients],
    "fastapi": [wrap_clients],
    "sse-starlette": [wrap_clients, lambda: wrap_attribute("uvicorn", "Config", "loaded_app", "load")],
    "quart": [lambda: wrap_attribute("quart", "Quart", "asgi_app")],
    "litestar": [lambda: wrap_attribute("litestar.testing.transport", "TestClientTransport"), wrap_clients],
    "channels": [wrap_channels],
    "django": [wrap_django, wrap_channels],
    "hypercorn": [lambda: wrap_attribute("hypercorn.app_wrappers", "ASGIWrapper")],
    "uvicorn": [lambda: wrap_attribute("uvicorn", "Config", "loaded_app", "load")],
    "mcp": [wrap_clients, lambda: wrap_attribute("uvicorn", "Config", "loaded_app", "load")],
}

for wrap in WRAPS.get(os.environ.get("WRAPPED_SUITE", ""), ()):
    wrap()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    left_out = os.environ.get("LEFT_OUT", "").split()
    items[:] = [item for item in items if item.nodeid not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"calls through the middleware: {wrapped_calls}")
