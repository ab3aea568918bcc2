"""Prometheus metrics of clients that left, and of what their apps did afterwards. Needs the extra `prometheus`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._records import Exchange
from . import Departure, subscribe
from ._routes import Routes

try:
    from prometheus_client import REGISTRY, Counter, Gauge, Histogram
except ImportError as _missing:
    raise ImportError(
        "disconnect_mw.observe.prometheus needs prometheus-client: pip install 'disconnect-mw[prometheus]'"
    ) from _missing

BUCKETS = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds. An app that goes on for half an hour is an endless stream."""


def instrument(*, registry: Any = REGISTRY, max_routes: int = 100) -> Callable[[], None]:
    """Count departures, and what apps do afterwards, in these metrics of `registry`:

    - `client_disconnects_total{protocol,phase,policy,route}`;
    - `client_disconnect_wasted_seconds`, a histogram with the same labels: how long the app went on afterwards;
    - `client_disconnect_muted_bytes_total`, with the same labels: what it sent afterwards;
    - `client_disconnect_orphans`, a gauge: the apps that go on without a client now.

    The route is the one that the framework puts into the scope (Starlette 1.7, FastAPI, Litestar), `"(no route)"` where
    it has put none there, and the path where the framework is another one. The first `max_routes` have their names, all
    others are `"other"`, which is told once by a warning. A client that leaves before the framework has chosen a route
    is counted when its app has ended, by the route that was chosen then.

    With several workers set `PROMETHEUS_MULTIPROC_DIR`, as prometheus_client documents it, and call its
    `mark_process_dead(pid)` in gunicorn's `child_exit`: the gauge is the sum over the workers that live.

    Nothing is counted while a client is there. Every exchange is checked for a disconnect, as it is with a hook.

    Call it once, before the first request. Returns a function that ends it and takes the metrics from the registry.
    Raises `ValueError` for metrics that the registry has already, in which case it keeps none of these, and for a
    number of routes below zero.
    """
    routes = Routes(max_routes, "the label `route` of client_disconnects_total")
    labels = ("protocol", "phase", "policy", "route")
    made: list[Any] = []

    def make(kind: Any, name: str, about: str, *labels: Any, **options: Any) -> Any:
        made.append(kind(name, about, *labels, registry=registry, **options))
        return made[-1]

    def unregister() -> None:
        while made:
            registry.unregister(made.pop())

    try:
        disconnects = make(
            Counter, "client_disconnects_total", "Clients that left before the app had sent its last message.", labels
        )
        wasted = make(
            Histogram,
            "client_disconnect_wasted_seconds",
            "Seconds for which the app went on after its client had left.",
            labels,
            buckets=BUCKETS,
        )
        muted = make(
            Counter,
            "client_disconnect_muted_bytes_total",
            "Bytes that the app sent after its client had left.",
            labels,
        )
        orphans = make(
            Gauge,
            "client_disconnect_orphans",
            "Apps that go on although their client has left.",
            multiprocess_mode="livesum",
        )
    except BaseException:
        unregister()
        raise

    def observe(departure: Departure) -> Callable[[Exchange], None]:
        disconnect = departure.disconnect
        orphans.inc()

        def count() -> tuple[str, ...]:
            values = (disconnect.protocol, disconnect.phase, departure.policy, routes.bounded(departure.route))
            disconnects.labels(*values).inc()
            return values

        counted = count() if departure.is_routed else None

        def end(exchange: Exchange) -> None:
            orphans.dec()
            values = counted or count()
            wasted.labels(*values).observe(exchange.seconds)
            muted.labels(*values).inc(exchange.bytes_muted)

        return end

    unsubscribe = subscribe(observe)

    def stop() -> None:
        unsubscribe()
        unregister()

    return stop
