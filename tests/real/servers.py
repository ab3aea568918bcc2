"""A real uvicorn in a process of its own, and what it and its apps have told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import disconnect_mw

from .clients import PATIENCE, Client, Hang

Event = dict[str, Any]

_SUSPICIOUS = ("Traceback", "never awaited", "never retrieved", "Exception ignored", "Fatal Python error")
"""What no logger reports, and stderr gets."""


@dataclass(frozen=True)
class Setup:
    """Which implementations a server runs."""

    http: str
    ws: str
    loop: str

    def __str__(self) -> str:
        return f"{self.http}-{self.ws}-{self.loop}"


@dataclass(frozen=True)
class Outcome:
    """What a visit led to.

    `seen` is the app's transcript from the moment it knows that its client has gone, or all of it if it never does.
    """

    seen: tuple[str, ...]
    ends: tuple[str, ...] = ("returned",)  # how each call of the whole application ended
    told: int = 1  # INFO lines of logger disconnect_mw
    errors: tuple[str, ...] = ()  # the exceptions that the server logged


class Server:
    """A uvicorn of the interpreter `python`, as the context manager lives."""

    def __init__(self, python: str, setup: Setup) -> None:
        self._python = python
        self._setup = setup
        self._events: list[Event] = []
        self._news = threading.Condition()
        self._runs = 0
        self._ended = False

    def __enter__(self) -> Server:
        self._home = tempfile.TemporaryDirectory(prefix="disconnect-mw-")
        home = Path(self._home.name)
        # The server's interpreter may be another one, so it gets these two packages and nothing else of ours.
        for package in (Path(disconnect_mw.__file__).parent, Path(__file__).parent):
            shutil.copytree(package, home / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        self._stderr = open(home / "stderr", "w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [self._python, "-m", "real.serve", *self._options()],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(home), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            event = self.wait(lambda event: "port" in event, "the server's port", 3 * PATIENCE)
            self.port: int = event["port"]
            self.version: str = event["version"]
            self.wait(lambda event: "startup complete" in event.get("text", ""), "the server's start", 3 * PATIENCE)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _options(self) -> Iterator[str]:
        for option in ("http", "ws", "loop"):
            yield f"--{option}"
            yield str(getattr(self._setup, option))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"stray": line.decode(errors="replace")}
            with self._news:
                self._events.append(event)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
            hung = False
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            hung = True
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.seek(0)
        self.stderr = self._stderr.read()
        self._stderr.close()
        self._home.cleanup()
        self.hung_at_the_end = hung

    def wait(self, is_it: Callable[[Event], bool], awaited: str, patience: float = PATIENCE, since: int = 0) -> Event:
        """The first event, from number `since` on, that `is_it`."""
        deadline = time.monotonic() + patience
        with self._news:
            while True:
                while since < len(self._events):
                    if is_it(self._events[since]):
                        return self._events[since]
                    since += 1
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    what = "the server ended before" if self._ended else f"HANG: in {patience:.0f} s there was no"
                    recent = "\n".join(map(_readable, self._events[-12:]))
                    raise Hang(f"{what} {awaited}; the last events:\n{recent}\n{self._told_on_stderr()}")
                self._news.wait(left)

    def _told_on_stderr(self) -> str:
        return Path(self._stderr.name).read_text(encoding="utf-8")[-2000:]

    def ask(self, path: str) -> None:
        """A request beside the visits. It must be answered: the server still works."""
        with Client(self.port) as client:
            client.request(path)
            client.hear(b"\r\n\r\nok")

    def visit(self, app: str, variant: str) -> Visit:
        self._runs += 1
        return Visit(self, app, variant, str(self._runs))

    @property
    def count(self) -> int:
        """How many events there have been."""
        with self._news:
            return len(self._events)

    def events(self, since: int = 0) -> list[Event]:
        with self._news:
            return self._events[since:]

    def complaints(self) -> list[str]:
        """What a stopped server has told that no visit can be blamed for."""
        found = [line for line in self.stderr.splitlines() if any(word in line for word in _SUSPICIOUS)]
        found += [event["stray"] for event in self.events() if "stray" in event]
        if self.hung_at_the_end:
            found.append(f"HANG: the server did not stop in {PATIENCE} s")
        return found

    def errors(self, since: int = 0) -> tuple[str, ...]:
        """The exceptions (without one, the texts) of all ERROR records and tracebacks."""
        return tuple(
            str(event["exception"] or event["text"])
            for event in self.events(since)
            if event.get("log") in ("ERROR", "CRITICAL") or event.get("traceback")
        )


class Visit:
    """One client, or more, at one app."""

    def __init__(self, server: Server, app: str, variant: str, run: str) -> None:
        self._server = server
        self._run = run
        self._since = server.count
        self.variant = variant
        self.path = f"/{app}/{variant}/{run}"
        self.port = server.port

    def at(self, app: str) -> str:
        """The path of another app in the same visit."""
        return f"/{app}/{self.variant}/{self._run}"

    def until(self, ready: str) -> None:
        """Wait until the app says that it is so far."""
        self._server.wait(
            lambda event: self._is_mine(event, ready=ready), f"word that the app is {ready}", since=self._since
        )

    def cue(self, name: str = "gone") -> None:
        """Have the app go on. The server has noticed before that a client left: that came first."""
        self._server.ask(f"/signal/{self._run}/{name}")

    def outcome(self, ends: int = 1) -> Outcome:
        """What came of it, once `ends` calls of the application have ended and the server has said all it has to."""
        since = self._since
        for number in range(ends):
            self._server.wait(
                lambda event: self._is_mine(event) and "end" in event, f"end number {number + 1}", since=since
            )
            since = self._end_after(since)
        self._server.ask(f"/mark/-/{self._run}")
        self._server.wait(lambda event: event.get("mark") == self._run, "the mark", since=since)
        events = self._server.events(self._since)
        lines = [event for event in events if self._is_mine(event) and "line" in event]
        known = [event["line"] for event in lines if event["known"]]
        return Outcome(
            seen=tuple(known or [event["line"] for event in lines]),
            ends=tuple(event["end"] for event in events if self._is_mine(event) and "end" in event),
            told=sum(event.get("logger") == "disconnect_mw" and event["log"] == "INFO" for event in events),
            errors=self._server.errors(self._since),
        )

    def story(self) -> str:
        """All events since the visit began, to read."""
        return "\n".join(map(_readable, self._server.events(self._since)))

    def _end_after(self, since: int) -> int:
        events = self._server.events(since)
        return since + next(index for index, event in enumerate(events) if self._is_mine(event) and "end" in event) + 1

    def _is_mine(self, event: Event, **fields: str) -> bool:
        return event.get("run") == self._run and all(event.get(key) == value for key, value in fields.items())


def _readable(event: Event) -> str:
    fields = " ".join(f"{key}={value}" for key, value in event.items() if key != "traceback")
    return f"{fields}\n{event.get('traceback', '')}".rstrip()
