"""Plays each situation of a framework on a server, bare and under each policy, and judges what came of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..servers.clients import Client, Hang, WebSocketClient
from ..servers.server import SECONDS_TO_ERROR, Event, Server
from ..servers.setups import Setup
from .beginnings import BEGINNINGS, LENGTH
from .situations import READS, STREAMS, UPLOADS, VARIANTS, WAYS, is_socket

FILTERED = "filtered"
"""Stands behind a variant that was played with the log filter installed."""

AFTER_A_RESPONSE = {"background task", "after_response", "process_response"}
"""What a framework runs after a response, of which there is none where the app was cancelled."""

PATIENCE_FOR_AN_END = 12.0

_FORM = (
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + bytes(20_000)
)

_OF_SERVERS = ("_granian", "daphne.server")
"""Loggers that speak outside of the app's context: of an exception that came out of the app, which `Cell.end` has."""


@dataclass(frozen=True)
class Cell:
    """What came of one situation."""

    work: str  # "finishes"; or how it was stopped: "cancelled", "closed", "raised …"; or "not begun"
    is_late: bool = False  # whether that took more than a second
    clean_up: str = ""  # of the work: "whole", "cut", or "" where there was none
    ran: tuple[str, ...] = ()  # the framework's own clean-ups
    errors: tuple[str, ...] = ()  # logged: "logger: exception", but not the app's own bug
    is_bug_told: bool | None = None  # None where there is none
    end: str = "returned"  # of the call of the whole app
    left: tuple[str, ...] = ()  # tasks

    @property
    def gist(self) -> tuple[object, ...]:
        """What must come out the same in every play. How a stream is stopped, and its clean-up, is left to chance."""
        return self.word, bool(self.errors), self.is_bug_told

    @property
    def word(self) -> str:
        """The outcome in a word."""
        return "stops" if self.work.startswith(("cancelled", "closed", "raised")) else self.work


@dataclass
class Column:
    """One framework on one server."""

    framework: str
    setup: Setup
    cells: dict[tuple[str, str, str], Cell] = field(default_factory=dict)  # by situation, variant and way
    strays: dict[str, list[str]] = field(default_factory=dict)  # errors of a variant that belong to no exchange
    stories: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.framework} on {self.setup.server}"


def serving(framework: str, setup: Setup, python: str) -> Server:
    return Server(python, setup, f"frameworks.each.{framework}:app", (Path(__file__).parent,))


def play(
    column: Column,
    python: str,
    situations: Sequence[str],
    variants: Iterable[str] = VARIANTS,
    ways: Sequence[str] = WAYS,
) -> Column:
    """Play the cells of a column; those of a variant at the same time.

    What is logged as an error is played once more with the filter, and each bug, which must be told in spite of it.
    """
    with serving(column.framework, column.setup, python) as server:
        _tasks_left(server)  # of the process
        for variant in variants:
            _play_all(server, column, situations, variant, ways)
        wrapped = [variant for variant in variants if variant != "bare"]
        noisy = {
            situation: None
            for (situation, variant, _), cell in column.cells.items()
            if variant != "bare" and (cell.errors or cell.is_bug_told)
        }
        if any(cell.errors for (_, variant, _), cell in column.cells.items() if variant != "bare"):
            server.ask("/filter/-/-")
            for variant in wrapped:
                _play_all(server, column, list(noisy), variant, ways, FILTERED)
    return column


def _play_all(
    server: Server, column: Column, situations: Sequence[str], variant: str, ways: Sequence[str], suffix: str = ""
) -> None:
    since = server.count
    cells = [(situation, way) for situation in situations for way in ways]

    def visit(cell: tuple[str, str]) -> str:
        situation, way = cell
        return _visit(server, column.framework, situation, variant, way)

    with ThreadPoolExecutor(max(1, len(cells))) as threads:
        runs = list(threads.map(visit, cells))
    for run in runs:
        _wait_for_clean_up(server, run, since)
    server.mark("ended")  # what is left to the garbage collector begins to end
    left = _tasks_left(server)
    for (situation, _), run in zip(cells, runs, strict=True):
        if situation.startswith("bug"):
            _wait_for_bug(server, run, since)
    server.mark("over")
    events = server.events(since)
    title = f"{variant} {suffix}".rstrip()
    for (situation, way), run in zip(cells, runs, strict=True):
        key = situation, title, way
        column.cells[key] = _cell(situation, run, events, left)
        column.stories[key] = "\n".join(
            str(event) for event in events if run in (event.get("run"), event.get("record_of"))
        )
    strays = [
        f"{event['logger']}: {event['exception'] or event['text']}"
        for event in events
        if _is_error(event)
        and not event["record_of"]
        and event["logger"] not in _OF_SERVERS
        and not _runs_of_bug(event)
    ]
    strays += [f"left: {name.split(' ')[1]}" for name in left if name.startswith(" ")]
    if strays:
        column.strays[title] = sorted(set(strays))


