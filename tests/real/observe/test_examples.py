"""The examples of `client.on_disconnect` stop what their threads wait for: against the real libraries and servers."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from .serving import PATIENCE, Process

EXAMPLES = Path(__file__).parents[3] / "examples"


def serving(example: str, **variables: str) -> Process:
    command = f"uvicorn --host 127.0.0.1 --port {{port}} {example}:app"
    return Process(command, EXAMPLES, DISCONNECT_MW_LOG="info", **variables)


TOLD = r"client disconnected: GET \S+ from 127\.0\.0\.1:\d+, before the response: .* and returned"


def test_a_query_of_sqlite_is_interrupted() -> None:
    with serving("stop_sqlite") as process:
        assert process.get("/count/1000").endswith("\r\n\r\n1000")
        process.leave(f"/count/{10**12}", "^counting$")
        process.until("^interrupted$")
        process.until(TOLD)
        assert process.get("/count/1000").endswith("\r\n\r\n1000")


def test_work_in_a_thread_is_stopped() -> None:
    with serving("stop_thread") as process:
        assert process.get("/jobs/1").endswith("worked")
        process.leave(f"/jobs/{10**9}", "^working$")
        process.until("^stopped after \\d+ steps$")
        process.until(TOLD)


@contextlib.contextmanager
def upstream() -> Iterator[tuple[str, threading.Event]]:
    """A server that begins each answer and never ends it; and whether its client has left."""
    has_left = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(PATIENCE)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun")
            while connection.recv(65536):
                pass
            has_left.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/", has_left
        thread.join(PATIENCE)


def test_an_upstream_is_left() -> None:
    with upstream() as (url, has_left), serving("stop_upstream", UPSTREAM=url, NO_PROXY="*") as process:
        process.leave("/answer", "^reading$")
        process.until("^left$")
        process.until(TOLD)
        assert has_left.wait(PATIENCE)


def find_postgresql() -> Path | None:
    """Debian's programs, of which it links few into the path."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


def why_no_postgresql() -> str | None:
    if find_postgresql() is None:
        return "there is no initdb"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "it refuses to run as root, and there is no user postgres"
    return None


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL of our own, on a socket in a directory of its own."""
    why, programs = why_no_postgresql(), find_postgresql()
    if why is not None or programs is None:
        pytest.skip(f"NOT tested here: a real PostgreSQL: {why}")
    user = "postgres" if os.getuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="disconnect-mw-", dir="/tmp"))  # where that user may come, by a short path
    if user is not None:
        shutil.chown(home, user)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, "-D", home / "data", *arguments],
            user=user,
            cwd=home,
            check=True,
            timeout=PATIENCE,
            stdout=subprocess.DEVNULL,
        )

    run("initdb", "--auth=trust", "--username=test", "--no-sync")
    run("pg_ctl", "-w", "-l", str(home / "log"), "-o", f"-k {home} -h '' -F", "start")
    try:
        yield f"host={home} user=test dbname=postgres"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(home)


SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"


def test_a_query_of_postgresql_is_cancelled(database: str) -> None:
    with (
        serving("stop_postgresql", DATABASE=database) as process,
        psycopg.connect(database, autocommit=True) as other,  # a transaction would see the same for ever
    ):
        assert process.get("/sleep/0").endswith("slept")
        with process.request("/sleep/3600"):
            process.until("^sleeping$", 2)
            deadline = time.monotonic() + PATIENCE
            while other.execute(SLEEPING).fetchone() == (0,):  # a query that has not begun cannot be cancelled
                assert time.monotonic() < deadline, process.output
        process.until("^cancelled$")
        process.until(TOLD)
        assert other.execute(SLEEPING).fetchone() == (0,)
