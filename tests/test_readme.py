"""What README.rst shows, run; what it tells, compared."""

from __future__ import annotations

import configparser
import json
import re
from typing import Any, get_args

import anyio
import docutils.core  # type: ignore[import-untyped]  # it has no types
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request

import disconnect_mw
from disconnect_mw._options import Options, Policy
from disconnect_mw.testing import HTTPClient, servers, visit

from .real.observe.test_no_code import LOOKS
from .support.messages import DISCONNECT
from .support.pages import DOCS, TOP, blocks

README = (TOP / "README.rst").read_text(encoding="utf-8")
PYTHON = [*blocks(README, "python").values()]
CONSOLE = blocks(README, "console")

SETTINGS = configparser.ConfigParser()
SETTINGS.read(TOP / "setup.cfg", encoding="utf-8")


async def endpoint(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    assert await receive() == DISCONNECT
    raise ClientDisconnect


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_the_two_lines_install_it(framework: Any) -> None:
    app = framework()
    exec(PYTHON[0], {"app": app})
    assert [middleware.cls for middleware in app.user_middleware] == [disconnect_mw.DisconnectMiddleware]


@pytest.mark.anyio
async def test_any_app_is_wrapped_and_the_line_is_such_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "disconnect_mw")
    (wrap,) = re.findall(r"``(app = DisconnectMiddleware\(app\))``", README)
    names: dict[str, Any] = {"app": endpoint, "DisconnectMiddleware": disconnect_mw.DisconnectMiddleware}
    exec(wrap, names)
    await visit(names["app"], HTTPClient("/upload", leaves_after_messages=0), servers.UVICORN_0_54_0)
    (shown,) = re.findall(r"client disconnected: .*", README)
    assert anonymous(shown) == anonymous(caplog.messages[0])


def anonymous(line: str) -> list[str]:
    """The words of a log line that are the same for every client."""
    return re.findall(r"client disconnected:|from|sent|messages muted|the app went on for|s and raised.*", line)


@pytest.mark.anyio
async def test_the_policy_of_a_path_is_as_shown() -> None:
    ended: dict[str, str] = {}
    app = FastAPI()

    @app.get("/{path:path}")
    async def work(path: str) -> None:
        ended[path] = "stopped"
        await anyio.sleep(0.3)
        ended[path] = "finished"

    exec(PYTHON[1], {"app": app, "DisconnectMiddleware": disconnect_mw.DisconnectMiddleware})
    for path in ("v1/chat", "agents/run", "page"):
        await visit(app, HTTPClient(f"/{path}", leaves_after_seconds=0.1), servers.UVICORN_0_54_0)
    assert ended == {"v1/chat": "stopped", "agents/run": "finished", "page": "finished"}
    assert len(PYTHON) == 2


@pytest.mark.anyio
async def test_a_handler_sets_its_policy_as_shown() -> None:
    (line,) = re.findall(r"set by the handler \(``(.+?)``\)", README)
    ended: list[str] = []
    app = FastAPI()
    app.add_middleware(disconnect_mw.DisconnectMiddleware)

    @app.get("/")
    async def work(request: Request) -> None:
        exec(line, {"disconnect_mw": disconnect_mw, "request": request})
        try:
            await anyio.sleep(0.3)
        finally:
            ended.append(disconnect_mw.connection(request).policy)
        ended.append("finished")

    await visit(app, HTTPClient("/", leaves_after_seconds=0.1), servers.UVICORN_0_54_0)
    assert ended == ["cancel"]


def test_each_extra_that_is_shown_is_there() -> None:
    extras = re.findall(r'"disconnect-mw\[(\w+)\]"|-e "\.\[(\w+)\]"', README)
    assert {one or other for one, other in extras} == {"check", "demo", "test"}
    assert {"check", "demo", "test"} <= SETTINGS["options.extras_require"].keys()