def _tasks_left(server: Server) -> list[str]:
    with Client(server.port) as client:
        client.request("/tasks/-/-")
        client.hear(b"]")
    return list(json.loads(client.came.partition(b"\r\n\r\n")[2]))


def _visit(server: Server, framework: str, situation: str, variant: str, way: str) -> str:
    """Have a client come and leave, and wait until the app has ended. Returns the run."""
    visit = server.visit(situation, variant)
    run = visit.path.rpartition("/")[2]
    since = server.count
    client_class = WebSocketClient if is_socket(situation) else Client
    with client_class(server.port) as client:
        if framework in BEGINNINGS:
            BEGINNINGS[framework](client, visit.path)
            visit.until("reading" if situation in UPLOADS else "working")
        elif isinstance(client, WebSocketClient):
            client.ask(visit.path)
            client.hear(b"\r\n\r\n")
            if situation != "ws_send":  # it never reads
                client.messages(["hello"])
            visit.until("reading" if situation in READS else "working")
        elif situation in UPLOADS:
            _begin_upload(client, situation, visit.path)
            server.wait(lambda event: event.get("run") == run and "ready" in event, "reader of the upload", since=since)
        else:
            client.request(visit.path)
            visit.until("working")
        client.leave(way)
    server.mark(f"left-{run}")
    server.ask(f"/signal/{run}/left")
    server.wait(
        lambda event: event.get("run") == run and "end" in event,
        f"end of {situation} {variant}, {way}",
        PATIENCE_FOR_AN_END,
        since,
    )
    return run


def _wait_for_clean_up(server: Server, run: str, since: int) -> None:
    """Work in a task of its own outlasts the app; and a generator that was lost never cleans up."""
    mine = [event for event in server.events(since) if event.get("run") == run]
    if any("begun" in event for event in mine) and not any("clean_up" in event for event in mine):
        server.mark("lost")
        with contextlib.suppress(Hang):
            server.wait(
                lambda event: event.get("run") == run and "clean_up" in event, "clean-up", PATIENCE_FOR_AN_END, since
            )


def _wait_for_bug(server: Server, run: str, since: int) -> None:
    """Daphne logs it late, and some frameworks never do."""
    with contextlib.suppress(Hang):
        server.wait(lambda event: run in _runs_of_bug(event), "record of a bug", SECONDS_TO_ERROR, since)


def _begin_upload(client: Client, situation: str, path: str) -> None:
    kind, body = (
        (b"multipart/form-data; boundary=edge", _FORM) if situation == "form" else (b"text/plain", bytes(20_000))
    )
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LENGTH}\r\nContent-Type: ".encode()
    client.say(head, kind, b"\r\n\r\n", body)


def _cell(situation: str, run: str, events: list[Event], left: list[str]) -> Cell:
    mine = [event for event in events if event.get("run") == run]
    work = [event for event in mine if "work" in event]
    ends = [event["end"] for event in mine if "end" in event]
    clean_ups = [event["clean_up"] for event in mine if "clean_up" in event]
    records = [event for event in events if event.get("record_of") == run and _is_error(event)]
    is_bug = situation.startswith("bug")
    errors = [
        f"{event['logger']}: {event['exception'] or event['text']}"
        for event in records
        if not (_runs_of_bug(event) or (is_bug and event["exception"] is None))  # granian's line without an exception
    ]
    if ends[0].startswith("raised") and not (ends[0].endswith(".CancelledError") or is_bug or errors):
        errors = [f"the server: {ends[0].removeprefix('raised ')}"]
    begun = any("begun" in event for event in mine)
    return Cell(
        work=work[0]["work"] if work else "lost" if begun else "not begun",
        is_late=bool(work) and work[0]["seconds"] > 1 and work[0]["work"] != "finishes",
        clean_up=clean_ups[0] if clean_ups else "",
        ran=tuple(sorted({event["ran"] for event in mine if "ran" in event})),
        errors=tuple(sorted(set(errors))),
        is_bug_told=any(run in _runs_of_bug(event) for event in events if _is_error(event)) if is_bug else None,
        end=ends[0],
        left=tuple(sorted({name.split(" ")[1] for name in left if name.startswith(f"{run} ")})),
    )


