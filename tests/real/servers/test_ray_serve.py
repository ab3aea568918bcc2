"""Ray Serve: what stays is as bare, each departure is told once, and Ray's own cancellation passes.

Ray is not among what the extra `test` installs; `.ci/run` has an environment for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .clients import Client, WebSocketClient
from .ray_serve import POLICIES

SECONDS_TO_START = 240.0
SECONDS = 60.0
"""Limits, for a busy machine; Ray cancels within half a second."""

ATTEMPTS = 3
"""Ray gives its own agents 15 s to start, which is not enough on a machine that is busy."""

UNCANCELLED = "x-request-disconnect-disabled: ?1"
"""The header of a request that Ray does not cancel."""

LONG = 600
"""Seconds of work that only a cancellation ends."""


class RayServe:
    """Ray Serve in processes of its own, for as long as the context manager lives."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)  # short: sockets are in it
        self._events = Path(self._home.name, "events")
        self._log = Path(self._home.name, "log")
        self._numbers = itertools.count(1)

    def __enter__(self) -> RayServe:
        for _ in range(ATTEMPTS):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self._events.touch()
            with open(self._log, "w") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.real.servers.ray_serve", str(self.port)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=self._home.name,
                    env={
                        **os.environ,
                        "PYTHONPATH": str(Path(__file__).parents[3]),
                        "TESTS_EVENTS": str(self._events),
                        "RAY_TMPDIR": self._home.name,
                        "RAY_USAGE_STATS_ENABLED": "0",
                        "RAY_AUTH_MODE": "disabled",  # else it writes a token into the user's home
                    },
                    start_new_session=True,
                )
            try:
                wait_until(lambda: self._serves() or self._process.poll() is not None, "start", SECONDS_TO_START)
            except BaseException:
                self._end()
                raise
            if self._serves():
                return self
            self._end()
        log_text = self._log.read_text(errors="replace")
        self._home.cleanup()
        if "timed out during startup" in log_text:
            pytest.skip("NOT tested here: Ray Serve: this machine is too busy for Ray to start")
        raise AssertionError(f"Ray Serve did not start: {log_text[-3000:]}")

    def __exit__(self, *exception: object) -> None:
        self._end()
        self._home.cleanup()

    def _serves(self) -> bool:
        return "serving\n" in self._log.read_text(errors="replace")

    def _end(self) -> None:
        """Ask Ray to end, and end what is left of it: all of its processes are in this session."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(SECONDS)
        finally:
            for process in _of_session(self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self._process.wait(SECONDS)

    def path(self, install: str, what: str, seconds: float = LONG) -> str:
        return f"/{install}/{what}/{seconds}/{next(self._numbers)}"

    def events(self, path: str) -> dict[str, list[str]]:
        """What has been told of the exchange with that path, by its kind."""
        found: dict[str, list[str]] = {}
        for line in self._events.read_text().splitlines():
            event = json.loads(line)
            if event["path"] == path:
                found.setdefault(event["event"], []).append(event["text"])
        return found

    def until(self, path: str, *events: str) -> None:
        wait_until(lambda: all(event in self.events(path) for event in events), f"{events} of {path}")

    def leave(self, path: str, how: str, sent: bytes) -> dict[str, list[str]]:
        """Leave that exchange in the midst. Returns what was told of it, once it has ended and all is told."""
        with Client(self.port) as client:
            client.say(sent)
            self.until(path, "begun")
            client.leave(how)
        self.until(path, "ended")
        # What would be told twice is told by now: the app's loop has answered another request.
        assert self.ask("/bare/hello").endswith(b"hello")
        return self.events(path)

    def ask(self, path: str, body: bytes = b"") -> bytes:
        """Return the whole answer, but for what is different each time."""
        came, part = b"", b"x"
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as client:
            client.sendall(request(path, body, "Connection: close"))
            while part:
                part = client.recv(65536)
                came += part
        return _without_what_differs(came)


def _without_what_differs(came: bytes) -> bytes:
    return re.sub(rb"(?i)(date|x-request-id): [^\r]*\r\n", b"", came)


def request(path: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """A request, which announces `length` bytes where that is not the body's."""
    size = len(body) if length is None else length
    lines = f"{'POST' if size else 'GET'} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {size}", *headers
    return "\r\n".join((*lines, "", "")).encode() + body


