"""A real server in a process of its own, and the events that it and its apps emit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import disconnect_mw

from .. import free_port
from .clients import PATIENCE, Client, Hang
from .setups import APP, Setup

Event = dict[str, Any]

ATTEMPTS = 3
"""Attempts to start a server: a port that was free may be taken by then, or the machine have no room for a process."""

REPEATS = 3
"""A text that is logged more often than this during one visit is logged for each message."""

SECONDS_TO_ERROR = 2.0
"""Daphne checks once a second for what the apps have raised."""

_SUSPICIOUS = ("Traceback", "never awaited", "never retrieved", "Exception ignored", "Fatal Python error")
"""Words of errors that go to stderr and to no logger."""


class Crash(AssertionError):
    """The server's process has ended."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a visit.

    `seen` is the app's transcript from when it knows of the disconnect, or all of it if it never does.
    """

    seen: tuple[str, ...]
    ends: tuple[str, ...] = ("returned",)  # how each call of the whole app ended
    info_lines: int = 1  # of logger disconnect_mw
    errors: tuple[str, ...] = ()  # the exceptions that the server logged
    repeats: tuple[str, ...] = ()  # texts that the server logged for each message


class Server:
    """The server of `setup`, run by the interpreter `python`, for as long as the context manager lives.

        with Server(sys.executable, Setup("hypercorn", INSTALLED, "trio")) as server:
            visit = server.visit("listen", "mute")  # an app and a variant of `apps.APPS`
            with Client(server.port) as client:
                client.request(visit.path)
                visit.until("streaming")              # the app calls play.ready("streaming")
                client.leave("rst")
            print(visit.outcome(), visit.story())

    The process is the server as a user starts it, with one worker. It serves `app`, an import path below the packages
    `disconnect_mw` and `servers`, which are copied for it, or below `packages`, more directories to copy. An app that
    imports `servers.serve` has all log records of the process among the `events`, and `servers.play.emit` for its own.
    Every wait is bounded: `Hang` is raised if an event does not come, `Crash` with the last lines of the log if the
    server ends. Leaving the context stops the server, at once after a `Hang`.
    """

    port: int
    version: str

    def __init__(self, python: str, setup: Setup, app: str = APP, packages: tuple[Path, ...] = ()) -> None:
        self._python = python
        self.setup = setup
        self._app = app
        self._packages = (Path(disconnect_mw.__file__).parent, Path(__file__).parent, *packages)
        self._runs = 0

    def __enter__(self) -> Server:
        self._home = tempfile.TemporaryDirectory(prefix="disconnect-mw-")
        home = Path(self._home.name)
        # The server's interpreter may be another one, so it gets copies of these packages alone.
        for package in self._packages:
            shutil.copytree(package, home / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._start(home)
            except BaseException as failure:
                passes = isinstance(failure, OSError) or (isinstance(failure, Crash) and not self.setup.takes_socket)
                if not passes or attempt == ATTEMPTS:
                    self._home.cleanup()
                    raise
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop(kill=isinstance(exception, Hang))
        self._home.cleanup()

    def _start(self, home: Path) -> None:
        self._events: list[Event] = []
        self._news = threading.Condition()
        self._ended = False
        self._stderr = open(home / "stderr", "w+", encoding="utf-8", errors="replace")
        try:
            self._process = self._launch(home)
        except BaseException:
            self._stderr.close()
            raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._wait_until_it_listens()
        except BaseException as failure:
            self._stop(kill=not isinstance(failure, Crash))
            raise

    def _launch(self, home: Path) -> subprocess.Popen[bytes]:
        with socket.socket() as listening:
            self.port = free_port()
            listening.bind(("127.0.0.1", self.port))
            inherited: tuple[int, ...] = ()
            if self.setup.takes_socket:
                listening.listen(64)
                inherited = (listening.fileno(),)
            else:
                listening.close()
            return subprocess.Popen(
                [self._python, *self.setup.command(inherited[0] if inherited else self.port, self._app)],
                cwd=home,
                env={
                    **os.environ,
                    "PYTHONPATH": str(home),
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONFAULTHANDLER": "1",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "TESTS_SERVER": self.setup.server,
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                pass_fds=inherited,
                start_new_session=True,  # so that its workers can be killed with it
            )

    def _wait_until_it_listens(self) -> None:
        self.version = self.wait(lambda event: "version" in event, "the server's version", 3 * PATIENCE)["version"]
        deadline = time.monotonic() + 3 * PATIENCE
        while True:
            try:
                self.mark("started")
                return
            except (ConnectionError, Hang):  # a busy machine takes long to import an app
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise Crash(f"the server does not listen\n{self.last_words()}") from None
                time.sleep(0.02)  # the server emits nothing when it listens

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
                if not isinstance(event, dict):
                    raise ValueError(line)
            except ValueError:
                event = {"stray": line.decode(errors="replace")}
            with self._news:
                self._events.append(event)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _stop(self, kill: bool) -> None:
        self.hung_at_the_end = False
        if not kill:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.hung_at_the_end = kill = True
        if kill:
            if sys.platform != "win32":
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.seek(0)
        self.stderr = self._stderr.read()
        self._stderr.close()

    def wait(self, is_it: Callable[[Event], bool], awaited: str, patience: float = PATIENCE, since: int = 0) -> Event:
        """Wait for an event, from number `since` on, for which `is_it` is true; return the first."""
        deadline = time.monotonic() + patience
        with self._news:
            while True:
                while since < len(self._events):
                    if is_it(self._events[since]):
                        return self._events[since]
                    since += 1
                if self._ended:
                    raise Crash(f"the server ended before {awaited}\n{self.last_words()}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Hang(f"HANG: in {patience:.0f} s there was no {awaited}\n{self.last_words()}")
                self._news.wait(left)

    def last_words(self) -> str:
        """Return the last events and the last lines on stderr."""
        recent = "\n".join(map(_readable, self._events[-12:]))
        stderr = Path(self._stderr.name).read_text(encoding="utf-8", errors="replace")[-2000:]
        return f"the last events:\n{recent}\non stderr:\n{stderr}"

    def ask(self, path: str) -> None:
        """Send a request beside the visits, and wait for the answer."""
        with Client(self.port) as client:
            client.request(path)
            client.hear(b"\r\n\r\nok")

    def mark(self, name: str) -> None:
        """Wait until the server has done everything that came before this."""
        since = self.count
        self.ask(f"/mark/-/{name}")
        self.wait(lambda event: event.get("mark") == name, f"mark {name}", since=since)

    def visit(self, app: str, variant: str) -> Visit:
        self._runs += 1
        return Visit(self, app, variant, str(self._runs))

    @property
    def count(self) -> int:
        """The number of events so far."""
        with self._news:
            return len(self._events)

    def events(self, since: int = 0) -> list[Event]:
        with self._news:
            return self._events[since:]

    def complaints(self) -> list[str]:
        """Return the errors of a stopped server that belong to no visit."""
        lines = [*self.stderr.splitlines(), *(event["stray"] for event in self.events() if "stray" in event)]
        return [line for line in lines if any(word in line for word in _SUSPICIOUS)]


class Visit:
    """A visit of one client or more to one app."""

    def __init__(self, server: Server, app: str, variant: str, run: str) -> None:
        self._server = server
        self._run = run
        self._since = server.count
        self.variant = variant
        self.path = f"/{app}/{variant}/{run}"
        self.port = server.port

    def at(self, app: str) -> str:
        """Return the path of another app in the same visit."""
        return f"/{app}/{self.variant}/{self._run}"

    def until(self, ready: str) -> None:
        """Wait until the app calls `play.ready(ready)`."""
        self._server.wait(
            lambda event: self._is_mine(event, ready=ready), f"word that the app is {ready}", since=self._since
        )

    def cue(self, name: str = "gone") -> None:
        """Let the app go on. The server has noticed before that a client left, because that came first."""
        self._server.mark(f"{name}-{self._run}")
        self._server.ask(f"/signal/{self._run}/{name}")

    def outcome(self, ends: int = 1, errors: int = 0) -> Outcome:
        """Return the outcome, once `ends` calls of the whole app have ended and the server has logged all it has to.

        It waits for so many `errors` for 2 s; there may be fewer.
        """
        since = self._since
        for number in range(ends):
            self._server.wait(
                lambda event: self._is_mine(event) and "end" in event, f"end number {number + 1}", since=since
            )
            since = self._end_after(since)
        self._server.mark(self._run)
        if errors:
            with contextlib.suppress(Hang):
                self._server.wait(lambda event: self._errors() >= errors, "error", SECONDS_TO_ERROR, self._since)
        events = self._server.events(self._since)
        lines = [event for event in events if self._is_mine(event) and "line" in event]
        known = [event["line"] for event in lines if event["known"]]
        logged = Counter(event["text"] for event in events if event.get("logger", "disconnect_mw") != "disconnect_mw")
        return Outcome(
            seen=tuple(known or [event["line"] for event in lines]),
            ends=tuple(event["end"] for event in events if self._is_mine(event) and "end" in event),
            info_lines=sum(event.get("logger") == "disconnect_mw" and event["log"] == "INFO" for event in events),
            errors=tuple(map(_error_of, filter(_is_error, events))),
            repeats=tuple(text for text, times in logged.items() if times > REPEATS),
        )

    def story(self) -> str:
        """Return all events since the visit began, as text."""
        return "\n".join(map(_readable, self._server.events(self._since)))

    def _errors(self) -> int:
        return sum(map(_is_error, self._server.events(self._since)))

    def _end_after(self, since: int) -> int:
        events = self._server.events(since)
        return since + next(index for index, event in enumerate(events) if self._is_mine(event) and "end" in event) + 1

    def _is_mine(self, event: Event, **fields: str) -> bool:
        return event.get("run") == self._run and all(event.get(key) == value for key, value in fields.items())


def _is_error(event: Event) -> bool:
    return event.get("log") in ("ERROR", "CRITICAL") or bool(event.get("traceback"))


def _error_of(event: Event) -> str:
    """Return the exception of a log record, or its text if it has none."""
    if event["exception"] is not None:
        return str(event["exception"])
    if "Traceback (most recent call last)" in event["text"]:  # Daphne logs the traceback as text
        kind = str(event["text"]).strip().splitlines()[-1].strip().partition(":")[0]
        return f"{kind.partition('.')[0]}.{kind.rpartition('.')[2]}" if "." in kind else f"builtins.{kind}"
    return str(event["text"])


def _readable(event: Event) -> str:
    fields = " ".join(f"{key}={value}" for key, value in event.items() if key != "traceback")
    return f"{fields}\n{event.get('traceback', '')}".rstrip()
