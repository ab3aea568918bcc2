"""What the pages of the site show, run; what they tell, compared. docs/observe.rst has tests/test_observe_docs.py."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import importlib
import json
import logging
import math
import os
import pkgutil
import re
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import disconnect_mw
from disconnect_mw import DisconnectMiddleware, _middleware, observe, testing
from disconnect_mw._options import Policy
from disconnect_mw._state import TRANSITIONS, Cause, State
from disconnect_mw.fastapi import Client
from disconnect_mw.observe import _filter
from disconnect_mw.observe.logging import DisconnectFilter
from disconnect_mw.testing import HTTPClient, Transcript, servers, visit

from .support.pages import DOCS, TOP, blocks, read
from .test_rooms import FLOORS

PAGES = [str(path.relative_to(DOCS).with_suffix("")) for path in sorted(DOCS.rglob("*.rst"))]

WITH_TESTS_OF_THEIR_OWN = {"observe", "testing", "check", "tutorial"}

SHOWN = {
    (page, name): block
    for page in PAGES
    if page not in WITH_TESTS_OF_THEIR_OWN
    for name, block in blocks(read(page), "python").items()
}
"""Every block of Python, by its page and the comment before it."""

TRIED: set[tuple[str, str]] = set()
"""Those that a test below takes."""


def shows(page: str, *names: str) -> pytest.MarkDecorator:
    """Mark a test of these blocks of a page, which it gets as `code`, one after the other."""
    keys = [(page, name) for name in names]
    TRIED.update(keys)
    return pytest.mark.parametrize("code", ["\n".join(SHOWN[key] for key in keys)], ids=[f"{page}: {names[0]}"])


pytestmark = pytest.mark.anyio

pytest_plugins = ["pytester"]


class Model:
    """Gives ten tokens, one every 20 ms."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.sessions: list[str] = []

    async def tokens(self) -> AsyncIterator[str]:
        for number in range(10):
            await anyio.sleep(0.02)
            self.given.append(str(number))
            yield str(number)

    async def answer(self) -> list[str]:
        return [token async for token in self.tokens()]

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Model]:
        self.sessions.append("opened")
        try:
            yield self
        finally:
            await anyio.sleep(0)
            self.sessions.append("given back")


class Database:
    def __init__(self) -> None:
        self.rows: list[str] = []

    async def insert(self, row: str) -> None:
        await anyio.sleep(0.1)
        self.rows.append(row)


class Shown:
    """An app that a block completes, and what its handlers did."""

    def __init__(self, code: str, **names: Any) -> None:
        self.app = FastAPI()
        self.model, self.database = Model(), Database()
        self.names: dict[str, Any] = {
            "app": self.app,
            "model": self.model,
            "database": self.database,
            "asyncio": asyncio,
        }
        self.names |= {"DisconnectMiddleware": DisconnectMiddleware, "Client": Client, **names}
        self.ended: dict[str, str] = {}
        exec(code, self.names)
        if self.names["app"] is self.app and not self.app.user_middleware:
            self.app.add_middleware(DisconnectMiddleware)
        self.app.add_api_route("/{path:path}", self.work, methods=["GET", "POST"])

    async def work(self, path: str) -> None:
        """A handler that asks nothing."""
        self.ended[path] = "stopped"
        await anyio.sleep(0.3)
        self.ended[path] = "finished"

    async def leave(self, path: str, server: Any = servers.UVICORN_0_54_0, **client: Any) -> Transcript:
        """A client that leaves in the middle."""
        if not any(name.startswith("leaves_after") for name in client):
            client["leaves_after_seconds"] = 0.1
        return await visit(self.names["app"], HTTPClient(path, **client), server)


def test_every_block_of_code_is_run() -> None:
    assert sorted(SHOWN.keys() - TRIED) == []


@shows("index", "the two lines")
def test_the_two_lines_install_it(code: str) -> None:
    shown = Shown(code)
    (middleware,) = shown.app.user_middleware
    assert middleware.cls is DisconnectMiddleware  # type: ignore[comparison-overlap]  # Starlette's type is a protocol


# Policies


@shows("policies", "the options")
async def test_the_options_are_the_defaults_that_there_are(code: str) -> None:
    shown = Shown(code)
    middleware = shown.names["app"]
    assert middleware._options == DisconnectMiddleware(shown.app)._options
    assert middleware._websocket_options == DisconnectMiddleware(shown.app)._websocket_options
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert {one.arg: ast.literal_eval(one.value) for one in call.keywords} == stated_defaults()


