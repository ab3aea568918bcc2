"""What the apps have in the server's process: a transcript, cues from the client's side, and words to it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import anyio


def emit(**event: Any) -> None:
    """Write one event for the other process."""
    rest = json.dumps(event).encode() + b"\n"
    while rest:
        rest = rest[os.write(sys.__stdout__.fileno(), rest) :]  # type: ignore[union-attr]  # it is there


def named(exception: BaseException) -> str:
    """Whose exception it is and which: the package and the class. Of a group, its members."""
    members = getattr(exception, "exceptions", ())
    kind = type(exception)
    inner = f"[{', '.join(map(named, members))}]" if members else ""
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}{inner}"


_SIGNALS: dict[tuple[str, str], anyio.Event] = {}


def signal(run: str, name: str) -> anyio.Event:
    """The cue `name` of a run; the client's side gives it by a request of its own."""
    if (run, name) not in _SIGNALS:
        _SIGNALS[run, name] = anyio.Event()
    return _SIGNALS[run, name]


class Play:
    """One call of an app."""

    def __init__(self, run: str, variant: str) -> None:
        self._run = run
        self.variant = variant
        self.known = False  # has the app seen that its client has gone?
        self._disconnect: Any = None

    def line(self, text: str) -> None:
        """Add to the transcript."""
        emit(run=self._run, line=text, known=self.known)

    def ready(self, what: str) -> None:
        """Tell the client's side how far the app is."""
        emit(run=self._run, ready=what)

    async def cue(self, name: str) -> None:
        """Wait until the client's side says so."""
        await signal(self._run, name).wait()

    def received(self, message: Any) -> None:
        """Record a message. Close codes differ from server to server; that it is the same one each time does not."""
        kind = message["type"]
        if not kind.endswith(".disconnect"):
            self.line(f"receive: {kind}")
        elif kind == "websocket.disconnect" and not isinstance(message.get("code"), int):
            self.line(f"receive: A DISCONNECT WITHOUT CODE {message}")
        elif self._disconnect is None or message == self._disconnect:
            self.known = True
            self._disconnect = message
            self.line(f"receive: {kind}")
        else:
            self.line(f"receive: ANOTHER DISCONNECT {message}, before {self._disconnect}")


class Stage:
    """The app's `receive` and `send`, recorded; `raw_receive` and `raw_send` are not."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.play: Play = scope["tests.play"]
        self.scope = scope
        self.raw_receive = receive
        self.raw_send = send

    async def receive(self) -> Any:
        try:
            message = await self.raw_receive()
        except Exception as exception:
            self.play.line(f"receive: raises {named(exception)}")
            raise
        self.play.received(message)
        return message

    async def send(self, type: str, **message: Any) -> None:
        """Send, and let what it raises out."""
        try:
            result = await self.raw_send({"type": type, **message})
        except Exception as exception:
            self.play.known |= named(exception) == "disconnect_mw.ClientDisconnected"
            self.play.line(f"send {type}: raises {named(exception)}")
            raise
        self.play.line(f"send {type}: {result}")

    async def try_send(self, type: str, **message: Any) -> bool:
        """Send; False if that raised."""
        try:
            await self.send(type, **message)
        except Exception:
            return False
        return True
