"""Requests per second through a real uvicorn, with and without the middleware: two servers, rounds interleaved."""

from __future__ import annotations

import contextlib
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

# What each app of `_serve` is asked for.
PATHS = {"smallest": "/", "Starlette": "/items/7"}

JUDGED = "Starlette"
"""The app that the goal is about. With the smallest app even two closures answer only 0.95 of the requests."""

_CONNECTIONS = 8  # enough to keep the server busy all the time
_SECONDS_TO_START = 30.0
_SECONDS_TO_ANSWER = 10.0


@dataclass
class Measured:
    per_second: float  # of the clock
    cpu_per_request: float  # seconds of the server's processor time


@dataclass
class Server:
    app: str
    row: str
    port: int
    stack: str  # which HTTP parser and which loop uvicorn chose


def measure(
    app: str, rows: list[str], rounds: int, seconds: float, progress: Callable[[str], None]
) -> tuple[str, dict[str, list[Measured]]]:
    """Rounds of so many seconds for each row in turn. Returns what uvicorn runs on, and each row's rounds."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_server(app, row)) for row in rows]
        measured: dict[str, list[Measured]] = {row: [] for row in rows}
        for server in servers:
            _round(server, seconds)  # to warm up
        for number in range(rounds):
            progress(f"requests, {app} app: round {number + 1} of {rounds}")
            for server in servers[:: 1 if number % 2 else -1]:
                measured[server.row].append(_round(server, seconds))
        return servers[0].stack, measured


def per_second_ratio(of: list[Measured], to: list[Measured]) -> float:
    """The median of the rounds' own ratios: what disturbed one round disturbed its neighbour as well."""
    return statistics.median(a.per_second / b.per_second for a, b in zip(of, to, strict=True))


def cpu_ratio(of: list[Measured], to: list[Measured]) -> float:
    """The same ratio of requests per second of processor time."""
    return statistics.median(b.cpu_per_request / a.cpu_per_request for a, b in zip(of, to, strict=True))


@contextlib.contextmanager
def _server(app: str, row: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks._serve", app, row]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            words = process.stdout.readline().split()
            if not words:
                raise RuntimeError(f"the server for {row} did not start: look at what it printed above")
            yield Server(app, row, int(words[0]), " and ".join(words[1:]))
        finally:
            process.stdin.close()
            try:
                process.wait(_SECONDS_TO_START)
            except subprocess.TimeoutExpired:
                process.kill()


def _round(server: Server, seconds: float) -> Measured:
    cpu_before = _cpu(server.port)
    count, taken = _keep_busy(server.port, PATHS[server.app], seconds)
    return Measured(count / taken, (_cpu(server.port) - cpu_before) / count)


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def _cpu(port: int) -> float:
    with socket.create_connection(("127.0.0.1", port), _SECONDS_TO_ANSWER) as client:
        client.sendall(_request("/cpu"))
        received = b""
        while not _is_whole(received):
            received += client.recv(65536) or _closed(received)
    return float(received.partition(b"\r\n\r\n")[2])


def _is_whole(answer: bytes) -> bool:
    """Whether the answer has arrived. Its body is a few bytes in one piece, so a body that has begun is whole."""
    return not answer.endswith(b"\r\n\r\n") and b"\r\n\r\n" in answer


def _closed(answer: bytes) -> NoReturn:
    raise RuntimeError(f"the server closed a connection after {answer[:200]!r}")


def _keep_busy(port: int, path: str, seconds: float) -> tuple[int, float]:
    """Send requests on all connections at once. Returns how many answers came, in how many seconds."""
    request = _request(path)
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(selectors.DefaultSelector())
        for _ in range(_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), _SECONDS_TO_ANSWER))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting.register(client, selectors.EVENT_READ, client)
            client.sendall(request)
        count = 0
        began = now = time.perf_counter()
        while now - began < seconds:
            ready = waiting.select(_SECONDS_TO_ANSWER)
            if not ready:
                raise RuntimeError("the server does not answer any more")
            for key, _ in ready:
                client = key.data
                answer = client.recv(65536)
                while not _is_whole(answer):
                    answer += client.recv(65536) or _closed(answer)
                client.sendall(request)
                count += 1
            now = time.perf_counter()
        return count, now - began
