"""The bill of what apps did for clients that had left (`disconnect_mw.observe.summary`)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from asgi_lifespan import LifespanManager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from disconnect_mw import DisconnectMiddleware
from disconnect_mw._telling import OBSERVERS
from disconnect_mw.observe import summary

from .support.apps import leaving
from .support.messages import CHUNK, FINAL, START, http_scope
from .support.serving import call
from .support.simulated_server import http, websocket

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def bill(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty one, of this test."""
    found = summary._Bill(3)
    monkeypatch.setattr(summary, "_bill", found)
    yield found
    OBSERVERS.clear()


def around(app: Any, **options: Any) -> Any:
    return summary.Summary(DisconnectMiddleware(app, **options))


def at(route: str) -> dict[str, Any]:
    return http_scope(path=route + "/x", route=SimpleNamespace(path=route))


async def stays(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(FINAL)


async def goes_on(scope: Any, receive: Any, send: Any) -> None:
    await leaving(scope, receive, send)
    await anyio.sleep(0.01)
    await send(START)
    await send(CHUNK)
    await send(FINAL)


async def test_each_route_has_a_row_and_the_most_expensive_is_first() -> None:
    await call(around(stays), http(), at("/a"))
    await call(around(stays), http(), at("/b"))
    for _ in range(2):
        await call(around(goes_on), http(), at("/b"))
    found = summary.figures()
    first, second = found["routes"]
    assert found["pid"] == os.getpid()
    assert first.pop("wasted_seconds") == first.pop("seconds_saved_by_cancel") >= 0.02
    assert first == {
        "route": "/b",
        "exchanges": 3,
        "departures": 2,
        "phases": {"before the response": 2},
        "muted_bytes": 28,
        "orphans_at_most": 1,
    }
    assert (second["route"], second["exchanges"], second["departures"]) == ("/a", 1, 0)
    total = found["total"]
    assert (total["route"], total["exchanges"], total["departures"]) == ("all routes", 4, 2)
    assert (total["muted_bytes"], total["orphans_at_most"]) == (28, 1)


async def test_cancel_would_not_save_what_it_has_saved() -> None:
    await call(around(goes_on, policy="cancel"), http(), at("/a"))
    total = summary.figures()["total"]
    assert total["departures"] == 1
    assert total["wasted_seconds"] > 0
    assert total["seconds_saved_by_cancel"] == 0


async def test_orphans_are_counted_at_their_most() -> None:
    app = around(waits := Waiting())
    async with anyio.create_task_group() as tasks:
        for number in (1, 2, 3):
            tasks.start_soon(call, app, http(), at("/a"))
            with anyio.fail_after(5):
                while len(OBSERVERS) and summary._bill.orphans < number:
                    await anyio.sleep(0.001)
        waits.over.set()
    await call(app, http(), at("/b"))
    total = summary.figures()["total"]
    assert (total["departures"], total["orphans_at_most"]) == (4, 3)
    assert summary._bill.orphans == 0


class Waiting:
    def __init__(self) -> None:
        self.over = anyio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await leaving(scope, receive, send)
        await self.over.wait()


async def test_a_websocket_and_a_path_without_route_count() -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        far.leave()
        await receive()

    await call(around(app), far)
    (row,) = summary.figures()["routes"]
    assert (row["route"], row["phases"], row["exchanges"]) == ("/", {"while open": 1}, 1)


async def test_what_a_router_does_not_know_is_one_row_and_routes_are_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def endpoint(request: Any) -> PlainTextResponse:
        return PlainTextResponse("known")

    app = summary.Summary(Starlette(routes=[Route("/known/{name}", endpoint)]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for number in range(5):
            await client.get(f"/known/{number}")
            await client.get(f"/unknown/{number}")
    rows = {row["route"]: row["exchanges"] for row in summary.figures()["routes"]}
    assert rows == {"/known/{name}": 5, "(no route)": 5}
    for route in ("/c", "/d", "/e"):
        await call(around(stays), http(), at(route))
    assert [row["route"] for row in summary.figures()["routes"]] == [
        "(no route)",
        "/known/{name}",
        "/c",
        "/d",
        "other",
    ]
    assert caplog.messages == [
        "the summary of departures has 3 routes, and all others from now on are \"other\", beginning with '/e': use a "
        "framework that puts the route into the scope (Starlette, FastAPI, Litestar)"
    ]
    await call(around(stays), http(), at("/f"))
    assert len(caplog.messages) == 1


async def test_of_two_the_outermost_counts() -> None:
    inner = summary.Summary(DisconnectMiddleware(summary.Summary(goes_on)))
    scope = at("/a")
    await call(inner, http(), scope)
    (row,) = summary.figures()["routes"]
    assert (row["exchanges"], row["departures"]) == (1, 1)
    assert "disconnect_mw.summary" not in scope


TEXT = r"""disconnect_mw, process \d+: what apps did for clients that had left
route       exchanges  departures  wasted seconds  muted bytes  orphans at most  saved by cancel
/b                  2           2             0\.\d           28                1            0\.\d s
  2 before the response
all routes          3           2             0\.\d           28                1            0\.\d s
  2 before the response
policy="cancel" would have saved 0\.\d s of 0\.\d s"""


async def test_the_text_is_a_table() -> None:
    await call(around(stays), http(), at("/a"))
    for _ in range(2):
        await call(around(goes_on), http(), at("/b"))
    assert re.fullmatch(TEXT, summary.text())


async def test_the_text_of_nothing() -> None:
    await call(around(stays), http())
    expected = f"disconnect_mw, process {os.getpid()}: 1 exchange, and no client left early"
    assert summary.text() == expected


# At the end of the lifespan


async def test_it_is_said_at_shutdown() -> None:
    said: list[str] = []
    app = Starlette()
    app.add_middleware(DisconnectMiddleware)
    app.add_middleware(summary.Summary, report=said.append)
    async with LifespanManager(app):
        assert said == []
    assert said == [f"disconnect_mw, process {os.getpid()}: 0 exchanges, and no client left early"]


async def test_it_goes_to_stderr_unless_it_is_not_to_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    for app in (summary.Summary(Starlette(), report=None), summary.Summary(Starlette())):
        assert capsys.readouterr().err == ""
        async with LifespanManager(app):
            pass
    assert capsys.readouterr().err.endswith("no client left early\n")


async def test_of_two_the_outermost_that_reports_says_it() -> None:
    said: list[str] = []
    inner = summary.Summary(Starlette(), report=lambda text: said.append("inner"))
    for app in (inner, summary.Summary(inner, report=lambda text: said.append("outer")), quiet(inner)):
        async with LifespanManager(app):
            pass
    assert said == ["inner", "outer", "inner"]


def quiet(app: Any) -> Any:
    return summary.Summary(app, report=None)


async def test_a_report_that_fails_is_logged_and_the_app_shuts_down(caplog: pytest.LogCaptureFixture) -> None:
    def full(text: str) -> None:
        raise OSError("the disk is full")

    async with LifespanManager(summary.Summary(Starlette(), report=full)):
        pass
    (message,) = caplog.messages
    assert message.startswith("the report of the summary failed: tests.test_observe_summary.")


async def test_what_is_no_exchange_passes() -> None:
    async def other(scope: Any, receive: Any, send: Any) -> Any:
        return receive, send

    receive, send = object(), object()
    assert await summary.Summary(other)({"type": "other"}, receive, send) == (receive, send)


# The page


async def shown(path: str, app: Any = None, **options: Any) -> httpx.Response:
    mounted = Starlette(routes=[Mount("/departures", summary.app)]) if app is None else app
    async with httpx.AsyncClient(transport=httpx.ASGITransport(mounted), base_url="http://test") as client:
        return await client.request(options.pop("method", "GET"), path, **options)


async def test_the_endpoint_has_json_and_the_text() -> None:
    await call(around(goes_on), http(), at("/b"))
    response = await shown("/departures/json")
    assert response.json() == json.loads(json.dumps(summary.figures()))
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    response = await shown("/departures/text")
    assert response.text == summary.text() + "\n"
    assert response.headers["cache-control"] == "no-store"


async def test_the_page_has_a_bar_for_each_figure_and_escapes_what_a_client_chose() -> None:
    await call(around(goes_on), http(), at("/<script>"))
    await call(around(goes_on), http(), at("/<script>"))
    await call(around(goes_on), http(), at("/b"))
    response = await shown("/departures/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in response.text
    assert "/&lt;script&gt;" in response.text
    widths = re.findall(r'title="departures" style="width: ([\d.]+)%"', response.text)
    assert sorted(widths) == ["100.0", "50.0"]  # the rows are sorted by seconds
    assert "clients left early from 3 of 3 exchanges." in response.text
    assert 'href="/departures/json"' in response.text


async def test_the_page_says_how_to_begin() -> None:
    response = await shown("/", app=summary.app)
    assert "Nothing is counted: install disconnect_mw.observe.summary.Summary around the app." in response.text
    assert 'href="/json"' in response.text


async def test_a_mount_whose_path_is_without_its_root_has_the_right_links() -> None:
    """As servers and adapters before ASGI 2.5 had it."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await summary.app(http_scope(path="/", root_path="/departures"), http().receive, send)
    assert b'href="/departures/json"' in sent[1]["body"]


async def test_head_and_other_methods() -> None:
    response = await shown("/departures/", method="HEAD")
    assert response.content == b"" and int(response.headers["content-length"]) > 1000
    response = await shown("/departures/", method="POST")
    assert (response.status_code, response.text) == (405, "GET alone is answered\n")


async def test_what_is_no_request() -> None:
    far = websocket()
    await call(summary.app, far)
    assert [message["type"] for message in far.sent] == ["websocket.close"]
    with pytest.raises(TypeError, match="answers HTTP, not 'lifespan': mount it in an app"):
        await summary.app({"type": "lifespan"}, far.receive, far.send)


def test_what_cannot_report_is_refused() -> None:
    with pytest.raises(TypeError, match="report must be a function of one argument, the text, not 'stderr'"):
        summary.Summary(stays, report="stderr")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(TypeError, match="app must be an ASGI application"):
        summary.Summary(None)


def test_it_observes_once() -> None:
    for _ in range(2):
        summary.Summary(stays)
    assert len(OBSERVERS) == 1
