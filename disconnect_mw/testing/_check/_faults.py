"""What an app does wrong when its client leaves, and what to do about it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias

from ...observe import _filter
from .. import servers
from .._clients import Client, HTTPClient
from .._hang import Hang, relative
from .._transcript import Transcript
from ._departures import PHASES, Departure, Phase
from ._stays import Stay
from ._watch import Logged, Seen, describe_task, place_of, words_of

FaultKind: TypeAlias = Literal[
    "endless",
    "swallowed cancellation",
    "leaked task",
    "leaked connection",
    "traceback",
    "half upload",
    "different answer",
]

_WAYS = {"fin": "FIN", "rst": "RST", "close": "a close frame"}
_FEW = 3
_LEAST_TO_FIND = 8
_MOST_TO_READ = 1 << 26


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that an app does wrong when its client leaves. Its `str` is a paragraph."""

    kind: FaultKind
    """"endless": it goes on for ever. "swallowed cancellation": also when it is cancelled. "leaked task", "leaked
    connection" (of a pool of SQLAlchemy's): left behind. "traceback": an exception leaves the app, of which a server
    writes a traceback, or an error is logged, for each client. "half upload": what has come of an upload that was cut
    is taken for the whole, or kept. "different answer": a client that stays gets another one with the middleware.
    """

    request: str
    """The route: "GET /stream"."""

    sentence: str
    """What happens, with the place in the app's code where that can be told."""

    phases: tuple[Phase, ...]
    """When the client left. Empty: it stayed."""

    ways: tuple[str, ...]
    """How it left: "FIN", "RST", "a close frame"."""

    servers: tuple[str, ...]
    """The names of the servers on which it happens."""

    advice: str
    """What to do."""

    transcript: Transcript | None
    """The first exchange in which it happened."""

    def __str__(self) -> str:
        return "\n".join([f"{self.request}: {self.kind}", *(f"  {line}" for line in self._lines())])

    def _lines(self) -> Iterator[str]:
        yield self.sentence
        when = ", ".join(self.phases) or "while the client stays"
        shown = ", ".join(self.servers[:_SERVERS_SHOWN])
        more = len(self.servers) - _SERVERS_SHOWN
        ways = f", by {' or '.join(self.ways)}" if self.ways else ""
        yield f"When: {when}{ways}"
        yield f"On: {shown}" + (f" and {more} more" if more > 0 else "")
        yield f"Do: {self.advice}"


_SERVERS_SHOWN = 3


def title_of(client: Client) -> str:
    return f"{client.method if isinstance(client, HTTPClient) else 'WebSocket'} {client.path}"


@dataclasses.dataclass
class Played:
    """One departure, and what came of it."""

    departure: Departure
    outcome: Transcript | Hang
    seen: Seen
    patience: float

    was_cancelled: bool
    """Whether the server cancelled the app, or the kit did so in vain, after it had hung."""

    is_in_thread: bool
    """Whether the app, which has hung, waits for a thread, which cannot be cancelled."""

    @property
    def transcript(self) -> Transcript:
        return self.outcome.transcript if isinstance(self.outcome, Hang) else self.outcome


class Faults:
    """Those of one request, each told once, with all phases, ways and servers in which it happens."""

    def __init__(self, client: Client, advises_install: bool) -> None:
        self._client = client
        self._advises_install = advises_install
        self._found: dict[tuple[FaultKind, str], Fault] = {}

    def all(self) -> list[Fault]:
        return [
            dataclasses.replace(
                fault,
                phases=tuple(phase for phase in PHASES if phase in fault.phases),
                ways=tuple(way for way in _WAYS.values() if way in fault.ways),
                servers=_sorted(fault.servers),
            )
            for fault in self._found.values()
        ]

    def add(
        self, kind: FaultKind, key: str, sentence: str, departure: Departure, transcript: Transcript | None = None
    ) -> None:
        found = self._found.get((kind, key))
        if found is None:
            advice = _INSTALL if self._advises_install and kind == "traceback" else self._advice(kind, key)
            found = Fault(kind, title_of(self._client), sentence, (), (), (), advice, transcript)
        is_stay = kind == "different answer"
        self._found[kind, key] = dataclasses.replace(
            found,
            phases=found.phases if is_stay else _with(found.phases, [departure.phase]),
            ways=found.ways if is_stay else _with(found.ways, [_WAYS[departure.client.leaves_by]]),
            servers=_with(found.servers, departure.servers),
        )

    def _advice(self, kind: FaultKind, key: str) -> str:
        if kind == "traceback" and key.partition(" ")[0] in _filter.LOGGERS:
            return _FILTER
        path = self._client.path.partition("?")[0]
        option = f'policy_for={{"{path}": "cancel"}}' if isinstance(self._client, HTTPClient) else _FOR_WEBSOCKETS
        return _ADVICE[kind].format(install=f"DisconnectMiddleware(app, {option})")

    def judge(self, played: Played, stay: Stay) -> None:
        """Add what one departure shows at once; `judge_leftovers` what it shows later."""
        for kind, key, sentence in _faults(played, stay):
            self.add(kind, key, sentence, played.departure, played.transcript)

    def judge_leftovers(self, played: Played, stay: Stay) -> None:
        """Add what an exchange has left behind, some time after its end."""
        departure, transcript = played.departure, played.transcript
        for one in played.seen.take_exceptions():
            if (one.logger, one.words) not in stay.logged:
                self.add("traceback", f"{one.logger} {one.place}", _sentence_of(one), departure, transcript)
        for task in played.seen.tasks_left():
            words = describe_task(task, played.seen.tasks.get(task, ""))
            self.add(
                "leaked task", words.partition(",")[0], f"It leaves a task running: {words}", departure, transcript
            )
        for place in played.seen.leaked_connections():
            sentence = f"It gives a connection back to its pool too late or never{_taken(place)}"
            self.add("leaked connection", place, sentence, departure, transcript)


