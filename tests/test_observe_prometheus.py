"""The metrics of departures for Prometheus, and the dashboard that shows them (`disconnect_mw.observe.prometheus`)."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import promql_parser
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from disconnect_mw import DisconnectMiddleware
from disconnect_mw._telling import OBSERVERS
from disconnect_mw.observe import prometheus

from .support.apps import leaving
from .support.messages import CHUNK, DISCONNECT, FINAL, START, http_scope
from .support.serving import serve
from .support.simulated_server import http, websocket

pytestmark = pytest.mark.anyio

DASHBOARD = json.loads((Path(__file__).parent.parent / "examples" / "grafana-dashboard.json").read_text("utf-8"))

LABELS = {"protocol": "http", "phase": "before the response", "policy": "mute", "route": "/"}


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    yield CollectorRegistry()
    OBSERVERS.clear()


def samples(registry: CollectorRegistry) -> dict[str, list[Any]]:
    """What a scrape has, by the name of the sample."""
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


async def writing(scope: Any, receive: Any, send: Any) -> None:
    await leaving(scope, receive, send)
    await send(START)
    await send(CHUNK)
    await send(FINAL)


async def test_a_departure_is_counted_with_what_was_done_afterwards(registry: CollectorRegistry) -> None:
    prometheus.instrument(registry=registry)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await writing(scope, receive, send)
        assert registry.get_sample_value("client_disconnect_orphans") == 1

    for _ in range(2):
        await serve(app, http(), http_scope(path="/x", route=SimpleNamespace(path="/{name}")))
    labels = {**LABELS, "route": "/{name}"}
    assert registry.get_sample_value("client_disconnects_total", labels) == 2
    assert registry.get_sample_value("client_disconnect_muted_bytes_total", labels) == 28
    assert registry.get_sample_value("client_disconnect_wasted_seconds_count", labels) == 2
    seconds = registry.get_sample_value("client_disconnect_wasted_seconds_sum", labels)
    assert seconds is not None and 0 < seconds < 10
    assert registry.get_sample_value("client_disconnect_orphans") == 0


async def test_the_phase_the_policy_and_the_protocol_are_told_apart(registry: CollectorRegistry) -> None:
    prometheus.instrument(registry=registry)
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        far.leave()
        await receive()

    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        send.__self__.server_receive.__self__.leave()
        await receive()

    await serve(app, far)
    await serve(streaming, http(), policy="raise")
    found = [sample.labels for sample in samples(registry)["client_disconnects_total"]]
    assert found == [
        {"protocol": "websocket", "phase": "while open", "policy": "raise", "route": "/"},
        {"protocol": "http", "phase": "during the response", "policy": "raise", "route": "/"},
    ]


async def test_a_client_that_stays_makes_no_series(registry: CollectorRegistry) -> None:
    prometheus.instrument(registry=registry)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    before = generate_latest(registry)
    await serve(app, http())
    assert generate_latest(registry) == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_ten_thousand_departures_leave_no_series_more_than_routes_and_phases(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Each with a path of its own, as a client can make them up."""
    prometheus.instrument(registry=registry, max_routes=3)
    quick = DisconnectMiddleware(ends)
    with anyio.fail_after(120):
        for number in range(10_000):
            server = http()
            server.leave()
            await quick(http_scope(path=f"/{number}"), server.receive, server.send)
    counted = samples(registry)["client_disconnects_total"]
    assert sum(sample.value for sample in counted) == 10_000
    assert [sample.labels["route"] for sample in counted] == ["/0", "/1", "/2", "other"]
    assert len(samples(registry)["client_disconnect_wasted_seconds_count"]) == 4
    assert len(samples(registry)["client_disconnect_muted_bytes_total"]) == 4
    assert caplog.messages == [
        'the label `route` of client_disconnects_total has 3 routes, and all others from now on are "other", beginning '
        "with '/3': raise max_routes, or use a framework that puts the route into the scope (Starlette, FastAPI, "
        "Litestar)"
    ]


async def ends(scope: Any, receive: Any, send: Any) -> None:
    while await receive() != DISCONNECT:
        pass


async def test_it_ends_and_can_begin_again(registry: CollectorRegistry) -> None:
    stop = prometheus.instrument(registry=registry)
    stop()
    assert generate_latest(registry) == b""
    await serve(leaving, http())
    prometheus.instrument(registry=registry)
    await serve(leaving, http())
    assert registry.get_sample_value("client_disconnects_total", LABELS) == 1


