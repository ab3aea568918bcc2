"""The pytest plugin of `disconnect_mw.testing`."""

from __future__ import annotations

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

from disconnect_mw.testing import servers

pytest_plugins = ["pytester"]

APP = """
import pytest
from disconnect_mw.testing import HTTPClient, servers

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
"""


def run(pytester: pytest.Pytester, test: str) -> pytest.RunResult:
    """As with the entry point, whether or not the package is installed."""
    pytester.makepyfile(APP + test)
    return pytester.runpytest_inprocess("-p", "no:disconnect_mw", "-p", "_disconnect_mw_pytest", "-v")


def test_a_test_that_asks_for_a_server_runs_on_each(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(asgi_server):\n    assert asgi_server in servers.ALL")
    result.assert_outcomes(passed=len(servers.ALL))
    result.stdout.fnmatch_lines(["*::test_it[[]uvicorn-0.28.0[]] PASSED*"])


def test_a_visit_is_by_way_of_that_server(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
def test_it(asgi_server, asgi_visit):
    transcript = asgi_visit(app, HTTPClient(leaves_after_messages=1), patience=1)
    assert (transcript.server, transcript.status) == (asgi_server, 204)
""",
    )
    result.assert_outcomes(passed=len(servers.ALL))


@pytest.mark.parametrize(
    "mark",
    [
        '"asgi_server", [servers.UVICORN_0_28_0]',
        '"asgi_server", [servers.UVICORN_0_28_0], indirect=True',
        '"asgi_server, n", [(servers.UVICORN_0_28_0, 1)]',
        'argnames=["asgi_server", "n"], argvalues=[(servers.UVICORN_0_28_0, 1)]',
    ],
)
def test_a_test_may_name_its_servers(pytester: pytest.Pytester, mark: str) -> None:
    n = ", n" if '"n"' in mark or ", n" in mark else ""
    result = run(
        pytester,
        f"""
@pytest.mark.parametrize("other", [1, 2])
@pytest.mark.parametrize({mark})
def test_it(asgi_server, asgi_visit, other{n}):
    assert asgi_visit(app, HTTPClient()).server is servers.UVICORN_0_28_0
""",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_it[[]uvicorn-0.28.0-*"])


def test_a_fixture_may_name_the_servers(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.fixture
def asgi_server():
    return servers.UVICORN_0_28_0

def test_it(asgi_visit):
    assert asgi_visit(app, HTTPClient()).server is servers.UVICORN_0_28_0
""",
    )
    result.assert_outcomes(passed=1)


def test_a_session_that_does_not_ask_for_it_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import sys

def test_it():
    assert "_disconnect_mw_pytest" in sys.modules
    assert not any(name.startswith("disconnect_mw") for name in sys.modules)
"""
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:disconnect_mw", "-p", "_disconnect_mw_pytest"]
    here = pathlib.Path(importlib.import_module("_disconnect_mw_pytest").__file__ or "").parent
    environment = {**os.environ, "PYTHONPATH": str(here)}
    answer = subprocess.run(command, cwd=pytester.path, env=environment, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_visit_that_names_a_server_is_told_where_that_is_named(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.parametrize("asgi_server", [servers.UVICORN_0_28_0])
def test_it(asgi_visit):
    with pytest.raises(TypeError, match="the fixture asgi_server is the server"):
        asgi_visit(app, HTTPClient(), servers.UVICORN_0_28_0)
    with pytest.raises(TypeError, match="the fixture asgi_server is the server"):
        asgi_visit(app, HTTPClient(), server=servers.UVICORN_0_28_0)
""",
    )
    result.assert_outcomes(passed=1)