def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    """In the order of `servers.ALL`, others behind."""
    return tuple(sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)))


_ORDER = [*map(str, servers.ALL)]


def _taken(place: str) -> str:
    return f"; it was taken at {place}" if place else ""


def _with(known: tuple[Any, ...], more: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*known, *more)))


_INSTALL = "install the middleware: app = DisconnectMiddleware(app)"
_FILTER = "have that logger drop it, once all imports are done: disconnect_mw.observe.logging.install()"
_FOR_WEBSOCKETS = 'websocket_policy="cancel"'
_ADVICE: dict[FaultKind, str] = {
    "endless": "end it when its client leaves: {install}",
    "swallowed cancellation": (
        "raise the cancellation again: look for a bare except, except BaseException, except asyncio.CancelledError and "
        "contextlib.suppress"
    ),
    "leaked task": "cancel the task in a finally, or start it in an asyncio.TaskGroup",
    "leaked connection": (
        "give it back in every case, by async with; what must not be cut belongs into "
        "async with disconnect_mw.connection(request).shield()"
    ),
    "traceback": "let pass what tells of a departure (ClientDisconnected, ClientDisconnect), and mend the rest",
    "half upload": (
        "write to a temporary file, and os.replace() it into its place when the body is whole; a disconnect is no end"
    ),
    "different answer": "please report it",
}


def _faults(played: Played, stay: Stay) -> Iterator[tuple[FaultKind, str, str]]:
    """Yield a kind, what tells it from others of that kind, and a sentence."""
    transcript, outcome, seconds = played.transcript, played.outcome, f"{played.patience:.1f} s"
    if transcript.raised is not None:
        words, place = words_of(transcript.raised), place_of(transcript.raised)
        yield (
            "traceback",
            type(transcript.raised).__qualname__ + place,
            f"It raises {_short(words)}{_at(place)}, of which the server writes a traceback",
        )
    for one in played.seen.logged:
        if (one.logger, one.words) not in stay.logged:
            yield "traceback", f"{one.logger} {one.place or one.text}", _sentence_of(one)
    if isinstance(outcome, Hang) and outcome.transcript.went_on is not None and not played.is_in_thread:
        if played.was_cancelled:
            yield "swallowed cancellation", "", f"It goes on {seconds} after it was cancelled, at {outcome.place}"
        elif stay.delivered:
            sent = len(transcript.wasted) + len(transcript.muted)
            if sent or not _is_kept_from_app(transcript):
                does = f"still sends ({sent} messages)" if sent > _FEW else "has not ended"
                yield "endless", "", f"It {does} {seconds} after its client has left, at {outcome.place}"
    if played.departure.phase == "during the upload":
        yield from _faults_of_upload(transcript, played.seen)


def _is_kept_from_app(transcript: Transcript) -> bool:
    """Whether the server tells of a departure only after a `send`, and there was none: granian 1.7.6."""
    behaviour = transcript.server.http
    return isinstance(transcript.client, HTTPClient) and behaviour.disconnect_comes == "after a send"


def _at(place: str) -> str:
    return f" at {place}" if place else ""


def _short(words: str, most: int = 120) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _sentence_of(logged: Logged) -> str:
    what = f"a traceback of {_short(logged.exception)}" if logged.exception else f"an error: {_short(logged.text)}"
    return f"Logger {logged.logger} writes {what}{_at(logged.place)}"


def _faults_of_upload(transcript: Transcript, seen: Seen) -> Iterator[tuple[FaultKind, str, str]]:
    client: Any = transcript.client
    chunks = client.chunks()
    sent, whole = b"".join(chunks[: client.leaves_after_chunks]), b"".join(chunks)
    status = _status_after_disconnect(transcript)
    if status is not None and status < 300:
        yield "half upload", "status", f"It answers {status}, although {len(sent)} of {len(whole)} bytes came"
    for path in sorted(seen.files):
        size = _size_of_half(path, sent, whole)
        if size is not None:
            yield (
                "half upload",
                os.path.dirname(path),
                f"It keeps {size} of {len(whole)} bytes in a file, such as {relative(path)}",
            )


def _status_after_disconnect(transcript: Transcript) -> int | None:
    """The status of an answer that began when the app had read a part of the body, and then the disconnect."""
    parts = [message for message in transcript.received if message["type"] == "http.request"]
    if not parts or "receive: http.disconnect" not in transcript.lines:
        return None
    told_at = transcript.lines.index("receive: http.disconnect")
    if any(line.startswith("send http.response.start") for line in transcript.lines[:told_at]):
        return None
    starts = [*transcript.sent, *transcript.wasted, *transcript.muted]
    return next((int(message["status"]) for message in starts if message["type"] == "http.response.start"), None)


def _size_of_half(path: str, sent: bytes, whole: bytes) -> int | None:
    """The size of a file that holds a part of what has come of the body, or all of that and not the rest."""
    try:
        if not os.path.isfile(path) or not _LEAST_TO_FIND <= os.path.getsize(path) <= _MOST_TO_READ:
            return None
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return None
    return len(content) if content in sent or (sent in content and whole not in content) else None
