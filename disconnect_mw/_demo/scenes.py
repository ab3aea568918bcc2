"""The demo's scenes: what clients request, what happened when they left, and whether that was promised."""

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
    """A piece of the app's work, which the app notes when it is done."""

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
    is_answered_late: bool = False  # in one piece, which goes out when the app has ended

    @property
    def promised(self) -> str:
        """What the middleware promises for the app's work when the client leaves in the middle."""
        return ", ".join(work.if_done if work.is_promised else work.if_not for work in self.work)

    def is_in_the_middle(self, exchange: dict[str, Any]) -> bool:
        return "started" in exchange["notes"] or len(exchange["payloads"]) >= _MESSAGES_IN_THE_MIDDLE


SCENES = (
    Scene(
        "Upload: the handler awaits the body, then stores it",
        "/upload",
        _CUT_UPLOAD,
        (Work("stored", "stored a part", "stopped, nothing stored", is_promised=False),),
    ),
    Scene(
        "WebSocket feed: the handler only sends",
        "/feed",
        _WEBSOCKET,
        (Work("stopped", "stopped", "never stopped"),),
    ),
    Scene(
        "Slow report: an ordinary handler, which asks nothing about its client",
        "/report",
        _GET,
        (Work("saved", "saved", "not saved"),),
        is_answered_late=True,
    ),
    Scene(
        'Answer of a model: a slow handler too, with policy="cancel" for its path',
        "/answer",
        _GET,
        (
            Work("computed", "computed", "stopped", is_promised=False),
            Work("given back", "cleaned up", "not cleaned up"),
        ),
    ),
    Scene(
        "Server-sent events: an endless generator, then a background task",
        "/events",
        _GET,
        # Whether it stopped is read from the end of the exchange, not from a `finally` of the generator: when Starlette
        # is cancelled in its own send, such a block waits for the garbage collection, with the middleware or without.
        (Work("background task ran", "stopped, background task ran", "stopped, background task lost"),),
    ),
)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one server's witness and log have recorded of one scene."""

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
    def disconnect_lines(self) -> list[str]:
        """The middleware's lines for clients that left."""
        return re.findall(r"^INFO:\s+disconnect_mw: client disconnected.*", self.log, re.MULTILINE)

    @property
    def wasted_messages(self) -> int:
        """How many messages with content the server got after it had delivered the disconnect.

        Where it delivered none, how many it got after the client had left. Messages between the two do not count
        otherwise: neither the app nor the middleware could know.
        """
        return sum(
            at > (self.left_at if exchange["disconnected_at"] is None else exchange["disconnected_at"])
            for exchange in self.exchanges
            for at in exchange["payloads"]
        )

    @property
    def first_error(self) -> list[str]:
        """The first error as the log has it, without the middle of its traceback."""
        error = re.search(r"^(?:ERROR|CRITICAL)\b.*\n(?:(?![A-Z]+: ).*\n)*", self.log, re.MULTILINE)
        if error is None:
            return []
        head, *lines = error[0].splitlines()
        lines = [line for line in (line.strip(" |+-") for line in lines) if line]  # which draw an exception group
        middle = [f"  ... {count(len(lines) - 2, 'line')}"] if len(lines) > 2 else []
        return [head, *lines[:1], *middle, *lines[1:][-1:]]


def outcomes(scene: Scene, evidence: Evidence) -> list[str]:
    """What happened to the app's work, in the words of the scene: each outcome once."""
    found = dict.fromkeys(_outcome(scene, exchange) for exchange in evidence.exchanges)
    return list(found) or ["not served"]


def _outcome(scene: Scene, exchange: dict[str, Any]) -> str:
    if exchange["is_running"]:
        return "still running"
    return ", ".join(work.if_done if work.note in exchange["notes"] else work.if_not for work in scene.work)


def faults(scene: Scene, evidence: Evidence) -> list[str]:
    """What in `evidence` is not as the middleware promises."""
    clients = len(WAYS_TO_LEAVE)
    found = []
    if len(evidence.exchanges) != clients:
        found.append(f"{len(evidence.exchanges)} of {clients} clients were served")
    if evidence.errors or evidence.tracebacks:
        found.append(f"{count(evidence.errors, 'ERROR line')} and {count(evidence.tracebacks, 'traceback')} in the log")
    if len(evidence.disconnect_lines) != clients:
        found.append(f"{count(len(evidence.disconnect_lines), 'INFO line')} for {clients} clients that left")
    if evidence.wasted_messages > (clients if scene.is_answered_late else 0):
        found.append(f"{count(evidence.wasted_messages, 'message')} sent after the disconnect")
    found += [
        f"{outcome!r}, not {scene.promised!r}" for outcome in outcomes(scene, evidence) if outcome != scene.promised
    ]
    return found


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
