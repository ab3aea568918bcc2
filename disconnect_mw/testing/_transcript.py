"""What was said in an exchange: at the server, and as the application saw it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

from .. import _middleware
from ._behaviour import Server, qualified_name
from ._clients import Client
from ._simulated_server import Message, SimulatedServer, never_back

Ended: TypeAlias = Literal["returned", "raised", "cancelled", "hung", "never called"]

_STARTS = ("http.response.start", "websocket.http.response.start")
_OPENINGS = (*_STARTS, "websocket.accept", "websocket.close")
_BODIES = ("http.response.body", "websocket.http.response.body")


@dataclasses.dataclass(frozen=True, repr=False)
class Transcript:
    """What became of one exchange, to assert on. Its `str` is the whole story.

    `status`, `headers`, `body`, `messages`, `close_code` are what the client got before it left; the lists hold the
    ASGI messages themselves.
    """

    client: Client
    server: Server

    sent: list[Message]
    """The app's messages that reached the server while the client was there."""

    wasted: list[Message]
    """Those that reached it after that: work, and log lines, for nothing."""

    muted: list[Message]
    """Those that a `DisconnectMiddleware` kept from the server."""

    received: list[Message]
    """What `receive` answered to the app, inside the middleware."""

    lines: list[str]
    """What the app did and what came of it, inside the middleware, in order:
    "receive: http.disconnect", "send http.response.body: None", "send websocket.send: raises RuntimeError"."""

    delivered: list[Message]
    """The app's messages that reached the client."""

    ended: Ended
    """How the app ended.

    "hung": it had not, when a `Hang` was raised. "never called": Daphne does not call it for an upload that is cut.
    """

    raised: BaseException | None
    """The exception that left the whole app, middleware included."""

    went_on: float | None
    """Seconds from the moment when the client left to the end of the app; None if it stayed."""

    lines_until_departure: int | None
    """How many of the `lines` there were when the client left; None if it stayed."""

    @property
    def status(self) -> int | None:
        """The status that the client got: None if none came. 403 for a WebSocket that the app refused by a close."""
        opening = self._opening()
        if opening["type"] in _STARTS:
            return int(opening["status"])
        return 403 if opening["type"] == "websocket.close" else None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that the client got, as the app gave them."""
        return [(bytes(name), bytes(value)) for name, value in self._opening().get("headers", ())]

    def _opening(self) -> Any:
        """The message that has told the client what becomes of its request."""
        openings = (message for message in self.delivered if message["type"] in _OPENINGS)
        return next(openings, {"type": None})

    @property
    def body(self) -> bytes:
        """The body that the client got, as far as it came."""
        return b"".join(message.get("body", b"") for message in self.delivered if message["type"] in _BODIES)

    @property
    def messages(self) -> list[str | bytes]:
        """The WebSocket messages that the client got."""
        sends = [message for message in self.delivered if message["type"] == "websocket.send"]
        return [message["bytes"] if message.get("text") is None else message["text"] for message in sends]

    @property
    def close_code(self) -> int | None:
        """The code with which the app closed the WebSocket while the client was there; None if it did not."""
        for message in self.delivered:
            if message["type"] == "websocket.close":
                return int(message.get("code", 1000))
        return None

    def __repr__(self) -> str:
        return f"<Transcript {self.server} {self.ended}: {len(self.lines)} lines>"

    def __str__(self) -> str:
        end = {"returned": "returned", "raised": "raised", "hung": "hung"}.get(self.ended, f"was {self.ended}")
        if self.raised is not None:
            end = f"raised {self.raised!r}"
        if self.went_on is not None:
            end += f", {self.went_on:.3f} s after the client left"
        return "\n".join([*story(self), f"(the app {end})"])


def story(transcript: Transcript) -> list[str]:
    """The lines with the departure among them, equal ones together."""
    client, lines = transcript.client, transcript.lines
    head = f"{client.scope()['type']} {client.path} on {transcript.server}"
    count = transcript.lines_until_departure
    if count is None:
        return [head, *_together(lines)]
    return [head, *_together(lines[:count]), f"-- the client leaves ({client.leaves_by}) --", *_together(lines[count:])]


def _together(lines: list[str]) -> list[str]:
    groups = [(line, len(list(group))) for line, group in itertools.groupby(lines)]
    return [f"  {line}" if count == 1 else f"  {line}  (x {count})" for line, count in groups]


class View:
    """What an application sees of its exchange: it stands where the application is called."""

    def __init__(self, simulated_server: SimulatedServer, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        self._simulated_server = simulated_server
        self._receive = receive
        self._send = send
        self.lines: list[str] = []
        self.received: list[Message] = []
        self.muted: list[Message] = []
        self.lines_until_departure: int | None = None

    def note_departure(self, is_in_send: bool) -> None:
        self.lines_until_departure = len(self.lines) + is_in_send

    async def receive(self) -> Message:
        if self._simulated_server.is_out_of_time():  # a middleware may answer without asking the far side
            await never_back()
        try:
            message = await self._receive()
        except BaseException as exception:
            self.lines.append(f"receive: {_outcome(exception)}")
            raise
        self.received.append(message)
        self.lines.append(f"receive: {_described(message)}")
        return message

    async def send(self, message: Message) -> Any:
        had_left, reached = self._simulated_server.has_left, len(self._simulated_server.sent)
        kind = message.get("type") if isinstance(message, Mapping) else repr(message)
        try:
            answer = await self._send(message)
        except BaseException as exception:
            self.lines.append(f"send {kind}: {_outcome(exception)}")
            raise
        else:
            self.lines.append(f"send {kind}: {answer!r}")
            return answer
        finally:
            if had_left and len(self._simulated_server.sent) == reached:
                self.muted.append(message)


_IN_SCOPE = "disconnect_mw.testing"


class Recorder:
    """Stands in the scope for each `DisconnectMiddleware` to find: the innermost gives the application's own view."""

    def __init__(self, simulated_server: SimulatedServer) -> None:
        self._simulated_server = simulated_server
        self.view = View(simulated_server, simulated_server.receive, simulated_server.send)

    def put_into(self, scope: dict[str, Any]) -> None:
        scope[_IN_SCOPE] = self

    def inside(self, receive: Callable[[], Awaitable[Message]], send: Any) -> tuple[Any, Any]:
        """What the middleware gives its app in place of `receive` and `send`."""
        self.view = View(self._simulated_server, receive, send)
        if self._simulated_server.has_left:
            self.view.note_departure(False)
        return self.view.receive, self.view.send


def _inside(scope: Any, receive: Callable[[], Awaitable[Message]], send: Any) -> tuple[Any, Any]:
    recorder = scope.get(_IN_SCOPE)
    return (receive, send) if recorder is None else recorder.inside(receive, send)


_middleware.inside = _inside


def _described(message: Message) -> str:
    """A message in a line: what distinguishes it from others of its type."""
    if not isinstance(message, Mapping):
        return repr(message)
    kind = str(message.get("type"))
    if kind == "http.request":
        more = ", more to come" if message.get("more_body") else ""
        return f"{kind} ({len(message.get('body', b''))} bytes{more})"
    if kind == "websocket.receive":
        return f"{kind} {message['bytes'] if message.get('text') is None else message['text']!r}"
    if kind == "websocket.disconnect":
        return f"{kind} ({message.get('code', 'no code')})"
    return kind


def _outcome(exception: BaseException) -> str:
    return f"raises {qualified_name(type(exception))}" if isinstance(exception, Exception) else "cancelled"
