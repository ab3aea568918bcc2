"""A client that stays: the control, which also tells when another one can leave."""

from __future__ import annotations

import dataclasses
from typing import Any

from .._behaviour import Server
from .._clients import Client
from .._hang import Hang
from .._visit import Exchange
from ._watch import Seen, place_of, seen_now, words_of

SECONDS_TO_TURN = 0.05
"""An app that gives the event loop no turn for so long is made to: other exchanges run beside it."""

_MESSAGES = 12
_SECONDS = 0.1
"""A client has seen enough of an answer without an end after so many messages and so many seconds."""


@dataclasses.dataclass(frozen=True)
class Stay:
    """What a client got that stayed."""

    delivered: list[Any]
    is_whole: bool
    """Whether the app ended by itself."""

    seconds: float
    """From the request to the end, or until the client had seen enough."""

    first_after: float
    """Seconds from the request to about the first message; where there was none, to the end."""

    has_middleware: bool
    """Whether a `DisconnectMiddleware` was on the way."""

    error: str
    """What the app raised, and where."""

    logged: frozenset[tuple[str, str]]
    seen: Seen
    varying: frozenset[str] = frozenset()
    """What differs from one answer to the next."""

    @property
    def status(self) -> int | None:
        """The status of the response; None for a WebSocket that was accepted, and where there was no answer."""
        for message in self.delivered[:1]:
            return 403 if message["type"] == "websocket.close" else message.get("status")
        return None

    def differences(self, other: Stay) -> set[str]:
        """What is not the same, as far as both have got."""
        count = min(len(self.delivered), len(other.delivered))
        if self.is_whole and other.is_whole:
            count = max(len(self.delivered), len(other.delivered))
        ours, theirs = _parts(self.delivered[:count]), _parts(other.delivered[:count])
        return {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}


def _parts(delivered: list[Any]) -> dict[str, Any]:
    """What can be compared of an answer, by name."""
    parts: dict[str, Any] = {"body": b"", "messages": []}
    for message in delivered:
        kind = message["type"]
        if kind.endswith("response.body"):
            parts["body"] += message.get("body", b"")
        elif kind.endswith("response.start"):
            parts["status"] = message["status"]
            headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            parts |= {f"header {name.decode('latin-1')}": [] for name, _ in headers}
            for name, value in headers:
                parts[f"header {name.decode('latin-1')}"].append(value)
        else:
            parts["messages"].append(message)
    return parts


class _Staying(Exchange):
    """Its client stays to the end of the response; where that has none, until it has seen enough of it.

    The app is not waited for after that.
    """

    _count, _quiet, _stayed, first_after = 0, 0.0, 0.0, 0.0

    def _is_to_leave(self, now: float) -> bool:
        has_enough = self._count >= _MESSAGES and self._stayed >= _SECONDS
        is_quiet = bool(self._count) and self._quiet >= self._patience / 2
        return has_enough or is_quiet or self._stayed >= self._patience

    def _count_seconds(self, before: float, now: float) -> None:
        seconds, count = min(now - before, self._planned), len(self._simulated_server.delivered)
        self._stayed += seconds
        self._quiet = 0.0 if count != self._count else self._quiet + seconds
        self._count = count
        if count == 0:
            self.first_after = now - self._began_at
        self._waited = self._patience if self._simulated_server.has_left else 0.0


async def stay(app: Any, client: Client, server: Server, patience: float, seen: Seen) -> Stay:
    """Play a client that stays for `patience` seconds at most; or until it leaves, where its `client` says so."""
    exchange = _Staying(app, client, server, patience, seconds_to_turn=SECONDS_TO_TURN)
    token = seen_now.set(seen)
    try:
        outcome = await exchange.play()
    finally:
        seen_now.reset(token)
    is_whole = not isinstance(outcome, Hang)
    transcript = outcome.transcript if isinstance(outcome, Hang) else outcome
    raised = transcript.raised
    if raised is not None and not isinstance(raised, Exception):
        raise raised
    place = place_of(raised)
    return Stay(
        delivered=transcript.delivered,
        is_whole=is_whole,
        seconds=exchange.seconds(),
        first_after=exchange.first_after,
        has_middleware=exchange.has_middleware,
        error="" if raised is None else words_of(raised) + (f", at {place}" if place else ""),
        logged=frozenset((one.logger, one.words) for one in (*seen.logged, *seen.take_exceptions())),
        seen=seen,
    )


def again_for(client: Client, first: Stay) -> Client:
    """A client that gets what the first one got, and has seen enough then."""
    if first.is_whole or not first.delivered:
        return client
    return dataclasses.replace(client, leaves_after_messages=len(first.delivered))


async def stay_twice(app: Any, client: Client, server: Server, patience: float) -> Stay:
    """As `stay`, and once more, to see what varies."""
    first = await stay(app, client, server, patience, Seen())
    if first.error or not first.delivered:
        return first
    second = await stay(app, again_for(client, first), server, patience, first.seen)
    return dataclasses.replace(first, varying=frozenset(first.differences(second)))
