"""Plays many clients side by side, each of which leaves in the middle, and tells what became of each."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..servers.clients import Client, WebSocketClient
from ..servers.server import Event, Server, Visit
from ..servers.setups import Setup
from ..servers.test_servers import why_not
from .sizes import SAID


def serving(setup: Setup, apps: str) -> Server:
    """Return a server of the apps of that module."""
    return Server(sys.executable, setup, f"frameworks.apps.{apps}:app", (Path(__file__).parent,))


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def require(setup: Setup, *modules: str) -> None:
    """Skip, loudly, what cannot be tested here."""
    reason = why_not(setup)
    if reason is None and not all(map(is_installed, modules)):
        reason = f"not installed: {', '.join(module for module in modules if not is_installed(module))}"
    if reason is not None:
        pytest.skip(f"NOT tested here: {setup}: {reason}")


@dataclass(frozen=True)
class Cell:
    """What became of one app whose client has left."""

    lines: tuple[str, ...]
    end: str  # of the call of the whole app
    saved: int
    told: tuple[str, ...]  # the phases in which the hook was told
    seconds: float | None  # from then until the work was stopped


def events_of(server: Server, run: str) -> list[Event]:
    return [event for event in server.events() if event.get("run") == run]


Cells = dict[tuple[str, str], Cell]


def leave_each(server: Server, cells: Iterable[tuple[str, str]], how: str = "fin") -> Cells:
    """Have a client leave in the middle of each app and variant, all at once, and wait until all of them are over."""

    def leave(visit: Visit) -> None:
        with Client(server.port) as client:
            client.request(visit.path)
            visit.until("working")
            client.leave(how)

    return _play_each(server, cells, leave)


def upload_each(server: Server, cells: Iterable[tuple[str, str]], sent: int, length: int, how: str = "rst") -> Cells:
    """The same of uploads, of which so many bytes are sent and so many announced."""

    def leave(visit: Visit) -> None:
        with Client(server.port) as client:
            client.request(visit.path, bytes(sent), length=length)
            visit.until("working")
            client.leave(how)

    return _play_each(server, cells, leave)


def converse_each(server: Server, cells: Iterable[tuple[str, str]], how: str = "fin") -> Cells:
    """The same of WebSockets, whose clients say something before they leave."""

    def leave(visit: Visit) -> None:
        with WebSocketClient(server.port) as client:
            client.ask(visit.path)
            client.hear(b"\r\n\r\n")
            client.messages(SAID.get(visit.path.split("/")[1], ()))
            visit.until("working")
            client.leave(how)

    return _play_each(server, cells, leave)


def _play_each(server: Server, cells: Iterable[tuple[str, str]], leave: Callable[[Visit], None]) -> Cells:
    def play(cell: tuple[str, str]) -> str:
        visit = server.visit(*cell)
        run = visit.path.rpartition("/")[2]
        leave(visit)
        server.ask(f"/signal/{run}/left")
        server.wait(lambda event: event.get("run") == run and "end" in event, f"end of {cell}")
        return run

    cells = list(cells)
    with ThreadPoolExecutor(max(1, len(cells))) as threads:
        runs = list(threads.map(play, cells))
    server.mark("over")  # what is left to the garbage collector, as well
    for cell, run in zip(cells, runs, strict=True):
        if cell[1] != "bare" and cell[0] != "unread":  # where there may be none, or late
            server.wait(lambda event: event.get("run") == run and "over" in event, f"end of the clean-up of {cell}")
    saved = ask(server, "/saved/-/-")
    return {cell: _cell(events_of(server, run), saved.get(run, 0)) for cell, run in zip(cells, runs, strict=True)}


def _cell(events: list[Event], saved: int) -> Cell:
    told = [event for event in events if "told" in event]
    stopped = [event["stopped_at"] for event in events if "stopped_at" in event]
    return Cell(
        tuple(event["line"] for event in events if "line" in event),
        next(event["end"] for event in events if "end" in event),
        saved,
        tuple(event["told"] for event in told),
        stopped[0] - told[0]["at"] if stopped and told else None,
    )


def ask(server: Server, path: str) -> dict[str, int]:
    with Client(server.port) as client:
        client.request(path)
        client.hear(b"}")
    return dict(json.loads(client.came[client.came.index(b"{") :]))


def errors_of(events: Iterable[Event]) -> list[str]:
    """Return what was logged as an error."""
    return [event["text"] for event in events if event.get("log") in ("ERROR", "CRITICAL")]