def _runs_of_bug(event: Event) -> list[str]:
    """The runs of whose bugs a record tells."""
    told = f"{event.get('text')} {event.get('traceback')}"
    return [part.split()[0].rstrip(".,'\")") for part in told.split("the bug of run ")[1:]]


def _is_error(event: Event) -> bool:
    return event.get("log") in ("ERROR", "CRITICAL") or bool(event.get("log") and event.get("traceback"))


# The judgement


Key = tuple[str, str, str]


def faults(column: Column) -> list[tuple[Key, str]]:
    """What is worse than bare, and what is not as promised: each with its cell, in a line."""
    found: list[tuple[Key, str]] = []
    for (situation, variant, way), cell in column.cells.items():
        if variant in VARIANTS and variant != "bare":
            bare = column.cells[situation, "bare", way]
            filtered = column.cells.get((situation, f"{variant} {FILTERED}", way))
            lines = [
                *_worse(situation, variant, bare, cell),
                *_not_as_promised(situation, variant, bare, cell, filtered),
            ]
            found += [((situation, variant, way), f"{column}: {situation}, {variant}, {way}: {line}") for line in lines]
    for variant, strays in column.strays.items():
        more = [stray for stray in strays if stray not in column.strays.get("bare", ())]
        if variant != "bare" and more:
            found.append((("", variant, ""), f"{column}: {variant}: errors of no exchange: {'; '.join(more)}"))
    return found


def _not_as_promised(situation: str, policy: str, bare: Cell, cell: Cell, filtered: Cell | None) -> Iterable[str]:
    if cell.errors and (filtered is None or filtered.errors):
        yield f"an error is logged, with the filter too: {', '.join(cell.errors)}"
    elif cell.errors and not bare.errors and not (bare.word == "finishes" and situation in STREAMS):
        yield f"an error is logged without the filter, that bare does not log: {', '.join(cell.errors)}"
    if cell.is_bug_told and filtered is not None and not filtered.is_bug_told:
        yield "the filter has lost a bug"
    if policy == "cancel" and cell.word == "finishes" and not is_told_by_its_own_means(situation, bare):
        yield "it goes on"
    if (
        policy == "finish"
        and situation in ("before", *STREAMS)
        and not is_socket(situation)
        and cell.word != "finishes"
    ):
        yield f"it is stopped: {cell.work}"
    # A listener of sse-starlette's or FastAPI's is told, and cancels each await of the clean-up, as bare, unless it
    # comes between two chunks: then the generator is closed.
    if cell.clean_up == "cut" and (
        policy == "finish" or (policy == "cancel" and bare.work != "closed" and bare.clean_up != "cut")
    ):
        yield "its clean-up is cut"


def is_told_by_its_own_means(situation: str, bare: Cell) -> bool:
    """Whether the app ends its work by itself once it is told: Channels' `disconnect()`, a bug, a short read."""
    return situation not in STREAMS and situation != "before" and bare.word == "finishes"


def _worse(situation: str, policy: str, bare: Cell, cell: Cell) -> Iterable[str]:
    is_short = is_socket(situation) and situation not in STREAMS  # muted, so that it can be told by a message
    if bare.word in ("stops", "not begun") and cell.word == "finishes" and policy != "finish" and not is_short:
        yield f"it goes on, where bare is {bare.work}"
    if (
        bare.clean_up == "whole" and cell.clean_up != "whole" and bare.work != "closed"
    ):  # by chance: see FastAPI's lines
        yield f"its clean-up is {cell.clean_up or 'missing'}, where bare is whole"
    missing = set(bare.ran) - set(cell.ran)
    if policy == "cancel":
        missing -= AFTER_A_RESPONSE
    if missing:
        yield f"{', '.join(sorted(missing))} did not run, where bare did"
    if bare.is_bug_told and not cell.is_bug_told:
        yield "the bug is not told, where bare told it"
    if set(cell.left) - set(bare.left):
        yield f"it leaves {', '.join(cell.left)}"
    if cell.word in ("lost", "not begun") and bare.word not in ("lost", "not begun"):
        yield f"the work is {cell.word}, where bare {bare.work}"
