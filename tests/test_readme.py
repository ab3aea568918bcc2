"""What README.rst shows, run; what it tells, compared."""

from __future__ import annotations

import logging
import re
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect

import disconnect_mw
from disconnect_mw import _middleware
from disconnect_mw._options import Options, Policy
from disconnect_mw._state import TRANSITIONS, Cause, State
from disconnect_mw.observe import _filter
from disconnect_mw.observe.logging import DisconnectFilter
from disconnect_mw.testing import HTTPClient, Transcript, servers, visit

from .support.messages import DISCONNECT, http_scope
from .support.simulated_server import SimulatedServer

README = (Path(__file__).parent.parent / "README.rst").read_text(encoding="utf-8")
ALL_BLOCKS = [
    textwrap.dedent(block)
    for block in re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README, re.MULTILINE)
]
TESTS = [block for block in ALL_BLOCKS if "def test_" in block]
HANDLERS = next(block for block in ALL_BLOCKS if "client.shield()" in block)
FILTER = next(block for block in ALL_BLOCKS if "import install" in block)
BLOCKS = [block for block in ALL_BLOCKS if block not in (*TESTS, HANDLERS, FILTER)]

pytest_plugins = ["pytester"]

MYAPP = """
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from disconnect_mw import DisconnectMiddleware

saved = []
app = FastAPI()

async def rows():
    try:
        for number in range(1000):
            yield f"{number}\\n"
    finally:
        saved.append("the rest")

@app.get("/report")
async def report():
    return StreamingResponse(rows())
"""
INSTALL = "app.add_middleware(DisconnectMiddleware)"


async def endpoint(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    assert await receive() == DISCONNECT
    raise ClientDisconnect


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_the_two_lines_install_it(framework: Any) -> None:
    app = framework()
    exec(BLOCKS[0], {"app": app})
    assert [middleware.cls for middleware in app.user_middleware] == [disconnect_mw.DisconnectMiddleware]


def test_the_filter_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("litestar")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(_filter, "LOGGERS", {logger.name: "litestar"})
    monkeypatch.setattr(_middleware, "inside", None)
    exec(FILTER)
    assert [type(one) for one in logger.filters] == [DisconnectFilter]


@pytest.mark.anyio
@pytest.mark.parametrize("block", BLOCKS[1:])
async def test_any_app_is_wrapped(block: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "disconnect_mw")
    names: dict[str, Any] = {"app": endpoint, "DisconnectMiddleware": disconnect_mw.DisconnectMiddleware}
    lines = block.strip().splitlines()
    exec("\n".join([*lines[:-1], "app = " + lines[-1].removeprefix("app = ")]), names)
    server = SimulatedServer()

    async def run() -> None:
        await names["app"](http_scope(), server.receive, server.send)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.sleep(0)
            server.leave()
    assert len(caplog.messages) == 1
    shown = re.search(r"client disconnected: .*", README)
    assert shown is not None
    assert anonymous(shown.group()) == anonymous(caplog.messages[0])


@pytest.mark.parametrize("installed", [True, False])
def test_the_test_of_an_endpoint_is_complete(pytester: pytest.Pytester, installed: bool) -> None:
    """It passes on every measured server, and without the middleware it fails on those whose send raises."""
    pytester.makepyfile(myapp=MYAPP + (INSTALL if installed else ""), test_myapp=TESTS[0])
    result = pytester.runpytest_inprocess(
        "-p", "no:disconnect_mw", "-p", "_disconnect_mw_pytest", "-p", "no:cacheprovider"
    )
    outcomes = result.parseoutcomes()
    failed = outcomes.get("failed", 0)
    assert outcomes["passed"] + failed == len(servers.ALL)
    assert (failed == 0) is installed


def anonymous(line: str) -> list[str]:
    """The words of a log line that are the same for every client."""
    return re.findall(r"client disconnected:|from|sent|messages muted|the app went on for|s and raised.*", line)


def test_the_table_of_policies_names_every_policy() -> None:
    assert re.findall(r"^``(\w+)`` +(?:does|raises)", README, re.MULTILINE) == list(get_args(Policy))


def test_the_table_of_states_is_the_table() -> None:
    rows = {
        name: re.findall(r"``(\w+)``|(unchanged)", rest)
        for name, rest in re.findall(r"^``(open|complete|disconnected)`` +(.*)$", README, re.MULTILINE)
    }
    for state in State:
        told = [word or state.value for word, _ in rows[state.value]]
        assert told == [TRANSITIONS[state, cause].value for cause in Cause]


def test_what_the_default_options_are_said_to_be_they_are() -> None:
    middleware = disconnect_mw.DisconnectMiddleware(endpoint)
    assert 'policy="mute", websocket_policy="raise"' in README
    assert (middleware._options, middleware._websocket_options) == (Options("mute"), Options("raise"))


class Model:
    """Gives ten tokens, one every 20 ms."""

    def __init__(self) -> None:
        self.given: list[str] = []

    async def tokens(self) -> AsyncIterator[str]:
        for number in range(10):
            await anyio.sleep(0.02)
            self.given.append(str(number))
            yield str(number)

    async def answer(self) -> list[str]:
        return [token async for token in self.tokens()]


class Database:
    def __init__(self) -> None:
        self.rows: list[str] = []

    async def insert(self, row: str) -> None:
        await anyio.sleep(0.1)
        self.rows.append(row)


def slow_rows() -> Iterator[int]:
    for number in range(10):
        time.sleep(0.02)
        yield number


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_handlers_do_what_their_comments_say(anyio_backend: str) -> None:
    names: dict[str, Any] = {"model": Model(), "database": Database(), "rows": slow_rows}
    exec(HANDLERS, names)

    async def leave(method: str, path: str, **client: Any) -> Transcript:
        return await visit(names["app"], HTTPClient(path, method=method, **client), servers.UVICORN_0_54_0)

    answer = await leave("GET", "/answer", leaves_after_seconds=0.1)
    assert answer.status is None and 1 < len(names["model"].given) < 9

    await leave("POST", "/order", leaves_after_seconds=0.15)
    assert names["database"].rows == ["order", "invoice"]

    names["database"].rows.clear()
    story = await leave("GET", "/story", leaves_after_messages=2)
    assert names["database"].rows == list("0123456789")
    assert len(story.body) < 10

    report = await leave("GET", "/report", leaves_after_seconds=0.1)
    assert report.status is None and report.ended == "returned"
