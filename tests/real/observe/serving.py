"""A server as a user starts it, by its own command, and what it writes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from .. import IS_FULL, free_port

PATIENCE = 120.0
"""Seconds to wait for anything: on a busy machine a worker may need many to start."""

COMMANDS = {
    "uvicorn": "uvicorn --host 127.0.0.1 --port {port} --workers {workers} {app}",
    "gunicorn": "gunicorn -b 127.0.0.1:{port} -w {workers} --graceful-timeout 3 -k asgi {app}",
    "gunicorn with uvicorn's worker": (
        "gunicorn -b 127.0.0.1:{port} -w {workers} --graceful-timeout 3 -k uvicorn_worker.UvicornWorker {app}"
    ),
    "hypercorn": "hypercorn -b 127.0.0.1:{port} -w {workers} {app}",
    "granian": "granian --interface asgi --host 127.0.0.1 --port {port} --workers {workers} {app}",
    "daphne": "daphne -b 127.0.0.1 -p {port} {app}",  # one process
}

PLAYED = [*COMMANDS] if IS_FULL else ["uvicorn", "granian"]
"""The servers that the tests start."""


class Process:
    """A command, for as long as the context manager lives; `{port}` in it is replaced by a free one.

    Without that it is a line of shell, and uvicorn and gunicorn find the port in their environment.
    """

    def __init__(self, command: str, home: Path, **variables: str) -> None:
        self._command = command
        self._home = home
        self._variables = variables
        self._lines: list[str] = []
        self._news = threading.Condition()

    def __enter__(self) -> Process:
        self.port = free_port()
        if "{port}" in self._command:
            command = [sys.executable, "-m", *self._command.format(port=self.port).split()]
        else:
            command = ["bash", "-c", self._command]
            self._variables |= {
                "UVICORN_PORT": f"{self.port}",
                "GUNICORN_CMD_ARGS": f"-b 127.0.0.1:{self.port} --graceful-timeout 3",
            }
            self._variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISCONNECT_MW_")}
        self._process = subprocess.Popen(
            command,
            cwd=self._home,
            env={**kept, **self._variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        with contextlib.suppress(ProcessLookupError):  # its workers, which are in its session
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def stop(self) -> None:
        """Ask it to end, and wait until it has; it is killed where it does not."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.rstrip())
                self._news.notify_all()

    @property
    def output(self) -> str:
        with self._news:
            return "\n".join(self._lines)

    def until(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until so many lines match, and return them."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while True:
                found = [line for line in self._lines if re.search(pattern, line)]
                if len(found) >= times:
                    return found
                assert self._news.wait(deadline - time.monotonic()), f"no {pattern!r} in:\n" + "\n".join(self._lines)

    def connect(self) -> socket.socket:
        """A connection, as soon as the server listens."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), PATIENCE)
            except OSError:
                assert self._process.poll() is None, f"the server has ended:\n{self.output}"
                assert time.monotonic() < deadline, f"the server does not listen:\n{self.output}"
                time.sleep(0.05)

    def request(self, path: str, headers: str = "") -> socket.socket:
        """A connection on which a GET was sent."""
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode())
        return connection

    def get(self, path: str) -> str:
        """The whole response of a GET."""
        with self.request(path, "Connection: close\r\n") as connection:
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return received.decode()

    def leave(self, path: str, until: str) -> None:
        """Send a GET, wait for this line, and leave."""
        before = len(re.findall(until, self.output))
        with self.request(path):
            self.until(until, before + 1)
