"""The pytest plugin of `disconnect_mw.testing`: the fixtures `asgi_server` and `asgi_visit`.

It stands outside the package, as Hypothesis's does, because pytest imports it in every session and before coverage is
measured: so it imports nothing until a test asks for it.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest


@pytest.fixture
def asgi_server(request: pytest.FixtureRequest) -> Any:
    """A server of `disconnect_mw.testing.servers`: the test runs once for each of them.

    Others by `@pytest.mark.parametrize("asgi_server", [servers.UVICORN_0_28_0, …])`.
    """
    return request.param


@pytest.fixture
def asgi_visit(asgi_server: Any) -> Any:
    """`disconnect_mw.testing.visit_now` by way of `asgi_server`: `transcript = asgi_visit(app, client)`."""
    from disconnect_mw.testing import visit_now

    def visit(app: Any, client: Any, *more: Any, **options: Any) -> Any:
        if more or "server" in options:
            raise TypeError(
                "asgi_visit takes an app and a client, and the fixture asgi_server is the server: "
                '@pytest.mark.parametrize("asgi_server", [...]) names others'
            )
        return visit_now(app, client, asgi_server, **options)

    return visit


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "asgi_server" in metafunc.fixturenames and not _is_replaced(metafunc):
        from disconnect_mw.testing import servers

        metafunc.parametrize("asgi_server", servers.ALL, indirect=True)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """A server goes by its name."""
    testing = sys.modules.get("disconnect_mw.testing")
    return str(val) if testing is not None and isinstance(val, testing.Server) else None


def _is_replaced(metafunc: pytest.Metafunc) -> bool:
    """Does the test, or a fixture of the user's, say which servers it wants?"""
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        if "asgi_server" in ([name.strip() for name in names.split(",")] if isinstance(names, str) else names):
            return True
    # There is no public way to ask who has defined a fixture.
    definitions = getattr(metafunc, "_arg2fixturedefs", {}).get("asgi_server", ())
    return any(definition.func.__module__ != __name__ for definition in definitions)
