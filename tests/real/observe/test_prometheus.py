"""Prometheus' multiprocess mode under gunicorn: the metrics of all workers are one, and a dead worker's orphans go."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from .. import IS_FULL
from .serving import PATIENCE, Process

EXAMPLES = Path(__file__).parents[3] / "examples"

COUNTED = 'client_disconnects_total{phase="before the response",policy="%s",protocol="http",route="/jobs/{name}"}'
WASTED = COUNTED.replace("disconnects_total", "disconnect_wasted_seconds_count")


def value(process: Process, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", process.get("/metrics/"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def until(process: Process, sample: str, expected: float) -> None:
    deadline = time.monotonic() + PATIENCE
    while (found := value(process, sample)) != expected:
        assert time.monotonic() < deadline, f"{sample} is {found}, not {expected}"
        time.sleep(0.05)


def leave_each_worker(process: Process) -> tuple[int, set[int]]:
    """Have clients leave until both workers have lost some; returns how many clients, and the workers' ids."""
    process.until("ASGI server listening", 2)
    connections: list[socket.socket] = []
    workers: set[int] = set()
    while len(workers) < 2:
        assert len(connections) < 200, "one worker gets all connections"
        # All stay until the end: a worker that is busy accepting leaves the next one to the other.
        connections.append(process.request("/jobs/x"))
        workers = {int(line.split()[-1]) for line in process.until(r"^works in \d+$", len(connections))}
    for connection in connections:
        connection.close()
    return len(connections), workers


def gunicorn(home: Path, options: str, **variables: str) -> Process:
    (home / "metrics").mkdir()
    command = f"gunicorn -c {EXAMPLES}/gunicorn_prometheus_conf.py -b 127.0.0.1:{{port}} {options} prometheus_app:app"
    return Process(command, EXAMPLES, PROMETHEUS_MULTIPROC_DIR=str(home / "metrics"), **variables)


@pytest.mark.parametrize("options", ["", "--preload"] if IS_FULL else [""])
def test_what_the_workers_count_adds_up(tmp_path: Path, options: str) -> None:
    with gunicorn(tmp_path, options, DISCONNECT_MW_POLICY="cancel") as process:
        clients, _ = leave_each_worker(process)
        until(process, WASTED % "cancel", clients)
        assert value(process, COUNTED % "cancel") == clients
        assert value(process, "client_disconnect_orphans") == 0


def test_the_orphans_of_a_worker_that_dies_are_gone(tmp_path: Path) -> None:
    with gunicorn(tmp_path, "--asgi-disconnect-grace-period 3600 --graceful-timeout 1") as process:
        clients, workers = leave_each_worker(process)
        until(process, "client_disconnect_orphans", clients)
        of_each = {pid: process.output.count(f"works in {pid}") for pid in workers}
        dead = workers.pop()
        os.kill(dead, signal.SIGKILL)
        until(process, "client_disconnect_orphans", clients - of_each[dead])
        assert value(process, COUNTED % "mute") == clients