def _of_session(session: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session:
            yield int(stat.parent.name)


def wait_until(is_so: Callable[[], Any], what: str, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"HANG: no {what} within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ray_serve() -> Iterator[RayServe]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("NOT tested here: Ray Serve: install it with: pip install 'ray[serve]==2.60.0'")
    with RayServe() as serves:
        yield serves


@pytest.mark.parametrize("what", ["hello", "echo", "five"])
def test_a_client_that_stays_gets_its_answer_as_bare(ray_serve: RayServe, what: str) -> None:
    body = bytes(range(256)) * 400 if what == "echo" else b""
    bare = ray_serve.ask(f"/bare/{what}", body)
    assert bare.startswith(b"HTTP/1.1 200") and bare.endswith(body)
    assert [ray_serve.ask(f"/{policy}/{what}", body) for policy in POLICIES] == [bare] * 4


def test_a_websocket_gets_its_echo_as_bare(ray_serve: RayServe) -> None:
    def said(install: str) -> bytes:
        with WebSocketClient(ray_serve.port) as client:
            client.ask(f"/{install}/socket")
            client.hear(b"\r\n\r\n")
            for text in (b"one", b"two"):
                client.text(text)
                client.hear(text)
            return _without_what_differs(client.came)

    bare = said("bare")
    assert bare.endswith(b"\x81\x03one\x81\x03two")
    assert [said(policy) for policy in POLICIES] == [bare] * 4


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("what", ["plain", "stream", "upload"])
@pytest.mark.parametrize("policy", POLICIES)
def test_each_departure_that_ray_tells_of_has_its_line_and_its_hook_once(
    ray_serve: RayServe, policy: str, what: str, how: str
) -> None:
    """Ray cancels its own call for messages as well: of some departures it does not tell."""
    path = ray_serve.path(policy, what)
    told = ray_serve.leave(path, how, sent(path, what))
    expected = [path] if "told by Ray" in told else []
    assert [_path_of(line) for line in told.get("line", [])] == expected
    assert len(told.get("hook", [])) == len(expected)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("what", ["plain", "upload"])
@pytest.mark.parametrize("policy", POLICIES)
def test_each_departure_that_ray_does_not_cancel_has_its_line_and_its_hook_once(
    ray_serve: RayServe, policy: str, what: str, how: str
) -> None:
    path = ray_serve.path(policy, what, 2)
    told = ray_serve.leave(path, how, sent(path, what, UNCANCELLED))
    assert [_path_of(line) for line in told["line"]] == [path]
    assert len(told["hook"]) == 1


def sent(path: str, what: str, *headers: str) -> bytes:
    """A request, cut in its body where that is `what` is left."""
    return request(path, b"x" * 1000 if what == "upload" else b"", *headers, length=5000 if what == "upload" else None)


def _path_of(line: str) -> str:
    return line.removeprefix("client disconnected: ").split()[1]


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(("install", "what"), [("bare", "plain"), ("finish", "plain"), ("mute", "shield")])
def test_rays_cancellation_passes(ray_serve: RayServe, install: str, what: str, how: str) -> None:
    """Neither `finish` nor `shield()` can outlast it."""
    path = ray_serve.path(install, what)
    with Client(ray_serve.port) as client:
        client.say(request(path))
        ray_serve.until(path, "begun")
        client.leave(how)
    ray_serve.until(path, "ended")
    assert ray_serve.events(path)["raised"] == ["CancelledError"]
    assert "saved" not in ray_serve.events(path)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(("install", "what"), [("finish", "plain"), ("mute", "shield")])
def test_with_rays_header_the_work_is_finished(ray_serve: RayServe, install: str, what: str, how: str) -> None:
    path = ray_serve.path(install, what, 2)
    ray_serve.leave(path, how, request(path, b"", UNCANCELLED))
    assert ray_serve.events(path).get("saved") == [""]
    assert "raised" not in ray_serve.events(path)
