"""The event on the request's span, and the metrics (`disconnect_mw.observe.opentelemetry`): with the real SDK."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.requests import Request

from disconnect_mw import DisconnectMiddleware, connection
from disconnect_mw._telling import OBSERVERS
from disconnect_mw.observe import opentelemetry

from .support.apps import leaving
from .support.messages import CHUNK, DISCONNECT, FINAL, START, http_scope
from .support.serving import ON_ASYNCIO, call, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


class Telemetry:
    """Providers of the SDK, and what was recorded by them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def instrument(self, **options: Any) -> Any:
        given = {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider, **options}
        return opentelemetry.instrument(**given)

    def around(self, app: Any) -> Any:
        return OpenTelemetryMiddleware(
            app, tracer_provider=self.tracer_provider, meter_provider=metrics.NoOpMeterProvider()
        )

    def server_span(self) -> ReadableSpan:
        (span,) = [span for span in self._exporter.get_finished_spans() if span.kind is trace.SpanKind.SERVER]
        return span

    def events(self) -> list[Any]:
        return [event for span in self._exporter.get_finished_spans() for event in span.events]

    def points(self) -> dict[str, list[Any]]:
        recorded: Any = self._reader.get_metrics_data()
        if recorded is None:
            return {}
        scopes = [scope for resource in recorded.resource_metrics for scope in resource.scope_metrics]
        assert all(scope.scope.name == "disconnect_mw" for scope in scopes)
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    yield Telemetry()
    OBSERVERS.clear()


async def until_known(client: Any) -> None:
    """Wait, without asking, until the middleware has found out that the client has left."""
    with anyio.fail_after(5):
        while client._found.disconnect_message is None:
            await anyio.sleep(0.001)


