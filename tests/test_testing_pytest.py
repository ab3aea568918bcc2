"""The pytest plugin of `disconnect_mw.testing`."""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

from disconnect_mw.testing import servers

from .support.plugin import start

pytest_plugins = ["pytester"]

APP = """
import pytest
from disconnect_mw.testing import HTTPClient, servers

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
"""


def run(pytester: pytest.Pytester, test: str) -> pytest.RunResult:
    pytester.makepyfile(APP + test)
    return start(pytester, "-v")


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


# How failures read

FAILING = """
import asyncio, dataclasses
import pytest
from disconnect_mw.testing import *

LEAVES = HTTPClient("/stream", leaves_after_messages=3)
on = lambda *chosen: pytest.mark.parametrize("asgi_server", chosen)

async def stream(send):
    while True:
        await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await stream(send)

@on(servers.SPEC_SILENT, servers.UVICORN_0_54_0, servers.DAPHNE_4_2_3)
def test_hang(asgi_visit):
    asgi_visit(app, LEAVES, patience=0.5)

@on(servers.SPEC_SILENT, servers.UVICORN_0_54_0)
@pytest.mark.parametrize("path", ["/a", "/b"])
def test_arguments(asgi_visit, path):
    asgi_visit(app, HTTPClient(path, leaves_after_messages=3), patience=0.2)

async def works():
    await asyncio.sleep(0.6)

async def either(scope, receive, send):
    await (stream(send) if scope["asgi"]["spec_version"] == "2.4" else works())

@on(servers.UVICORN_0_28_1, servers.UVICORN_0_54_0)
def test_elsewhere(asgi_visit):
    assert asgi_visit(either, HTTPClient(leaves_after_messages=0), patience=2).went_on > 0.5

CANCELS = Server("cancels", dataclasses.replace(servers.GUNICORN_27_0_1.http, cancels_after=0.7))

@on(servers.SPEC_SILENT, CANCELS)
def test_cancelled(asgi_visit):
    assert asgi_visit(app, LEAVES, patience=2).ended == "cancelled"

async def spins(scope, receive, send):
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

@on(servers.SPEC_SILENT, servers.UVICORN_0_54_0)
def test_spins(asgi_visit):
    asgi_visit(spins, HTTPClient(leaves_after_messages=0), patience=0.5)

async def fails(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})

@on(servers.UVICORN_0_28_0)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_raises(asgi_visit, backend):
    asgi_visit(fails, HTTPClient(leaves_after_messages=0), backend=backend)

def test_check(asgi_check):
    asgi_check(app, ["/x"], servers=["spec-silent"], patience=0.3, lifespan=False)

async def silent(scope, receive, send):
    await receive()

@on(servers.UVICORN_0_54_0)
def test_last_three(asgi_visit):
    for path in "/a", "/b", "/c", "/d":
        transcript = asgi_visit(silent, HTTPClient(path))
    assert transcript.status == 200

def test_without_the_fixture():
    visit_now(app, LEAVES, patience=0.1)

exec(compile("def test_without_a_line(): visit_now(app, LEAVES, patience=0.1)", "<made>", "exec"))
"""


def lines_of_failures(pytester: pytest.Pytester, *options: str) -> dict[str, list[str]]:
    """By the name of the test, and below "summary" the last lines."""
    pytester.makepyfile(test_it=FAILING)
    lines = start(pytester, *options).stdout.lines
    shown: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if heading := re.fullmatch(r"_+ (test_\S+) _+|=+ short test (summary) info =+", line):
            name = heading[1] or heading[2]
        shown.setdefault(name, []).append(line)
    return {name: lines[1:] for name, lines in shown.items()}


def number(source: str) -> int:
    """The number of the first line of `FAILING` that has `source`, as pytester writes it."""
    return 1 + next(index for index, line in enumerate(FAILING.strip().splitlines()) if source in line)


def test_failures_read_well(pytester: pytest.Pytester) -> None:
    shown = lines_of_failures(pytester, "--tb=short")
    in_stream = rf"test_it.py:({number('sleep(0.001)')}|{number('send({')}), in stream: await .*"
    known = rf"Hangs as on spec-silent \(given 0\.\d+ s here\): {in_stream}"

    # The reason comes first, and the transcript is a section.
    text = "\n".join(shown["test_hang[spec-silent]"])
    assert re.match(
        r"The app had not ended 0.5 s after its client left. It has sent \d+ messages since.\n"
        r'It hangs in\n\n  File ".*test_it.py", line \d+, in stream\n    await ',
        text,
    )
    assert f"\nin test_it.py:{number('asgi_visit(app, LEAVES, patience=0.5)')}\n" in text
    assert re.search(r"-+ the exchange on spec-silent -+\nhttp /stream on spec-silent\n", text)

    # One line for each other server, for equal arguments only.
    for server in ("uvicorn-0.54.0", "daphne-4.2.3"):
        (line,) = shown[f"test_hang[{server}]"]
        assert re.fullmatch(known, line)
    for path in ("/a", "/b"):
        assert shown[f"test_arguments[{path}-spec-silent]"][0].startswith("The app had not ended")
        assert len(shown[f"test_arguments[{path}-uvicorn-0.54.0]"]) == 1
    assert re.match(r"Hangs as on spec-silent .*, in spins: await send", shown["test_spins[uvicorn-0.54.0]"][0])

    # An app that waits elsewhere, or is cancelled by its server, has all its time.
    failed = [line.split()[1] for line in shown["summary"] if line.startswith("FAILED")]
    assert [name for name in failed if "elsewhere" in name] == ["test_it.py::test_elsewhere[uvicorn-0.28.1]"]
    assert [name for name in failed if "cancelled" in name] == ["test_it.py::test_cancelled[spec-silent]"]

    # What the app raises has the frames of the test and of the app.
    for backend in ("asyncio", "trio"):
        lines = shown[f"test_raises[{backend}-uvicorn-0.28.0]"]
        places = [line for line in lines if re.match(r"\S+:\d+: in ", line)]
        assert [place.rpartition(" ")[2] for place in places] == ["test_raises", "fails"]
        assert "E   uvicorn.protocols.utils.ClientDisconnected" in lines
        assert "  send http.response.start: raises uvicorn.protocols.utils.ClientDisconnected" in lines

    # A check shows its report, and an exchange for each fault.
    text = "\n".join(shown["test_check"])
    assert text.startswith("1 fault in 1 route (6 departures, 1 server, ")
    assert re.search(r"\n\nin test_it.py:\d+\n-+ GET /x: endless -+\nhttp /x on spec-silent\n", text)

    # Of many exchanges the last are shown.
    shown_paths = [line for line in shown["test_last_three[uvicorn-0.54.0]"] if line.startswith("http /")]
    assert shown_paths == [f"http /{letter} on uvicorn-0.54.0" for letter in "bcd"]

    # It is the same without the fixture; a line that is not in the file of the test is not named.
    for name, has_line in {"test_without_the_fixture": True, "test_without_a_line": False}.items():
        lines = shown[name]
        assert lines[0].startswith("The app had not ended 0.1 s after its client left.")
        assert any(line.startswith("in test_it.py:") for line in lines) is has_line
        assert any("the exchange on spec-silent" in line for line in lines)

    assert not any("_visit.py" in line for lines in shown.values() for line in lines)


def test_a_full_trace_is_as_pytest_gives_it(pytester: pytest.Pytester) -> None:
    shown = lines_of_failures(pytester, "--full-trace", "-k", "without_the_fixture")
    assert any("_visit.py" in line for line in shown["test_without_the_fixture"])
