"""The false disconnect of gunicorn's `asgi` worker (27.0.1), which takes a cancelled `receive` for a departure."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .peeking import POLLS

SECONDS = 20  # for gunicorn to start, answer and end


def answer(app: str, tmp_path: Path) -> list[bool]:
    """What the app's polls saw of a client that stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "log").open("w") as log:
        arguments = ["-m", "gunicorn", "-k", "asgi", "-b", f"fd://{listener.fileno()}", f"tests.real.peeking:{app}"]
        server = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=Path(__file__).parent.parent.parent,
            pass_fds=[listener.fileno()],
            stdout=log,
            stderr=log,
        )
        try:
            with socket.create_connection(listener.getsockname(), timeout=SECONDS) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                response = b"".join(iter(lambda: client.recv(65536), b""))
        finally:
            server.terminate()
            server.wait(SECONDS)
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK"), (tmp_path / "log").read_text()
    seen: list[bool] = json.loads(body)
    return seen


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run there")
def test_a_client_that_stays_is_not_taken_for_gone_because_somebody_peeked(tmp_path: Path) -> None:
    assert answer("bare", tmp_path) == [False] + [True] * (POLLS - 1), "or gunicorn has mended it, and this can go"
    assert answer("wrapped", tmp_path) == [False] * POLLS
