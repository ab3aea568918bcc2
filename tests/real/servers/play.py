"""What the apps use in the server's process: the transcript, and signals from and to the test's process."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import anyio


def emit(**event: Any) -> None:
    """Write one event for the test's process."""
    rest = json.dumps(event).encode() + b"\n"
    while rest:
        rest = rest[os.write(sys.__stdout__.fileno(), rest) :]  # type: ignore[union-attr]  # it is there


def named(exception: BaseException) -> str:
    """Return an exception's package and class; of a group, its members' too."""
    members = getattr(exception, "exceptions", ())
    kind = type(exception)
    inner = f"[{', '.join(map(named, members))}]" if members else ""
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}{inner}"


_SIGNALS: dict[tuple[str, str], anyio.Event] = {}


def signal(run: str, name: str) -> anyio.Event:
    """Return the event `name` of a run. The test's process sets it by a request of its own."""
    if (run, name) not in _SIGNALS:
        _SIGNALS[run, name] = anyio.Event()
    return _SIGNALS[run, name]


class Play:
    """One call of an app."""

    def __init__(self, run: str, variant: str, stated: str | None) -> None:
        self._run = run
        self.variant = variant
        self.stated = stated  # by the server: its spec_version
        self.known = False  # whether the app has seen the disconnect
        self.has_ended = False  # the app, inside of the middleware: then a response of one piece may go out
        self._disconnect: Any = None

    def line(self, text: str) -> None:
        """Add a line to the transcript."""
        emit(run=self._run, line=text, known=self.known)

    def ready(self, what: str) -> None:
        """Tell the test's process how far the app is."""
        emit(run=self._run, ready=what)

    async def cue(self, name: str) -> None:
        """Wait until the test's process sets the event `name`."""
        await signal(self._run, name).wait()

    def received(self, message: Any) -> None:
        """Record a message. Servers may differ in the close code; each must repeat the one that it gave."""
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
        """Send, and let an exception out."""
        try:
            result = await self.raw_send({"type": type, **message})
        except Exception as exception:
            self.play.known |= named(exception) == "disconnect_mw.ClientDisconnected"
            self.play.line(f"send {type}: raises {named(exception)}")
            raise
        self.play.line(f"send {type}: {result}")

    async def try_send(self, type: str, **message: Any) -> bool:
        """Send; return False if that raised."""
        try:
            await self.send(type, **message)
        except Exception:
            return False
        return True
