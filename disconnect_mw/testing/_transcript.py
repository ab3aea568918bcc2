"""The transcript of an exchange: what the server, the client and the app sent and received."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

from .. import _middleware
from ._behaviour import Server, qualified_name
from ._clients import Client
from ._simulated_server import Message, SimulatedServer

__tracebackhide__ = True  # pytest leaves the frames of this module out

Ended: TypeAlias = Literal["returned", "raised", "cancelled", "hung", "never called"]

_STARTS = ("http.response.start", "websocket.http.response.start")
_OPENINGS = (*_STARTS, "websocket.accept", "websocket.close")
_BODIES = ("http.response.body", "websocket.http.response.body")


@dataclasses.dataclass(frozen=True, repr=False)
class Transcript:
    """What happened in one exchange, to assert on. Its `str` has every call in order.

    The lists hold the ASGI messages themselves. `status`, `headers`, `body`, `messages` and `close_code` are what the
    client got before it left.
    """

    client: Client
    server: Server

    sent: list[Message]
    """The app's messages that reached the server while the client was there."""

    wasted: list[Message]
    """The app's messages that reached the server after the client had left."""

    muted: list[Message]
    """The app's messages that a `DisconnectMiddleware` kept from the server."""

    received: list[Message]
    """What `receive` answered to the app, inside the middleware."""

    lines: list[str]
    """The app's calls and their outcomes, inside the middleware, in order:
    "receive: http.disconnect", "send http.response.body: None", "send websocket.send: raises RuntimeError"."""

    delivered: list[Message]
    """The app's messages that reached the client."""

    ended: Ended
    """How the app ended.

    "hung": it had not ended when a `Hang` was raised. "never called": Daphne calls no app for an upload that is cut.
    """

    raised: BaseException | None
    """The exception that left the whole app, middleware included."""

    went_on: float | None
    """Seconds from when the client left until the app ended; None if the client stayed."""

    lines_until_departure: int | None
    """How many of the `lines` came before the client left; None if it stayed."""

    @property
    def status(self) -> int | None:
        """The status that the client got; None if none came. 403 for a WebSocket that the app refused by a close."""
        opening = self._opening()
        if opening["type"] in _STARTS:
            return int(opening["status"])
        return 403 if opening["type"] == "websocket.close" else None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that the client got, as the app gave them."""
        return [(bytes(name), bytes(value)) for name, value in self._opening().get("headers", ())]

    def _opening(self) -> Any:
        """The first message by which the client learns what becomes of its request."""
        openings = (message for message in self.delivered if message["type"] in _OPENINGS)
        return next(openings, {"type": None})

    @property
    def body(self) -> bytes:
        """The part of the body that the client got."""
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
        return f"<Transcript {self.server} {self.ended}: {len(self.lines)} line{'' if len(self.lines) == 1 else 's'}>"

    def __str__(self) -> str:
        end = self.ended if self.ended in ("returned", "raised", "hung") else f"was {self.ended}"
        if self.raised is not None:
            end = f"raised {self.raised!r}"
        if self.went_on is not None:
            end += f", {self.went_on:.3f} s after the client left"
        return "\n".join([*printed_lines(self), f"(the app {end})"])


def printed_lines(transcript: Transcript) -> list[str]:
    """The lines of a transcript, with one where the client leaves; equal lines that follow each other are one."""
    client, lines = transcript.client, transcript.lines
    head = f"{client.scope()['type']} {client.path} on {transcript.server}"
    count = transcript.lines_until_departure
    if count is None:
        return [head, *_grouped(lines)]
    return [head, *_grouped(lines[:count]), f"-- the client leaves ({client.leaves_by}) --", *_grouped(lines[count:])]


def _grouped(lines: list[str]) -> list[str]:
    groups = [(line, len(list(group))) for line, group in itertools.groupby(lines)]
    return [f"  {line}" if count == 1 else f"  {line}  (x {count})" for line, count in groups]


class CallRecorder:
    """Records the app's calls of `receive` and `send`."""

    def __init__(self, simulated_server: SimulatedServer, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        self._simulated_server = simulated_server
        self._receive = receive
        self._send = send
        self.lines: list[str] = []
        self.received: list[Message] = []
        self.muted: list[Message] = []
        self.lines_until_departure: int | None = None

    def client_left(self, is_in_send: bool) -> None:
        """The client has left; inside a `send`, whose line is still to come, if `is_in_send`."""
        self.lines_until_departure = len(self.lines) + is_in_send

    async def receive(self) -> Message:
        # A middleware may answer without calling the server's receive.
        if (pause := self._simulated_server.pause()) is not None:
            await pause
        try:
            message = await self._receive()
        except BaseException as exception:
            self.lines.append(f"receive: {_describe_exception(exception)}")
            raise
        self.received.append(message)
        self.lines.append(f"receive: {_describe_message(message)}")
        return message

    async def send(self, message: Message) -> Any:
        had_left, reached = self._simulated_server.has_left, len(self._simulated_server.sent)
        kind = message.get("type") if isinstance(message, Mapping) else repr(message)
        try:
            answer = await self._send(message)
        except BaseException as exception:
            self.lines.append(f"send {kind}: {_describe_exception(exception)}")
            raise
        else:
            self.lines.append(f"send {kind}: {answer!r}")
            return answer
        finally:
            if had_left and len(self._simulated_server.sent) == reached:
                self.muted.append(message)


_SCOPE_KEY = "disconnect_mw.testing"


class Recorder:
    """Records the calls at the innermost `DisconnectMiddleware`, or at the server where there is none.

    Each middleware finds it in the scope and calls `wrap`; the innermost is the last to do so.
    """

    def __init__(self, simulated_server: SimulatedServer) -> None:
        self._simulated_server = simulated_server
        self.calls = CallRecorder(simulated_server, simulated_server.receive, simulated_server.send)
        self.is_inside = False  # of a DisconnectMiddleware

    def put_into(self, scope: dict[str, Any]) -> None:
        scope[_SCOPE_KEY] = self

    def wrap(self, receive: Callable[[], Awaitable[Message]], send: Any) -> tuple[Any, Any]:
        """Return what the middleware gives its app instead of `receive` and `send`."""
        self.calls = CallRecorder(self._simulated_server, receive, send)
        self.is_inside = True
        if self._simulated_server.has_left:
            self.calls.client_left(is_in_send=False)
        return self.calls.receive, self.calls.send


_before = _middleware.inside


def _wrap(scope: Any, receive: Callable[[], Awaitable[Message]], send: Any) -> tuple[Any, Any]:
    if _before is not None:  # a log filter's, which was installed before this was imported
        receive, send = _before(scope, receive, send)
    recorder = scope.get(_SCOPE_KEY)
    return (receive, send) if recorder is None else recorder.wrap(receive, send)


_middleware.inside = _wrap


def _describe_message(message: Message) -> str:
    """The type of a message, and what tells it from others of that type."""
    if not isinstance(message, Mapping):
        return repr(message)
    kind = str(message.get("type"))
    if kind == "http.request":
        size = len(message.get("body", b""))
        more = ", more to come" if message.get("more_body") else ""
        return f"{kind} ({size} byte{'' if size == 1 else 's'}{more})"
    if kind == "websocket.receive":
        return f"{kind} {message['bytes'] if message.get('text') is None else message['text']!r}"
    if kind == "websocket.disconnect":
        return f"{kind} ({message.get('code', 'no code')})"
    return kind


def _describe_exception(exception: BaseException) -> str:
    return f"raises {qualified_name(type(exception))}" if isinstance(exception, Exception) else "cancelled"
