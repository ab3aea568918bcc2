"""gunicorn -c gunicorn_prometheus_conf.py prometheus_app:app, with PROMETHEUS_MULTIPROC_DIR set to an empty directory.

That variable must be set before the first metric is made: in gunicorn's own environment, as here, not in the app.
"""

from __future__ import annotations

from typing import Any

try:
    from prometheus_client import multiprocess
except ImportError:
    raise SystemExit("This example needs prometheus-client: pip install prometheus-client") from None

worker_class = "asgi"
workers = 2


def child_exit(server: Any, worker: Any) -> None:
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it has no types
