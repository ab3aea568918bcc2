"""What runs under callgrind: `python -m benchmarks._observed with|without COUNT` runs GETs with metrics and traces on.

`without` has OpenTelemetry's ASGI instrumentation and metrics for Prometheus as an exporter makes them; `with` has the
middleware besides, and tells both of its departures.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from typing import Any

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Counter, Histogram

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe import opentelemetry, prometheus

from ._rows import SECONDS_TO_CHECK

_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"test")],
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 8000),
}
_REQUEST = {"type": "http.request", "body": b"", "more_body": False}
_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}
_BODY = {"type": "http.response.body", "body": b"hello"}


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send(_START)
    await send(_BODY)


async def _receive() -> Any:
    return _REQUEST


async def _send(message: Any) -> None:
    pass


def counted(app: Any, registry: CollectorRegistry) -> Any:
    """The metrics that exporters for ASGI have of each request."""
    requests = Counter("requests_total", "Requests.", ("method", "status", "path"), registry=registry)
    seconds = Histogram("request_seconds", "Their duration.", ("method", "path"), registry=registry)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        began, status = time.perf_counter(), 500

        async def noting_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, noting_send)
        finally:
            requests.labels(scope["method"], status, scope["path"]).inc()
            seconds.labels(scope["method"], scope["path"]).observe(time.perf_counter() - began)

    return middleware


def observed(has_middleware: bool) -> Any:
    registry = CollectorRegistry()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    meter_provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    wrapped: Any = app
    if has_middleware:
        prometheus.instrument(registry=registry)
        opentelemetry.instrument(tracer_provider=tracer_provider, meter_provider=meter_provider)
        wrapped = DisconnectMiddleware(app)
    wrapped = counted(wrapped, registry)
    return OpenTelemetryMiddleware(wrapped, tracer_provider=tracer_provider, meter_provider=meter_provider)


async def run(app: Any, count: int) -> None:
    for _ in range(count):
        await app({**_SCOPE}, _receive, _send)
    await asyncio.sleep(SECONDS_TO_CHECK)  # the watcher then drops these exchanges, because they have ended


async def run_counted(app: Any, count: int) -> None:
    await run(app, count // 5)  # past the point where CPython has specialised its bytecode
    os.getsid(0)
    await run(app, count)
    os.getsid(0)


def main(which: str, count: str) -> None:
    gc.disable()
    asyncio.run(run_counted(observed(which == "with"), int(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
