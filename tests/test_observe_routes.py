"""By which route a departure is counted: bounded by what the app has, and the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import prometheus_client
import pytest
from fastapi import APIRouter, FastAPI
from litestar import Litestar, get
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from disconnect_mw import DisconnectMiddleware, connection
from disconnect_mw._telling import OBSERVERS
from disconnect_mw.observe import Departure, opentelemetry, prometheus, subscribe, summary

from .support.messages import http_scope
from .support.serving import call, left
from .support.simulated_server import http

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(summary, "_bill", summary._Bill())
    yield
    OBSERVERS.clear()


def scope_of(path: str, far: Any) -> dict[str, Any]:
    """A request that its handler, or the middleware before that, can have its client leave."""
    return http_scope(path=path, raw_path=path.encode(), headers=[], query_string=b"", far=far)


async def leave(scope: Any) -> None:
    """Have the client leave, and wait until that is known."""
    scope["far"].leave()
    with anyio.fail_after(10):
        while connection(scope).connected:
            await anyio.sleep(0.001)


async def raw(scope: Any, receive: Any, send: Any) -> None:
    await leave(scope)


async def endpoint(request: Request) -> PlainTextResponse:
    await leave(request.scope)
    return PlainTextResponse("late")


async def item(item: int, request: Request) -> None:
    await leave(request.scope)


class Before:
    """Middleware inside of the framework that keeps the request from its router: it asks who the user is."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await leave(scope)
        await self._app(scope, receive, send)


def of_starlette(*middleware: Any) -> Any:
    return Starlette(
        routes=[
            Route("/items/{item}", endpoint),
            Mount("/v1", routes=[Route("/items/{item}", endpoint), Mount("/raw", app=raw)]),
        ],
        middleware=[Middleware(one) for one in middleware],
    )


def of_fastapi(*middleware: Any) -> Any:
    app, router = FastAPI(), APIRouter(prefix="/inner")
    app.get("/items/{item}")(item)
    router.get("/items/{item}")(item)
    app.include_router(router, prefix="/outer")
    app.mount("/v1", of_starlette())
    for one in middleware:
        app.add_middleware(one)
    return app


def of_litestar(*middleware: Any) -> Any:
    @get("/items/{item:int}")
    async def handler(item: int, scope: Any) -> None:
        await leave(scope)

    return Litestar([handler], middleware=list(middleware), logging_config=None)


def before_1_7(*middleware: Any) -> Any:
    """Starlette that states the endpoint, and no route."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["app"] = app

        async def route(scope: Any, receive: Any, send: Any) -> None:
            scope["endpoint"] = endpoint
            await (raw(scope, receive, send) if connection(scope).connected else left_behind(scope))

        await (middleware[0](route) if middleware else route)(scope, receive, send)

    return app


async def left_behind(scope: Any) -> None:
    assert not connection(scope).connected


async def around_raw(scope: Any, receive: Any, send: Any) -> None:
    await raw(scope, receive, send)


ROUTED: list[tuple[Callable[..., Any], str, str]] = [
    (of_starlette, "/items/5", "/items/{item}"),
    (of_starlette, "/v1/items/5", "/v1/items/{item}"),
    (of_starlette, "/v1/raw/5/6", "/v1/raw/{path}"),
    (of_fastapi, "/items/5", "/items/{item}"),
    (of_fastapi, "/outer/inner/items/5", "/outer/inner/items/{item}"),
    (of_fastapi, "/v1/v1/items/5", "/v1/v1/items/{item}"),
    (of_litestar, "/items/5", "/items/{item}"),
    (before_1_7, "/items/5", "/items/5"),
]


@pytest.mark.parametrize(("make", "path", "route"), ROUTED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:litestar")
async def test_the_route_is_the_framework_s_with_its_mounts(make: Any, path: str, route: str) -> None:
    departures: list[Departure] = []
    subscribe(departures.append)
    far = http()
    await call(DisconnectMiddleware(make()), far, scope_of(path, far))
    (departure,) = departures
    assert (departure.route, departure.is_routed) == (route, True)


async def test_without_a_framework_it_is_the_path() -> None:
    departures: list[Departure] = []
    subscribe(departures.append)
    far = http()
    await call(DisconnectMiddleware(around_raw), far, scope_of("/any/5", far))
    assert (departures[0].route, departures[0].is_routed) == ("/any/5", True)


def counted(registry: Any, reader: Any) -> list[dict[str, float]]:
    """How often each route was counted: by Prometheus, by OpenTelemetry, and in the bill."""
    samples = [sample for family in registry.collect() for sample in family.samples]
    of_prometheus: dict[str, float] = {}
    for sample in samples:
        if sample.name in ("client_disconnects_total", "client_disconnect_wasted_seconds_count"):
            route = sample.labels["route"]
            of_prometheus[route] = of_prometheus.get(route, 0) + sample.value / 2
    (found,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    points = {metric.name: metric.data.data_points for metric in found.metrics}
    assert [sample.value for sample in samples if sample.name == "client_disconnect_orphans"] == [0]
    assert [point.value for point in points["client.disconnect.orphans"]] == [0]
    of_opentelemetry = {point.attributes["http.route"]: point.value for point in points["client.disconnects"]}
    wasted = {point.attributes["http.route"]: point.count for point in points["client.disconnect.wasted.duration"]}
    assert of_opentelemetry == wasted
    rows = {row["route"]: row for row in summary.figures()["routes"]}
    assert all(row["exchanges"] == row["departures"] == sum(row["phases"].values()) for row in rows.values())
    assert all(0 < row["orphans_at_most"] and 0 not in row["phases"].values() for row in rows.values())
    return [of_prometheus, of_opentelemetry, {route: row["departures"] for route, row in rows.items()}]


@pytest.mark.parametrize(("make", "path", "route"), ROUTED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:litestar")
async def test_who_leaves_before_the_router_has_chosen_is_counted_by_the_route_that_it_chose(
    make: Any, path: str, route: str
) -> None:
    registry, reader = prometheus_client.CollectorRegistry(), InMemoryMetricReader()
    prometheus.instrument(registry=registry)
    opentelemetry.instrument(meter_provider=MeterProvider([reader]))
    departures: list[Departure] = []
    subscribe(departures.append)
    app = summary.Summary(DisconnectMiddleware(make(Before)))
    for _ in range(2):
        far = http()
        scope = scope_of(path, far)
        await call(app, far, scope)
    assert [departure.is_routed for departure in departures] == [True, True], "by now"
    assert counted(registry, reader) == [{route: 2}] * 3


@pytest.mark.parametrize("make", [of_starlette, of_fastapi, before_1_7])
async def test_who_is_never_routed_is_counted_as_that(make: Any) -> None:
    """The app is cancelled in the middleware: a thousand paths are one route."""
    registry, reader = prometheus_client.CollectorRegistry(), InMemoryMetricReader()
    prometheus.instrument(registry=registry, max_routes=0)
    opentelemetry.instrument(meter_provider=MeterProvider([reader]), max_routes=0)
    departures: list[tuple[str, bool]] = []
    subscribe(lambda departure: departures.append((departure.route, departure.is_routed)))

    class Waits(Before):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await left(scope["far"])

    app = summary.Summary(DisconnectMiddleware(make(Waits), policy="cancel"))
    for number in range(3):
        far = http()
        await call(app, far, scope_of(f"/items/{number}", far))
    assert departures == [("(no route)", False)] * 3
    assert counted(registry, reader) == [{"(no route)": 3}] * 3
