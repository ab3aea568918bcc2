"""An app that tells Prometheus of its clients that left, at /metrics, with one process or with several.

    PROMETHEUS_MULTIPROC_DIR=$(mktemp -d) gunicorn -c gunicorn_prometheus_conf.py prometheus_app:app

A client leaves one of the two workers, and each of them tells of it:

    curl --max-time 1 http://127.0.0.1:8000/jobs/one

        works in 4711

    curl --silent --location http://127.0.0.1:8000/metrics | grep disconnects_total

        client_disconnects_total{phase="before the response",...,route="/jobs/{name}"} 1.0
"""

from __future__ import annotations

import asyncio
import os

from disconnect_mw import DisconnectMiddleware

try:
    from fastapi import FastAPI
    from prometheus_client import REGISTRY, CollectorRegistry, make_asgi_app
    from prometheus_client.multiprocess import MultiProcessCollector

    from disconnect_mw.observe import prometheus
except ImportError:
    raise SystemExit(
        "This example needs FastAPI and prometheus-client: pip install fastapi prometheus-client uvicorn"
    ) from None

registry = REGISTRY
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types

prometheus.instrument()
app = FastAPI()
app.add_middleware(DisconnectMiddleware)
app.mount("/metrics", make_asgi_app(registry))


@app.get("/jobs/{name}")
async def work(name: str) -> str:
    print(f"works in {os.getpid()}", flush=True)
    await asyncio.sleep(3600)
    return name
