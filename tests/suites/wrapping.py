"""A pytest plugin that has another project's tests call each app through `DisconnectMiddleware`.

Runs in the environment of that suite. The environment variable `WRAPPED_SUITE` names the project; without it nothing is
wrapped. `LEFT_OUT` names the tests that are not run, a line each, `ONLY` the only ones, and `OUTCOMES` the file that
gets all outcomes as JSON. The options of the middleware are in its own variables.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from disconnect_mw import DisconnectMiddleware

wrapped_calls = 0
outcomes: dict[str, str] = {}


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


def wrap_call(module: str, owner: str) -> None:
    """Wrap each instance of a class that is an app, in each of its calls."""
    kind = getattr(importlib.import_module(module), owner)
    original = kind.__call__

    async def replacement(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        return await Counted(functools.partial(original, self))(scope, receive, send)

    kind.__call__ = replacement


def wrap_clients() -> None:
    wrap_attribute("starlette.testclient", "_TestClientTransport")
    wrap_attribute("httpx", "ASGITransport")
    wrap_attribute("httpx2", "ASGITransport")


def wrap_uvicorn() -> None:
    wrap_attribute("uvicorn", "Config", "loaded_app", "load")


def wrap_communicators() -> None:
    module: Any = importlib.import_module("asgiref.testing")
    original = module.ApplicationCommunicator.__init__

    def replacement(self: Any, application: Any, scope: Any) -> None:
        original(self, Counted(application), scope)

    module.ApplicationCommunicator.__init__ = replacement


WRAPS: dict[str, list[Callable[[], None]]] = {
    "starlette": [wrap_clients],
    "fastapi": [wrap_clients],
    "sse-starlette": [wrap_clients, wrap_uvicorn],
    "quart": [lambda: wrap_attribute("quart", "Quart", "asgi_app")],
    "litestar": [lambda: wrap_call("litestar", "Litestar")],
    "channels": [wrap_communicators],
    "django": [wrap_communicators],
    "hypercorn": [lambda: wrap_attribute("hypercorn.app_wrappers", "ASGIWrapper")],
    "uvicorn": [wrap_uvicorn],
    "mcp": [
        wrap_clients,
        wrap_uvicorn,
        lambda: wrap_attribute("tests.interaction.transports._bridge", "StreamingASGITransport", "_app"),
    ],
}

for wrap in WRAPS.get(os.environ.get("WRAPPED_SUITE", ""), ()):
    wrap()


def pytest_configure(config: Any) -> None:
    """Do what Django's own runner does before it runs a test."""
    if os.environ.get("DJANGO_SETTINGS_MODULE") == "test_sqlite":
        os.environ.setdefault("TMPDIR", tempfile.gettempdir())
        sys.path.insert(0, str(config.rootpath / "tests"))
        runner: Any = importlib.import_module("runtests")
        runner.setup_run_tests(0, None, None, ["asgi"])
        utils: Any = importlib.import_module("django.test.utils")
        utils.setup_test_environment()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    left_out = os.environ.get("LEFT_OUT", "").splitlines()
    only = os.environ.get("ONLY", "").splitlines() or [item.nodeid for item in items]
    chosen = set(only) - set(left_out)
    items[:] = [item for item in items if item.nodeid in chosen and not runs_elsewhere(item)]


def runs_elsewhere(item: Any) -> bool:
    """Whether it is one of FastAPI's tests that run in a process of their own, where nothing is wrapped."""
    code = getattr(getattr(item, "function", None), "__code__", None)
    return code is not None and Path(code.co_filename).name == "_subprocess.py"


def pytest_runtest_logreport(report: Any) -> None:
    if report.failed:
        outcomes[report.nodeid] = "failed" if report.when == "call" else "error"
    elif report.skipped or report.when == "call":
        outcomes.setdefault(report.nodeid, report.outcome)


def pytest_sessionfinish(session: Any) -> None:
    Path(os.environ["OUTCOMES"]).write_text(json.dumps({"calls": wrapped_calls, "outcomes": outcomes}))
