"""An app that tells Prometheus of its clients that left: `uvicorn prometheus_app:app`, with the metrics at /metrics/.

With several processes: gunicorn_prometheus_conf.py.
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


@app.get("/work/{name}")
async def work(name: str) -> str:
    print(f"works in {os.getpid()}", flush=True)
    await asyncio.sleep(3600)
    return name