def left_by(far: Any) -> Any:
    """An app that the client of `far` leaves before the response, and that does not listen."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await until_known(connection(scope))
        await turns()
        await send(START)
        await send(CHUNK)
        await send(FINAL)

    return app


INSTALLS: dict[str, Any] = {
    "inside": lambda telemetry, app: telemetry.around(DisconnectMiddleware(app)),
    "outside": lambda telemetry, app: DisconnectMiddleware(telemetry.around(app)),
    "both": lambda telemetry, app: DisconnectMiddleware(telemetry.around(DisconnectMiddleware(app))),
}


def check(telemetry: Telemetry, phase: str = "before the response", muted: int = 14) -> ReadableSpan:
    span = telemetry.server_span()
    (event,) = telemetry.events()
    assert event in span.events
    assert event.name == "client.disconnected"
    found = dict(event.attributes)
    assert 0 <= found.pop("client.disconnect.seconds") < 5
    assert 0 < found.pop("client.disconnect.wasted_seconds") < 5
    assert found == {
        "client.disconnect.phase": phase,
        "client.disconnect.policy": "mute",
        "client.disconnect.muted_bytes": muted,
    }
    assert span.start_time is not None and span.end_time is not None
    assert span.start_time < event.timestamp < span.end_time
    return span


@pytest.mark.parametrize("install", INSTALLS)
@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
async def test_the_span_of_the_asgi_instrumentation_has_an_event(telemetry: Telemetry, install: str) -> None:
    telemetry.instrument()
    far = http()
    await call(INSTALLS[install](telemetry, left_by(far)), far)
    span = check(telemetry)
    assert span.status.status_code is trace.StatusCode.UNSET


async def test_inside_it_has_one_on_trio_too(telemetry: Telemetry) -> None:
    telemetry.instrument()
    far = http()
    await call(telemetry.around(DisconnectMiddleware(left_by(far))), far)
    check(telemetry)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_outside_on_trio_only_the_metrics_tell(telemetry: Telemetry) -> None:
    telemetry.instrument()
    far = http()
    await call(DisconnectMiddleware(telemetry.around(left_by(far))), far)
    assert telemetry.events() == []
    assert [point.value for point in telemetry.points()["client.disconnects"]] == [1]


@pytest.mark.parametrize("install", INSTALLS)
@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
async def test_an_error_by_option(telemetry: Telemetry, install: str) -> None:
    telemetry.instrument(error=True)
    far = http()
    await call(INSTALLS[install](telemetry, left_by(far)), far)
    span = check(telemetry)
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == "the client left before the response"
    assert span.attributes is not None and span.attributes["error.type"] == "ClientDisconnected"


def fastapi(telemetry: Telemetry, far: Any, instrumentation: str) -> FastAPI:
    options: Any = {"telemetry": {"tracer_provider": telemetry.tracer_provider, "metrics": False, "logs": False}}
    app = FastAPI(**options if instrumentation == "its own" else {"telemetry": {"tracing": False}})

    @app.get("/jobs/{name}")
    async def work(request: Request, name: str) -> str:
        far.leave()
        await until_known(connection(request))
        return "twelve chars"

    if instrumentation == "contrib":
        FastAPIInstrumentor.instrument_app(
            app, tracer_provider=telemetry.tracer_provider, meter_provider=metrics.NoOpMeterProvider()
        )
    return app


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("instrumentation", ["contrib", "its own"])
@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
async def test_the_span_of_fastapi_has_an_event(telemetry: Telemetry, instrumentation: str, outside: bool) -> None:
    telemetry.instrument()
    far = http()
    app = fastapi(telemetry, far, instrumentation)
    if not outside:
        app.add_middleware(DisconnectMiddleware)
    await call(DisconnectMiddleware(app) if outside else app, far, http_scope(path="/jobs/x"))
    check(telemetry)
    (point,) = telemetry.points()["client.disconnects"]
    assert point.attributes["http.route"] == "/jobs/{name}"


async def test_the_metrics_tell_of_each_departure(telemetry: Telemetry) -> None:
    stop = telemetry.instrument()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await leaving(scope, receive, send)
        await send(START)
        await send(CHUNK)
        await send(FINAL)
        (orphans,) = telemetry.points()["client.disconnect.orphans"]
        assert orphans.value == 1

    for _ in range(2):
        await serve(app, http(), http_scope(path="/x", route=SimpleNamespace(path="/{name}")))
    attributes = {
        "network.protocol.name": "http",
        "client.disconnect.phase": "before the response",
        "client.disconnect.policy": "mute",
        "http.route": "/{name}",
    }
    found = telemetry.points()
    assert [(point.value, dict(point.attributes)) for point in found["client.disconnects"]] == [(2, attributes)]
    assert [(point.value, dict(point.attributes)) for point in found["client.disconnect.muted.io"]] == [
        (28, attributes)
    ]
    (seconds,) = found["client.disconnect.wasted.duration"]
    assert seconds.count == 2 and seconds.sum > 0 and dict(seconds.attributes) == attributes
    assert [point.value for point in found["client.disconnect.orphans"]] == [0]

    stop()
    await serve(leaving, http())
    assert [point.value for point in telemetry.points()["client.disconnects"]] == [2]


async def test_a_websocket_has_its_code(telemetry: Telemetry) -> None:
    telemetry.instrument()
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        far.leave()
        await receive()

    await call(telemetry.around(DisconnectMiddleware(app)), far)
    (event,) = telemetry.events()
    assert event.attributes["client.disconnect.code"] == 1006
    assert event.attributes["client.disconnect.phase"] == "while open"
    assert event in telemetry.server_span().events


async def test_a_client_that_stays_is_not_told_of(telemetry: Telemetry) -> None:
    telemetry.instrument()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    await call(telemetry.around(DisconnectMiddleware(app)), http())
    assert telemetry.server_span().events == ()
    assert telemetry.points() == {}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_span_that_was_told_does_not_hold_itself(telemetry: Telemetry) -> None:
    telemetry.instrument()
    spans: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        spans.append(weakref.ref(trace.get_current_span()))
        await left_by(far)(scope, receive, send)

    far = http()
    gc.disable()
    try:
        await call(telemetry.around(DisconnectMiddleware(app)), far)
        await turns()
        span = spans[0]()
        assert span is None or "end" not in vars(span)
    finally:
        gc.enable()
    check(telemetry)


async def test_without_a_span_only_the_metrics_tell(telemetry: Telemetry) -> None:
    telemetry.instrument()
    await serve(leaving, http())
    assert telemetry.events() == []
    assert [point.value for point in telemetry.points()["client.disconnects"]] == [1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_span_of_an_earlier_request_in_the_same_task_is_not_told(telemetry: Telemetry) -> None:
    """gunicorn's asgi worker serves all requests of a connection in one task."""
    telemetry.instrument()

    async def stays(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    await DisconnectMiddleware(telemetry.around(stays))(http_scope(), http().receive, http().send)
    await serve(leaving, http())
    assert telemetry.events() == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_no_span_is_held_and_none_is_noted_afterwards(telemetry: Telemetry) -> None:
    spans = opentelemetry._ServerSpans()
    spans.attach(telemetry.tracer_provider)
    tracer = telemetry.tracer_provider.get_tracer("test")

    async def request() -> None:
        with tracer.start_as_current_span("request", kind=trace.SpanKind.SERVER):
            assert len(spans._of_tasks) == 1

    await asyncio.create_task(request())
    await turns()  # the event loop holds the task as long as its end is being told
    gc.collect()
    assert len(spans._of_tasks) == 0
    spans.is_closed = True
    with tracer.start_as_current_span("request", kind=trace.SpanKind.SERVER):
        assert len(spans._of_tasks) == 0
    assert telemetry.tracer_provider.force_flush()
    telemetry.tracer_provider.shutdown()


def test_a_span_outside_of_any_task_is_not_noted(telemetry: Telemetry) -> None:
    spans = opentelemetry._ServerSpans()
    spans.attach(telemetry.tracer_provider)
    with telemetry.tracer_provider.get_tracer("test").start_as_current_span("job", kind=trace.SpanKind.SERVER):
        assert len(spans._of_tasks) == 0


async def test_a_global_provider_that_comes_later_is_used(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
    opentelemetry.instrument(meter_provider=telemetry.meter_provider)
    await serve(leaving, http())
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: telemetry.tracer_provider)
    await serve(leaving, http())
    attached = telemetry.tracer_provider._active_span_processor._span_processors
    assert [type(one).__name__ for one in attached] == ["SimpleSpanProcessor", "_ServerSpans"]


async def test_routes_are_bounded(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    telemetry.instrument(max_routes=2)

    async def ends(scope: Any, receive: Any, send: Any) -> None:
        while await receive() != DISCONNECT:
            pass

    for number in range(20):
        server = http()
        server.leave()
        await DisconnectMiddleware(ends)(http_scope(path=f"/{number}"), server.receive, server.send)
    found = [point.attributes["http.route"] for point in telemetry.points()["client.disconnects"]]
    assert sorted(found) == ["/0", "/1", "other"]
    assert len(caplog.messages) == 1
    with pytest.raises(ValueError, match=re.escape("max_routes must be zero or more routes, not -1")):
        telemetry.instrument(max_routes=-1)


@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
async def test_two_that_tell_harm_no_request(telemetry: Telemetry) -> None:
    """With metrics of two providers, and one for spans."""
    stops = [telemetry.instrument(), telemetry.instrument(meter_provider=MeterProvider())]
    far = http()
    await call(telemetry.around(DisconnectMiddleware(left_by(far))), far)
    for stop in stops:
        stop()
    assert [event.name for event in telemetry.events()] == [opentelemetry.EVENT] * 2
    assert "end" not in vars(telemetry.server_span())


def test_to_instrument_twice_is_refused(telemetry: Telemetry) -> None:
    """As Prometheus' registry refuses it: each departure would count twice."""
    stop = telemetry.instrument()
    with pytest.raises(ValueError, match=re.escape("OpenTelemetry is told of departures already: call instrument()")):
        telemetry.instrument()
    stop()
    stop()
    telemetry.instrument()
    assert len(OBSERVERS) == 1


async def test_what_is_stopped_counts_down_what_goes_on(telemetry: Telemetry) -> None:
    stop = telemetry.instrument()
    counts: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await leaving(scope, receive, send)
        stop()
        counts.append(telemetry.points()["client.disconnect.orphans"][0].value)

    await serve(app, http())
    counts.append(telemetry.points()["client.disconnect.orphans"][0].value)
    assert counts == [1, 0]
    assert [point.count for point in telemetry.points()["client.disconnect.wasted.duration"]] == [1]


@pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
async def test_a_span_that_cannot_be_told_ends_all_the_same(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(told: Any, span: Any) -> None:
        raise ValueError

    monkeypatch.setattr(opentelemetry._Told, "_tell", fail)
    telemetry.instrument()
    far = http()
    await call(telemetry.around(DisconnectMiddleware(left_by(far))), far)
    assert telemetry.server_span() is not None
    assert "a span could not be told of a client that left" in caplog.messages
