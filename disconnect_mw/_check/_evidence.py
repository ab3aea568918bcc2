"""What the check has found, as plain records: the same for the terminal, the page and the JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from ._routes import Route

PHASES = {
    "upload": "during the upload",
    "before response": "before the response",
    "first bytes": "after the first bytes",
    "mid-stream": "in mid-stream",
    "before accept": "before the accept",
    "open": "while open",
}
"""When a client leaves, and the words for it."""


@dataclasses.dataclass
class Logged:
    """What the server's process logged about one client, at WARNING and above or with a traceback."""

    level: str
    logger: str
    text: str  # the first line
    exception: str | None  # its kind and text
    is_of_departure: bool | None  # whether the departure caused it; None cannot be told
    place: str | None  # the innermost line of the app's own code
    traceback: list[str]


@dataclasses.dataclass
class Mark:
    """A moment of the timeline, in seconds from the request."""

    at: float
    who: str  # "client", "server" (which tells the app) or "app"
    what: str
    size: int = 0


@dataclasses.dataclass
class Stay:
    """What a client got that stayed."""

    status: int | None = None
    headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    body: bytes = b""
    messages: list[bytes] = dataclasses.field(default_factory=list)
    is_whole: bool = False
    seconds: float = 0.0
    problem: str | None = None  # why there is no answer
    log: list[Logged] = dataclasses.field(default_factory=list)
    began: float | None = None  # seconds from the request until the start of the response
    sends: list[float] = dataclasses.field(default_factory=list)  # the same of messages with a body
    tasks: int = 0
    connections: int = 0
    files: list[tuple[str, int]] = dataclasses.field(default_factory=list)  # written, with their sizes

    @property
    def kind(self) -> str:
        """The content type, or "WebSocket"."""
        return next((value for name, value in self.headers if name.lower() == "content-type"), "").partition(";")[0]

    def is_silent_for(self, seconds: float) -> bool:
        """Whether so much time passes between the start of the response and its first bytes, or none come at all."""
        if not self.sends:
            return not self.is_whole and not self.body
        return self.began is not None and self.sends[0] - self.began > seconds


@dataclasses.dataclass
class Departure:
    """What happened when one client left."""

    phase: str
    way: str
    not_played: str | None = None  # why no client could leave there: a fact, no fault
    seconds: float | None = None  # for which the handler went on; None still runs
    sends: int = 0  # of the app after the departure; muted ones included
    told_after: float | None = None  # seconds until the app received the disconnect; None never
    how: str | None = None  # "returned", "raised", "cancelled"
    raised: str | None = None
    is_stubborn: bool | None = None  # whether it went on though it was cancelled; None was not tried
    in_thread: bool = False
    place: str | None = None  # where a handler that still runs awaits
    source: str | None = None
    lost: str | None = None  # "blocked" or "ended": the server's process
    log: list[Logged] = dataclasses.field(default_factory=list)
    tasks: list[str] = dataclasses.field(default_factory=list)  # left behind
    connections: int = 0  # not given back to the pool
    is_half_taken: bool = False  # answered an upload that was cut as if it were whole
    status: int | None = None
    files: list[tuple[str, int]] = dataclasses.field(default_factory=list)  # left behind, with their sizes
    timeline: list[Mark] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Memory:
    """What departures leave in the process's memory."""

    phase: str
    departures: int
    bytes_per_departure: float
    place: str | None  # where most of it was allocated
    grows_anyway: bool | None = None  # whether clients that stay leave as much; None was not tried


@dataclasses.dataclass
class Side:
    """One route on one server, without the middleware or with it."""

    stays: list[Stay] = dataclasses.field(default_factory=list)
    departures: list[Departure] = dataclasses.field(default_factory=list)
    memory: Memory | None = None
    no_memory: str | None = None  # why it was not measured


@dataclasses.dataclass
class Finding:
    """One thing that an app does wrong when its client leaves."""

    code: str
    sentence: str
    phases: list[str] = dataclasses.field(default_factory=list)
    ways: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Advice:
    """What happens to the user, why, and the line to write."""

    happens: str
    why: str
    line: str | None = None
    place: str | None = None


@dataclasses.dataclass
class Result:
    """One route on one server."""

    route: Route
    bare: Side = dataclasses.field(default_factory=Side)
    wrapped: Side = dataclasses.field(default_factory=Side)
    is_skipped: str | None = None  # why no client left it
    needs_middleware: bool = False  # it asks the middleware for its client, and fails without
    bare_findings: list[Finding] = dataclasses.field(default_factory=list)
    findings: list[Finding] = dataclasses.field(default_factory=list)  # with the middleware
    is_same: bool | None = None  # whether the answer to a client that stays is; None cannot be told
    same: str = ""  # how that was found
    advice: list[Advice] = dataclasses.field(default_factory=list)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.bare, self.wrapped


@dataclasses.dataclass
class OnServer:
    """All routes on one server."""

    name: str
    version: str
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    has_own: bool = False  # the app installs the middleware itself
    problem: str | None = None  # why nothing was tried
    lines: list[str] = dataclasses.field(default_factory=list)  # of that problem
    notes: list[str] = dataclasses.field(default_factory=list)  # what was left out, and why
    results: list[Result] = dataclasses.field(default_factory=list)
    bare_log: list[Logged] = dataclasses.field(default_factory=list)  # of no client that is known
    log: list[Logged] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Report:
    """The whole check."""

    version: str
    app: str
    options: dict[str, Any]  # of the middleware
    servers: list[OnServer] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    is_interrupted: bool = False

    @property
    def results(self) -> list[Result]:
        return [result for server in self.servers for result in server.results]

    @property
    def misbehaves(self) -> bool:
        """Whether anything does, with the middleware."""
        return any(result.findings or result.is_same is False for result in self.results if not result.is_skipped)

    @property
    def has_run(self) -> bool:
        """Whether a client has left any route."""
        return any(not departure.not_played for result in self.results for departure in result.wrapped.departures)
