"""OpenTelemetry: an event on the request's span, and metrics. Needs the extra `opentelemetry`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from .. import __version__, _backends
from .._records import Exchange
from .._telling import LOGGER, OBSERVERS
from . import Departure, subscribe
from ._routes import Routes

try:
    from opentelemetry import metrics, trace
except ImportError as _missing:
    raise ImportError(
        "disconnect_mw.observe.opentelemetry needs opentelemetry-api: pip install 'disconnect-mw[opentelemetry]'"
    ) from _missing

EVENT = "client.disconnected"


def instrument(
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    error: bool = False,
    max_routes: int = 100,
) -> Callable[[], None]:
    """Tell OpenTelemetry of each client that leaves.

    The request's span has an event `client.disconnected`, at the time of the disconnect, with the attributes
    `client.disconnect.phase`, `.policy`, `.seconds` (until the disconnect), `.wasted_seconds` and `.muted_bytes` (of
    the app from then until the span ended), and `.code` on a WebSocket. The span's status is left as it is, since
    the conventions leave it unset for what is the client's doing (4xx); with `error` it becomes Error, and `error.type`
    "ClientDisconnected".

    The span is that of the ASGI or FastAPI instrumentation, or of FastAPI's own telemetry. The middleware may stand
    inside or outside of these; but where it stands outside, not with a `BaseHTTPMiddleware` between, and not on trio.

    The metrics are, with the attributes `network.protocol.name`, `client.disconnect.phase`, `client.disconnect.policy`
    and `http.route`: the counter `client.disconnects`, the histogram `client.disconnect.wasted.duration` in seconds,
    the counter `client.disconnect.muted.io` in bytes; without attributes the up-down counter
    `client.disconnect.orphans`, of the apps that go on without a client now. The first `max_routes` routes have their
    names, all others are `"other"`, which is told once by a warning; a client that leaves before the framework has
    chosen a route is counted when its app has ended, by the route that was chosen then, or `"(no route)"`.

    Without a provider the global one is used. Nothing is recorded while a client is there. Every exchange is checked
    for a disconnect, as it is with a hook. Returns a function that ends it. Raises `ValueError` for a number of routes
    below zero, and where these providers are told already: each departure would be told twice.
    """
    routes = Routes(max_routes, "the attribute http.route of client.disconnects")
    providers = (tracer_provider, meter_provider)
    if any(getattr(observer, "providers", None) == providers for observer in OBSERVERS):
        raise ValueError(
            "OpenTelemetry is told of departures already: call instrument() once, or what it returned before it again"
        )
    meter = metrics.get_meter("disconnect_mw", __version__, meter_provider)
    disconnects = meter.create_counter(
        "client.disconnects", "{disconnect}", "Clients that left before the app had sent its last message."
    )
    wasted = meter.create_histogram(
        "client.disconnect.wasted.duration", "s", "For which the app went on after its client had left."
    )
    muted = meter.create_counter("client.disconnect.muted.io", "By", "What the app sent after its client had left.")
    orphans = meter.create_up_down_counter(
        "client.disconnect.orphans", "{app}", "Apps that go on although their client has left."
    )
    spans = _ServerSpans()
    spans.attach(tracer_provider)

    def observe(departure: Departure) -> Callable[[Exchange], None]:
        spans.attach(tracer_provider)  # an app may set the global one in its lifespan, after this
        disconnect = departure.disconnect
        orphans.add(1)

        def count() -> dict[str, str]:
            attributes = {
                "network.protocol.name": disconnect.protocol,
                "client.disconnect.phase": disconnect.phase,
                "client.disconnect.policy": departure.policy,
                "http.route": routes.bounded(departure.route),
            }
            disconnects.add(1, attributes)
            return attributes

        counted = count() if departure.is_routed else None
        told = _Told(departure, error)
        span = spans.find(departure)
        if span is not None:
            told.tell_at_end_of(span)

        def end(exchange: Exchange) -> None:
            told.exchange = exchange
            orphans.add(-1)
            attributes = counted or count()
            wasted.record(exchange.seconds, attributes)
            muted.add(exchange.bytes_muted, attributes)

        return end

    observe.providers = providers  # type: ignore[attr-defined]  # to know it by
    unsubscribe = subscribe(observe)

    def stop() -> None:
        unsubscribe()
        spans.is_closed = True

    return stop


class _Told:
    """What the span of one departure is told."""

    def __init__(self, departure: Departure, error: bool) -> None:
        self.exchange: Exchange | None = None  # once the app has ended
        self._departure = departure
        self._error = error
        self._time = time.time_ns()

    def tell_at_end_of(self, span: Any) -> None:
        """Add the event when `span` ends: only then it is known what the app did without a client.

        A span processor would be too late: when the SDK calls it (1.45) the span takes no more events. And where this
        middleware stands outside, the span ends before the exchange does.
        """
        end = span.end

        def tell_and_end(*arguments: Any, **options: Any) -> None:
            vars(span).pop("end", None)  # else it holds itself
            try:
                self._tell(span)
            except Exception:
                LOGGER.exception("a span could not be told of a client that left")
            end(*arguments, **options)

        span.end = tell_and_end

    def _tell(self, span: Any) -> None:
        departure, exchange = self._departure, self.exchange
        disconnect = departure.disconnect
        attributes: dict[str, Any] = {
            "client.disconnect.phase": disconnect.phase,
            "client.disconnect.policy": departure.policy,
            "client.disconnect.seconds": disconnect.seconds,
            "client.disconnect.wasted_seconds": departure.seconds if exchange is None else exchange.seconds,
            "client.disconnect.muted_bytes": departure.bytes_muted,
        }
        if disconnect.code is not None:
            attributes["client.disconnect.code"] = disconnect.code
        span.add_event(EVENT, attributes, self._time)
        if self._error:
            span.set_attribute("error.type", "ClientDisconnected")
            span.set_status(trace.Status(trace.StatusCode.ERROR, f"the client left {disconnect.phase}"))


class _ServerSpans:
    """A span processor that knows which span a task has begun for the request that it serves."""

    def __init__(self) -> None:
        self.is_closed = False
        self._of_tasks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._is_attached = False

    def attach(self, provider: trace.TracerProvider | None) -> None:
        add: Any = getattr(provider or trace.get_tracer_provider(), "add_span_processor", None)
        if add is not None and not self._is_attached:  # the API's own providers, which record nothing, have no such
            self._is_attached = True
            add(self)

    def find(self, departure: Departure) -> Any:
        """The span of the request, if it is being recorded."""
        of_context = departure.context.copy().run(trace.get_current_span) if departure.context is not None else None
        of_fastapi = getattr(departure.scope.get("fastapi.telemetry"), "span", None)
        for span in (of_context, of_fastapi, self._of_task(departure.task)):
            if span is not None and span.is_recording():
                return span
        return None

    def _of_task(self, task: Any) -> Any:
        try:
            return self._of_tasks.get(task)
        except TypeError:  # of something on trio to which no weak reference is possible
            return None

    # What a span processor has. Its base class is in the SDK, which this does not need.

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if span.kind is trace.SpanKind.SERVER and not self.is_closed:
            backend, token = _backends.current()
            task = backend.current_task(token)
            if task is not None:
                self._of_tasks[task] = span

    def _on_ending(self, span: Any) -> None: ...

    def on_end(self, span: Any) -> None: ...

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True