def stated_defaults() -> dict[str, Any]:
    """The options that a type checker sees, and their defaults."""
    tree = ast.parse(Path(_middleware.__file__).read_text(encoding="utf-8"))
    (init, *_) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    defaults = [ast.literal_eval(one) for one in init.args.kw_defaults if one is not None]
    return dict(zip([one.arg for one in init.args.kwonlyargs], defaults, strict=True))


def test_the_table_of_policies_names_every_policy_and_is_the_readmes() -> None:
    table = re.compile(r"^=+ =+ =+ =+\npolicy .*\n(?:.+\n)+", re.MULTILINE)
    (shown,) = table.findall(read("policies"))
    assert re.findall(r"^``(\w+)`` +(?:does|raises)", shown, re.MULTILINE) == list(get_args(Policy))
    assert shown in (TOP / "README.rst").read_text(encoding="utf-8")


# The handler's view


@shows("view", "the handlers")
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_handlers_do_what_their_comments_say(code: str, anyio_backend: str) -> None:
    def rows() -> Iterator[int]:
        for number in range(10):
            time.sleep(0.02)
            yield number

    shown = Shown(code, rows=rows)

    answer = await shown.leave("/answer")
    assert answer.status is None and 1 < len(shown.model.given) < 9

    await shown.leave("/order", method="POST")
    assert shown.database.rows == ["order", "invoice"]

    shown.database.rows.clear()
    story = await shown.leave("/story", leaves_after_messages=2)
    assert shown.database.rows == list("0123456789")
    assert len(story.body) < 10

    report = await shown.leave("/report")
    assert report.status is None and report.ended == "returned"


# How to


@shows("howto/stop", "stop everywhere")
async def test_everywhere_is_everywhere(code: str) -> None:
    shown = Shown(code)
    await shown.leave("/anything")
    assert shown.ended == {"anything": "stopped"}


@shows("howto/stop", "stop some routes")
async def test_some_routes_are_stopped_and_some_go_on(code: str) -> None:
    shown = Shown(code)
    for path in ("/v1/chat", "/agents/run", "/page"):
        await shown.leave(path)
    assert shown.ended == {"v1/chat": "stopped", "agents/run": "finished", "page": "finished"}


@shows("howto/stop", "stop what only reads")
async def test_what_only_reads_is_stopped(code: str) -> None:
    shown = Shown(code)
    await shown.leave("/read")
    await shown.leave("/write", method="POST")
    assert shown.ended == {"read": "stopped", "write": "finished"}


@shows("howto/stop", "stop one handler")
async def test_one_handler_is_stopped(code: str) -> None:
    shown = Shown(code)
    await shown.leave("/answer")
    assert 1 <= len(shown.model.given) < 10
    await shown.leave("/page")
    assert shown.ended == {"page": "finished"}


@shows("howto/stop", "stop a stream")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stream_gives_back_what_it_has_opened(code: str, anyio_backend: str) -> None:
    shown = Shown(code)
    await shown.leave("/story", leaves_after_messages=3)
    assert len(shown.model.given) < 10
    assert shown.model.sessions == ["opened", "given back"]


FOREVER = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) SELECT count(*) FROM numbers"


