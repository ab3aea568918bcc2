"""The scenes: what clients ask for, what was seen when they left, and whether that is what the middleware promises."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

WAYS_TO_LEAVE = ("FIN", "RST")

_GET = "GET {target} HTTP/1.1\r\nHost: demo\r\n\r\n"
_CUT_UPLOAD = "POST {target} HTTP/1.1\r\nHost: demo\r\nContent-Length: 1000000\r\n\r\n" + 70_000 * "x"
_WEBSOCKET = (
    "GET {target} HTTP/1.1\r\nHost: demo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZGlzY29ubmVjdF9tdyBkZQ==\r\n\r\n"
)
_MESSAGES_IN_THE_MIDDLE = 3


@dataclasses.dataclass(frozen=True)
class Work:
    """A piece of work that the application notes when it is done."""

    note: str
    if_done: str
    if_not: str
    is_promised: bool = True


@dataclasses.dataclass(frozen=True)
class Scene:
    title: str
    path: str
    request: str
    work: tuple[Work, ...]

    @property
    def promised(self) -> str:
        """What is to become of the work when the client leaves in the middle."""
        return ", ".join(work.if_done if work.is_promised else work.if_not for work in self.work)

    def is_in_the_middle(self, exchange: dict[str, Any]) -> bool:
        return "started" in exchange["notes"] or len(exchange["payloads"]) >= _MESSAGES_IN_THE_MIDDLE


SCENES = (
    Scene(
        "SSE stream: an endless generator, and a background task for afterwards",
        "/events",
        _GET,
        # That it stopped is taken from the end of the exchange, not from a `finally` of the generator: when Starlette's
        # own send is what is cancelled, such a block waits for the garbage collection, with the middleware or without.
        (Work("background task ran", "stopped, background task ran", "stopped, background task lost"),),
    ),
    Scene(
        "Slow JSON behind a BaseHTTPMiddleware: saves, mails if is_disconnected()",
        "/report",
        _GET,
        (Work("saved", "saved", "not saved"), Work("mailed", "mailed", "not mailed")),
    ),
    Scene(
        'Slow answer of a model, with policy="cancel" by policy_for: stops, and cleans up',
        "/answer",
        _GET,
        (
            Work("computed", "computed", "stopped", is_promised=False),
            Work("given back", "cleaned up", "not cleaned up"),
        ),
    ),
    Scene(
        "Upload: await request.body(), then store it",
        "/upload",
        _CUT_UPLOAD,
        (Work("stored", "stored a part", "stopped, nothing stored", is_promised=False),),
    ),
    Scene(
        "WebSocket feed: sends, while a task of its own listens",
        "/feed",
        _WEBSOCKET,
        (Work("stopped", "stopped", "never stopped"),),
    ),
)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one server's witness and log say about one scene."""

    exchanges: list[dict[str, Any]]
    left_at: float
    log: str

    @property
    def errors(self) -> int:
        return len(re.findall(r"^(?:ERROR|CRITICAL)\b", self.log, re.MULTILINE))

    @property
    def tracebacks(self) -> int:
        return self.log.count("Traceback (most recent call last)")

    @property
    def departures(self) -> list[str]:
        """The lines with which the middleware tells of a client that left."""
        return re.findall(r"^INFO:\s+(disconnect_mw: client disconnected.*)", self.log, re.MULTILINE)

    @property
    def sent_to_nobody(self) -> int:
        """How many messages with a payload the server got after it had said that the client is gone.

        Where it never said so, all after the client left. Otherwise those do not count that were sent between the two:
        nobody could have known.
        """
        return sum(
            at > (self.left_at if exchange["disconnected_at"] is None else exchange["disconnected_at"])
            for exchange in self.exchanges
            for at in exchange["payloads"]
        )

    @property
    def telling_lines(self) -> list[str]:
        """The head and the end of the first error: `Exception in ASGI application`, and which exception it was."""
        error = re.search(r"^(?:ERROR|CRITICAL)\b.*\n(?:(?![A-Z]+: ).*\n)*", self.log, re.MULTILINE)
        if error is None:
            return []
        head, *lines = error[0].splitlines()
        lines = [line.strip(" |+-") for line in lines]  # what an exception group is drawn with
        return [head, *[line for line in lines if line][-1:]]


def outcomes(scene: Scene, evidence: Evidence) -> list[str]:
    """What became of the application's work, in the words of the scene: one for each client, or for all."""
    found = dict.fromkeys(_outcome(scene, exchange) for exchange in evidence.exchanges)
    return list(found) or ["not served"]


def _outcome(scene: Scene, exchange: dict[str, Any]) -> str:
    if exchange["is_running"]:
        return "still running"
    return ", ".join(work.if_done if work.note in exchange["notes"] else work.if_not for work in scene.work)


def faults(scene: Scene, evidence: Evidence) -> list[str]:
    """All in which `evidence` is not what the middleware promises."""
    clients = len(WAYS_TO_LEAVE)
    found = []
    if len(evidence.exchanges) != clients:
        found.append(f"{len(evidence.exchanges)} of {clients} clients were served")
    if evidence.errors or evidence.tracebacks:
        found.append(f"{evidence.errors} ERROR lines and {evidence.tracebacks} tracebacks in the log")
    if len(evidence.departures) != clients:
        found.append(f"{len(evidence.departures)} INFO lines for {clients} clients that left")
    if evidence.sent_to_nobody:
        found.append(f"{evidence.sent_to_nobody} messages sent to nobody")
    found += [
        f"{outcome!r}, not {scene.promised!r}" for outcome in outcomes(scene, evidence) if outcome != scene.promised
    ]
    return found