async def test_the_default_is_the_registry_of_the_process() -> None:
    stop = prometheus.instrument()
    try:
        await serve(leaving, http())
        assert REGISTRY.get_sample_value("client_disconnects_total", LABELS) == 1
    finally:
        stop()


def test_twice_in_one_registry_is_refused(registry: CollectorRegistry) -> None:
    stop = prometheus.instrument(registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        prometheus.instrument(registry=registry)
    assert len(OBSERVERS) == 1
    stop()
    stop()
    prometheus.instrument(registry=registry)
    stop()
    assert len(OBSERVERS) == 1 and registry.get_sample_value("client_disconnect_orphans") == 0, "of the other"


@pytest.mark.parametrize(
    "name",
    [
        "client_disconnects",
        "client_disconnect_wasted_seconds",
        "client_disconnect_muted_bytes",
        "client_disconnect_orphans",
    ],
)
def test_what_the_registry_has_already_leaves_it_as_it_was(registry: CollectorRegistry, name: str) -> None:
    other = Gauge(name, "The app's own.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        prometheus.instrument(registry=registry)
    assert [family.name for family in registry.collect()] == [name]
    assert OBSERVERS == []
    registry.unregister(other)
    prometheus.instrument(registry=registry)


async def test_one_that_is_stopped_counts_down_what_goes_on(registry: CollectorRegistry) -> None:
    """In the file of a worker in multiprocess mode the value would stay."""
    stop = prometheus.instrument(registry=registry)
    (gauge,) = [one for one in registry._collector_to_names if isinstance(one, Gauge)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await leaving(scope, receive, send)
        assert gauge._value.get() == 1
        stop()

    await serve(app, http())
    assert gauge._value.get() == 0


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (-1, ValueError, 'max_routes must be zero or more routes, not -1: with 0 all are "other"'),
        (True, TypeError, "max_routes must be a whole number of routes, not True: pass an int"),
        ("9", TypeError, "max_routes must be a whole number of routes, not '9': pass an int"),
    ],
)
def test_what_is_no_number_of_routes_is_refused(
    registry: CollectorRegistry, limit: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        prometheus.instrument(registry=registry, max_routes=limit)
    assert generate_latest(registry) == b""


@pytest.mark.parametrize(
    ("module", "library", "package"),
    [("prometheus", "prometheus_client", "prometheus-client"), ("opentelemetry", "opentelemetry", "opentelemetry-api")],
)
def test_a_library_that_is_missing_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, library: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"disconnect_mw.observe.{module}", raising=False)
    expected = f"disconnect_mw.observe.{module} needs {package}: pip install 'disconnect-mw[{module}]'"
    with pytest.raises(ImportError, match=re.escape(expected)):
        importlib.import_module(f"disconnect_mw.observe.{module}")


# The dashboard

EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]

OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that are not the metrics' own."""


def parsed(expression: str) -> Any:
    """The query, with what Grafana puts in place of its variables."""
    for variable, value in (("$__range", "6h"), ("$__rate_interval", "1m"), ("$job", ".*"), ("$route", ".*")):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return promql_parser.parse(expression)


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """The metrics, and the labels, of a query."""
    metrics: set[str] = set()
    labels: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            metrics.add(str(node.name))
            labels.update(matcher.name for matcher in node.matchers.matchers)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql_parser.walk(parsed(expression), visit)
    return metrics, labels


async def test_the_dashboard_asks_for_what_there_is_and_for_all_of_it(registry: CollectorRegistry) -> None:
    prometheus.instrument(registry=registry)
    await serve(writing, http())
    found = {name: sample for name, (sample, *_) in samples(registry).items() if not name.endswith("_created")}
    asked: set[str] = set()
    for expression in EXPRESSIONS:
        metrics, labels = names_in(expression)
        assert metrics and metrics <= found.keys(), expression
        for metric in metrics:
            assert labels <= found[metric].labels.keys() | OF_PROMETHEUS, expression
        asked |= metrics
    assert asked == found.keys()


def test_the_variables_of_the_dashboard_are_labels_of_a_metric() -> None:
    queries = [variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    assert [query["query"] for query in queries] == [
        f"label_values(client_disconnects_total, {label})" for label in ("job", "route")
    ]


def test_what_the_dashboard_shows_of_each_series_is_one_of_its_labels() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            _, labels = names_in(target["expr"])
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, target
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