@shows("howto/stop", "stop a thread")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_query_in_a_thread_is_interrupted(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = Shown(code, sqlite3=sqlite3, contextlib=contextlib, QUERY=FOREVER)
    with anyio.fail_after(60):
        transcript = await shown.leave("/report")
    assert transcript.ended == "returned" and transcript.raised is None


@shows("howto/finish", "finish some routes")
async def test_an_agent_comes_to_its_end(code: str) -> None:
    shown = Shown(code)
    saved: list[int] = []

    async def steps() -> AsyncIterator[str]:
        for number in range(5):
            await anyio.sleep(0.02)
            yield f"{number}\n"
            saved.append(number)

    async def stream() -> StreamingResponse:
        return StreamingResponse(steps())

    shown.app.router.routes.pop()
    shown.app.add_api_route("/agents/run", stream)
    await shown.leave("/agents/run", leaves_after_messages=2)
    assert saved == [0, 1, 2, 3, 4]


@shows("howto/finish", "finish under Django")
def test_the_policy_under_django_is_one(code: str) -> None:
    """tests/real/docs plays it under Django; here it is only that the block is whole."""
    assert "finish" in code and compile(code, "asgi.py", "exec")


@shows("howto/save", "save a commit")
async def test_both_rows_are_written(code: str) -> None:
    shown = Shown(code)
    await shown.leave("/order", method="POST")
    assert shown.database.rows == ["order", "invoice"]


@shows("howto/save", "save what was made so far")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_made_so_far_is_saved(code: str, anyio_backend: str) -> None:
    shown = Shown(code)
    await shown.leave("/story", leaves_after_messages=3)
    (saved,) = shown.database.rows
    assert saved and "0123456789".startswith(saved) and len(saved) < 10


@shows("howto/save", "save no half of an upload")
async def test_no_half_of_an_upload_is_left(code: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    shown = Shown(code, os=os, path=path)
    whole = await visit(shown.app, HTTPClient("/upload", body=[b"one", b"two"]), servers.UVICORN_0_54_0)
    assert (whole.status, whole.body, path.read_bytes()) == (200, b'{"size":6}', b"onetwo")
    await shown.leave("/upload", body=[b"one", b"two"], leaves_after_chunks=1)
    assert not path.exists()


@shows("howto/save", "save where the server cancels")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_of_ones_own_outlasts_the_server(code: str, anyio_backend: str) -> None:
    may_go_on = asyncio.Event()

    class SlowDatabase(Database):
        async def insert(self, row: str) -> None:
            await may_go_on.wait()
            self.rows.append(row)

    shown = Shown(code, database=(database := SlowDatabase()))
    gunicorn = servers.GUNICORN_27_0_1
    hasty = dataclasses.replace(gunicorn, http=dataclasses.replace(gunicorn.http, cancels_after=0.01))
    transcript = await shown.leave("/report", hasty, method="POST", leaves_after_seconds=0.02)
    assert transcript.ended == "cancelled"
    may_go_on.set()
    with anyio.fail_after(10):
        await asyncio.gather(*shown.names["saving"])
    assert database.rows == ["report"]


@shows("howto/see", "see it by a function")
async def test_a_function_is_told(code: str) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    shown = Shown(code, counts=counts)
    await shown.leave("/page")
    assert counts == {("/page", "before the response"): 1}


@shows("howto/see", "drop what frameworks log")
def test_the_filter_is_installed(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("litestar")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(_filter, "LOGGERS", {logger.name: "litestar"})
    monkeypatch.setattr(_middleware, "inside", None)
    exec(code)
    assert [type(one) for one in logger.filters] == [DisconnectFilter]


@shows("howto/bound", "bound it")
async def test_it_is_bounded(code: str) -> None:
    shown = Shown(code.replace("grace=30", "grace=0.05"))
    (options,) = [middleware.kwargs for middleware in shown.app.user_middleware]
    assert options == {"grace": 0.05, "max_orphans": 100, "send_timeout": 60}
    transcript = await shown.leave("/page")
    assert shown.ended == {"page": "stopped"} and transcript.went_on is not None
    DisconnectMiddleware(shown.app, grace=math.inf)


@shows("howto/test", "the test of an endpoint", "the check of an app", "the app that is tested")
@pytest.mark.parametrize("is_installed", [True, False])
def test_the_test_of_an_endpoint_is_complete(code: str, pytester: pytest.Pytester, is_installed: bool) -> None:
    """It passes on every measured server, and without the middleware it fails on those whose send raises."""
    app = SHOWN["howto/test", "the app that is tested"]
    if not is_installed:
        app = app.replace("app.add_middleware(DisconnectMiddleware)\n", "")
    test = "\n".join(SHOWN["howto/test", name] for name in ("the test of an endpoint", "the check of an app"))
    pytester.makepyfile(myapp=app, test_myapp=test)
    result = pytester.runpytest_inprocess(
        "-p", "no:disconnect_mw", "-p", "_disconnect_mw_pytest", "-p", "no:cacheprovider"
    )
    outcomes = result.parseoutcomes()
    failed = outcomes.get("failed", 0)
    assert outcomes["passed"] + failed == len(servers.ALL) + 1
    assert (failed == 0) is is_installed


def test_the_line_is_such_a_line() -> None:
    """Each word of the table under "Read the line" is in the line above it, or among those that there are."""
    section = read("howto/see").partition("\nRead the line\n")[2].partition("\nCall a function\n")[0]
    (line,) = re.findall(r"^    (client disconnected: .*)$", section, re.MULTILINE)
    words = re.findall(r"^``(.+?)``  ", section, re.MULTILINE)
    assert len(words) == 7 and [word for word in words if word not in line] == []
    phases = re.findall(r"``((?:during|before|while) .+?)``", section)
    assert set(phases) == set(get_args(disconnect_mw._records.Phase))


# The commands


COMMANDS = {
    "pip install disconnect-mw": ".ci/run",
    "DISCONNECT_MW_LOG=info uvicorn myapp:app": "tests/real/docs/test_commands.py",
    "DISCONNECT_MW_POLICY=cancel DISCONNECT_MW_GRACE=5 vllm serve … --middleware disconnect_mw.DisconnectMiddleware": (
        "tests/test_environment.py"
    ),
    "DISCONNECT_MW_APP=package.module:app DISCONNECT_MW_LOG=info uvicorn --workers 4 disconnect_mw.app:app": (
        "tests/real/observe/test_no_code.py"
    ),
    "DISCONNECT_MW_APP=package.module:app DISCONNECT_MW_LOG=info gunicorn -k asgi -w 4 disconnect_mw.app:app": (
        "tests/real/observe/test_no_code.py"
    ),
    "vllm serve … --middleware disconnect_mw.CancelOnDisconnect": "tests/test_environment.py",
    "python -m tests.real.servers uvicorn==0.54.0": ".ci/run",
    "python -m tests.real.frameworks": ".ci/run",
    "python -m benchmarks": ".ci/run",
}
"""Each command that a page shows, and where it is run; `vllm` itself is not, but an install by that import path."""


def test_each_command_is_run_somewhere() -> None:
    shown = {
        command.strip()
        for page in PAGES
        if page not in WITH_TESTS_OF_THEIR_OWN
        for command in blocks(read(page), "console").values()
    }
    assert shown == COMMANDS.keys()


# What the pages tell


def test_each_promise_names_tests_that_there_are() -> None:
    page = read("promises")
    parts = re.split(r"^(P\d+|And one line)\b.*\n-+\n", page, flags=re.MULTILINE)[1:]
    promises = dict(zip(parts[::2], parts[1::2], strict=True))
    assert [*promises] == [*(f"P{number}" for number in range(13)), "And one line"]
    for promise, text in promises.items():
        guards = re.findall(r"^\* ``(tests/[\w/]+\.py)::(\w+)``$", text.partition("Guarded by")[2], re.MULTILINE)
        assert guards, promise
        for path, name in guards:
            source = (TOP / path).read_text(encoding="utf-8")
            assert re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), f"{promise}: {path}::{name}"


def test_the_table_of_states_is_the_table() -> None:
    rows = {
        name: re.findall(r"``(\w+)``|(unchanged)", rest)
        for name, rest in re.findall(r"^``(open|complete|disconnected)`` +(.*)$", read("how-it-works"), re.MULTILINE)
    }
    for state in State:
        told = [word or state.value for word, _ in rows[state.value]]
        assert told == [TRANSITIONS[state, cause].value for cause in Cause]


def test_the_table_of_rooms_has_each_room_on_its_floor() -> None:
    rows = re.findall(r"^   \* - (\d)\n     - (.+)\n", read("how-it-works"), re.MULTILINE)
    told = sorted((int(floor), room) for floor, rooms in rows for room in re.findall(r"``(\w+)``", rooms))
    assert told == sorted((floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms)


def test_the_figures_of_the_comparison_are_those_measured() -> None:
    numbers = json.loads((DOCS / "benchmarks.json").read_text())
    rows = dict(re.findall(r"^   \* - (tasks for.*|messages of.*)\n((?:     - .*\n)+)", read("which"), re.MULTILINE))
    tasks, read_ahead = (re.findall(r"- (.*)", cells) for cells in rows.values())
    for place, row in enumerate(("ours", "fastapi-disconnect", "aiofence")):
        assert tasks[place] == str(numbers["tasks"]["GET"][row])
        assert read_ahead[place].startswith(str(numbers["read_ahead"][row]))
        assert row == "ours" or f"{row} {numbers['versions'][row]}" in read("which")
    assert {numbers["read_ahead"][row] for row in ("ours", "cancel")} == {0, 1}


def test_the_costs_are_within_the_goals() -> None:
    from benchmarks._goals import GOALS

    page = read("cost")
    (ours,) = re.findall(r"^``disconnect_mw`` +([\d.]+) +([\d.]+) +([\d.]+)", page, re.MULTILINE)
    for workload, told in zip(("GET", "stream", "upload"), ours, strict=True):
        assert float(told) <= GOALS[workload, "ours"].bound
        assert f"{GOALS[workload, 'ours'].bound:.2f}" in page
    (info, cancel, departure) = re.findall(
        r"the GET costs ([\d.]+),.* and a hook ([\d.]+),(?s:.)*One departure costs ([\d.]+) times", page
    )[0]
    assert float(info) <= GOALS["GET", "info"].bound and float(cancel) <= GOALS["GET", "hook"].bound
    assert float(departure) <= GOALS["departure", "ours"].bound


# The reference


def public_names() -> Iterator[tuple[str, str]]:
    """Each public name, by its module."""
    for name in disconnect_mw.__all__:
        yield "disconnect_mw", name
    for name in observe.__all__:
        yield "disconnect_mw.observe", name
    for name in testing.__all__:
        yield "disconnect_mw.testing", name
    for module in [one.name for one in pkgutil.iter_modules(observe.__path__) if not one.name.startswith("_")]:
        path = f"disconnect_mw.observe.{module}"
        found = importlib.import_module(path)
        own = {name: thing for name, thing in vars(found).items() if getattr(thing, "__module__", "") == path}
        for name in getattr(found, "__all__", own):
            if not name.startswith("_") and name not in INNER:
                yield path, name
    yield from (("disconnect_mw.fastapi", name) for name in ("Client", "client_connection"))


INNER = {"Handler", "TextFormatter", "JSONFormatter", "Entry", "Row", "is_configured"}
"""Classes of modules without `__all__` that are no use to others."""


def documented() -> set[tuple[str, str]]:
    found = set()
    for page in sorted((DOCS / "api").glob("*.rst")):
        text = page.read_text(encoding="utf-8")
        module = ""
        for kind, name, options in re.findall(
            r"^\.\. ((?:auto)?(?:module|class|function|exception|data|currentmodule)):: ([\w.]+).*\n((?:   .*\n)*)",
            text,
            re.MULTILINE,
        ):
            if kind == "automodule" or kind == "currentmodule":
                module = name
                members = re.findall(r":members: (.+)", options)
                found |= {(module, member) for one in members for member in one.split(", ")}
            else:
                place, _, last = name.rpartition(".")
                found.add((place or module, last))
    return found


def test_the_reference_has_every_public_name() -> None:
    fixtures = {("disconnect_mw.testing", name) for name in ("asgi_server", "asgi_visit", "asgi_check")}
    missing = {*public_names(), *fixtures} - documented()
    assert missing == {("disconnect_mw.testing", "servers")}, "a module of constants, which the page has as one"


def test_the_signature_in_the_reference_is_the_one_there_is() -> None:
    (shown,) = re.findall(r"DisconnectMiddleware\(app, \*, (.*)\)$", read("api/disconnect_mw"), re.MULTILINE)
    (call,) = [node for node in ast.walk(ast.parse(f"f({shown})")) if isinstance(node, ast.Call)]
    assert {one.arg: ast.literal_eval(one.value) for one in call.keywords} == stated_defaults()


def test_everything_public_says_what_it_is() -> None:
    silent = []
    for module, name in public_names():
        thing = getattr(importlib.import_module(module), name)
        if (callable(thing) and not get_args(thing)) and not (getattr(thing, "__doc__", "") or "").strip():
            silent.append(f"{module}.{name}")
    assert silent == []


def test_each_page_is_in_a_table_of_contents() -> None:
    """Sphinx says so too; this one is faster."""
    named = set()
    for page in PAGES:
        for entries in re.findall(r"^\.\. toctree::\n((?:   :.*\n)*\n(?:   .+\n)+)", read(page), re.MULTILINE):
            folder = page.rpartition("/")[0]
            named |= {f"{folder}/{one}".strip("/") for one in re.findall(r"^   ([^:\s].*)$", entries, re.MULTILINE)}
    assert [page for page in PAGES if page not in named | {"index"}] == []
