"""What docs/observe.rst shows, run; and what it names, compared."""

from __future__ import annotations

import functools
import logging
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import sentry_sdk
from asgi_lifespan import LifespanManager
from fastapi import FastAPI

from disconnect_mw import DisconnectMiddleware, _middleware
from disconnect_mw._telling import LOGGER, OBSERVERS
from disconnect_mw.observe import _filter, access, prometheus, summary

from .support.apps import leaving
from .support.messages import http_scope
from .support.serving import serve
from .support.simulated_server import http

pytestmark = pytest.mark.anyio

DOCS = (Path(__file__).parent.parent / "docs" / "observe.rst").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = {}
"""By the section, and for its second with that number."""

for found in re.finditer(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", DOCS, re.MULTILINE):
    section = re.findall(r"^(.+)\n-+\n", DOCS[: found.start()], re.MULTILINE)[-1]
    BLOCKS[f"{section}, 2" if section in BLOCKS else section] = textwrap.dedent(found[1])


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry = prometheus_client.CollectorRegistry()
    monkeypatch.setitem(prometheus.instrument.__kwdefaults__ or {}, "registry", registry)
    monkeypatch.setattr(summary, "_bill", summary._Bill())
    # Its integrations patch the classes of middleware for good, of the whole process.
    init = functools.partial(sentry_sdk.init, auto_enabling_integrations=False)
    monkeypatch.setattr(sentry_sdk, "init", init)
    monkeypatch.setattr(_middleware, "inside", None)
    filtered = [logging.getLogger(None if name == "root" else name) for name in (*_filter.LOGGERS, "myapp")]
    filters = [(one, one.filters[:]) for one in filtered]
    loggers = [LOGGER, access.ACCESS_LOGGER]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    yield
    OBSERVERS.clear()
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    for logger, kept in filters:
        logger.filters[:] = kept
    sentry_sdk.init(dsn=None, default_integrations=False)


@pytest.mark.parametrize("section", BLOCKS)
async def test_what_is_shown_runs(section: str) -> None:
    app = FastAPI()
    exec(BLOCKS[section], {"app": app})
    async with LifespanManager(app):
        if section in ("Your own", "Prometheus", "OpenTelemetry", "The bill", "The access log"):
            assert len(OBSERVERS) == 1
        if section == "The lines of servers and frameworks":
            assert isinstance(logging.getLogger("asyncio").filters[-1], _filter.DisconnectFilter)
        if section == "The lines of servers and frameworks, 2":
            assert isinstance(logging.getLogger("myapp").filters[-1], _filter.DisconnectFilter)
        if section == "Stopping a thread":
            assert "/count" in {getattr(route, "path", None) for route in app.routes}
        assert await serve(leaving, http()) == "done"


async def test_each_module_is_shown() -> None:
    modules = {path.stem for path in Path(summary.__file__).parent.glob("[a-z]*.py")}
    assert {name for name in modules if f"observe import {name}" in DOCS or f"observe.{name} import" in DOCS} == modules


async def test_the_metrics_that_are_named_are_those_there_are() -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus.instrument(registry=registry)
    await serve(leaving, http())
    named = re.findall(r"^``(client_\w+)``", DOCS, re.MULTILINE)
    assert [name.removesuffix("_total") for name in named] == [family.name for family in registry.collect()]


async def test_what_one_writes_oneself_is_told_twice(capsys: pytest.CaptureFixture[str]) -> None:
    exec(BLOCKS["Your own"], {})
    await DisconnectMiddleware(leaving)(http_scope(path="/x"), (far := http()).receive, far.send)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "left /x before the response"
    assert re.fullmatch(r"the app returned after \d\.\d+", second)


def line_of(found: Any) -> str:
    assert found is not None
    return str(found.group())


def test_the_loggers_that_are_named_are_those_that_are_filtered() -> None:
    named = line_of(re.search(r"onto each known logger that is there: of (.*);", DOCS)).lower()
    packages = {**dict.fromkeys(_filter.LOGGERS.values()), "mcp": None, "engineio": None}
    assert all(package in named.replace("engine.io", "engineio") for package in packages)


def test_the_line_of_the_access_log_is_such_a_line() -> None:
    line = line_of(re.search(r"^    127\.0\.0\.1 - - .*$", DOCS, re.MULTILINE)).strip()
    entry = access.Entry({"type": "http", "path": "/slow", "client": ("127.0.0.1", 5)}, http().send)
    entry.status, entry.seconds, entry.phase = 499, 2.5, "before the response"
    stamp = re.compile(r"\[[^]]*\]")
    assert stamp.sub("[]", access._common(entry)) == stamp.sub("[]", line)


def test_the_table_of_the_bill_is_such_a_table() -> None:
    row = summary._bill.row("/v1/chat/completions")
    row.exchanges, row.bytes, row.orphans_at_most = 12_345, 1_234_567, 44
    row.seconds = row.saved = 8123.4
    row.phases.update({"during the response": 1474, "before the response": 736})
    summary._bill.row("/").exchanges = 50
    summary._bill.orphans_at_most = 44
    lines = line_of(re.search(r"^    disconnect_mw, process 4711(.*\n)+?    policy=.*$", DOCS, re.MULTILINE))
    assert textwrap.dedent(lines).splitlines()[1:] == summary.text().splitlines()[1:]
