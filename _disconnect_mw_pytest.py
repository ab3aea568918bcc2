"""The pytest plugin of `disconnect_mw.testing`: the fixtures `asgi_server` and `asgi_visit`.

It is outside the package, as Hypothesis's plugin is. pytest imports it in every session, and before coverage is
measured, so it imports nothing of the package until a test uses it.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest


@pytest.fixture
def asgi_server(request: pytest.FixtureRequest) -> Any:
    """A server of `disconnect_mw.testing.servers`. The test runs once for each of them.

    To choose others: `@pytest.mark.parametrize("asgi_server", [servers.UVICORN_0_28_0, …])`.
    """
    return request.param


@pytest.fixture
def asgi_visit(asgi_server: Any) -> Any:
    """`disconnect_mw.testing.visit_now` on `asgi_server`: `transcript = asgi_visit(app, client)`."""
    from disconnect_mw.testing import visit_now

    def visit(app: Any, client: Any, *more: Any, **options: Any) -> Any:
        if more or "server" in options:
            raise TypeError(
                "asgi_visit takes an app and a client, and the fixture asgi_server is the server: choose others by "
                '@pytest.mark.parametrize("asgi_server", [...])'
            )
        return visit_now(app, client, asgi_server, **options)

    return visit


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "asgi_server" in metafunc.fixturenames and not _is_replaced(metafunc):
        from disconnect_mw.testing import servers

        metafunc.parametrize("asgi_server", servers.ALL, indirect=True)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """The id of a server is its name."""
    testing = sys.modules.get("disconnect_mw.testing")
    return str(val) if testing is not None and isinstance(val, testing.Server) else None


def _is_replaced(metafunc: pytest.Metafunc) -> bool:
    """Whether a mark on the test, or a fixture of the user's, gives the servers."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        if "asgi_server" in ([name.strip() for name in names.split(",")] if isinstance(names, str) else names):
            return True
    # pytest has no public API for where a fixture is defined.
    definitions = getattr(metafunc, "_arg2fixturedefs", {}).get("asgi_server", ())
    return any(definition.func.__module__ != __name__ for definition in definitions)