def test_the_servers_whose_look_the_line_has_are_played() -> None:
    (told,) = re.findall(r"under ([\w, ]+) and (\w+):", README)
    assert {name.lower() for name in (*told[0].split(", "), told[1])} == LOOKS.keys() - {
        "gunicorn with uvicorn's worker"
    }


def test_the_table_of_policies_names_every_policy() -> None:
    assert re.findall(r"^``(\w+)`` +(?:does|raises)", README, re.MULTILINE) == list(get_args(Policy))


def test_what_the_default_policies_are_said_to_be_they_are() -> None:
    assert "``mute`` is the default for HTTP, ``raise`` for WebSocket." in README
    middleware = disconnect_mw.DisconnectMiddleware(endpoint)
    assert (middleware._options, middleware._websocket_options) == (Options("mute"), Options("raise"))


def test_the_seconds_of_the_servers_are_those_of_the_records() -> None:
    seconds = {"gunicorn": servers.GUNICORN_27_0_1, "Daphne": servers.DAPHNE_4_2_3}
    for name, server in seconds.items():
        (told,) = re.findall(rf"{name}(?:'s ``asgi`` worker)? after (\d+) s", README)
        assert float(told) == server.http.cancels_after


def test_the_figures_are_those_of_the_comparison() -> None:
    numbers = json.loads((DOCS / "benchmarks.json").read_text())
    cost = {
        name: {row: got / rows["two"] for row, got in rows.items()} for name, rows in numbers["instructions"].items()
    }
    (told,) = re.findall(r"^\* A GET costs .*$", README, re.MULTILINE)
    assert re.findall(r"(?<!CPython )\b\d\.\d\d\b", told) == [
        f"{cost[name]['ours']:.2f}" for name in ("GET", "stream", "upload")
    ]
    assert f"(CPython {numbers['versions']['CPython'].rpartition('.')[0]})" in told
    assert f"``BaseHTTPMiddleware`` costs {cost['GET']['base']:.0f} for that GET" in README
    assert {numbers["tasks"][name]["ours"] for name in ("GET", "POST", "stream", "upload", "long")} == {0}
    assert {numbers["tasks"]["long"][row] for row in ("info", "raise", "finish", "cancel", "hook", "grace")} == {1}
    assert numbers["read_ahead"]["ours"] == 0


def test_the_versions_are_those_that_the_tests_run() -> None:
    pins = SETTINGS["options.extras_require"]["test"]
    (fastapi, uvicorn) = re.findall(r"FastAPI ([\d.]+) on uvicorn ([\d.]+)", README)[0]
    assert f"\nfastapi=={fastapi}\n" in pins and f"\nuvicorn=={uvicorn}\n" in pins


def test_it_is_short() -> None:
    assert len(README.split()) <= 900


def test_it_renders_without_a_warning() -> None:
    docutils.core.publish_string(README, writer="html", settings_overrides={"halt_level": 1, "report_level": 1})


def test_each_address_is_a_page_of_the_site() -> None:
    """The site's address is in setup.cfg, and stands in README.rst as it is: an index fills in nothing."""
    (base,) = re.findall(r"Documentation = (\S+)", SETTINGS["metadata"]["project_urls"])
    addresses = re.findall(r"https?://[^\s>`]+", README)
    assert len(addresses) > 20
    strangers = [address for address in addresses if not address.startswith(f"{base}/")]
    assert strangers == [], f"replace the old address in README.rst by {base}, which setup.cfg has"
    for address in addresses:
        path = address.removeprefix(f"{base}/")
        if path.startswith("_images/"):
            assert (DOCS / path.removeprefix("_images/")).exists(), address
        elif path:
            assert (DOCS / path).with_suffix(".rst").exists(), address


def test_its_commands_are_run() -> None:
    """The demo's and the tests' by .ci/run, the one with uvicorn by tests/real/docs."""
    assert [*CONSOLE][-2:] == ["the demo command", "the test command"]
    assert [command.split()[-1] for command in CONSOLE.values()] == ["disconnect-mw", "myapp:app", "demo", "4"]
