"""The far side in memory: a server whose client leaves when told, with the manners of the measured servers.

It keeps a transcript of what reached it. `tests/real` holds it against the real servers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio

Message = dict[str, Any]

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK: Message = {"type": "http.response.body", "body": b"payload", "more_body": True}
FINAL: Message = {"type": "http.response.body", "body": b"the end"}
EMPTY_FINAL: Message = {"type": "http.response.body", "body": b"", "more_body": False}
START_499: Message = {"type": "http.response.start", "status": 499, "headers": []}
REQUEST: Message = {"type": "http.request", "body": b"", "more_body": False}
DISCONNECT: Message = {"type": "http.disconnect"}


class ServersWord(OSError):
    """How uvicorn 0.28.0 says that the client has gone."""


@dataclasses.dataclass(frozen=True)
class Manners:
    """What a server does once its client has gone, and after a complete response."""

    raises: type[Exception] | None = None  # from send; None: silent
    repeats: bool = True  # the disconnect; or says it once and then blocks for ever (Hypercorn, Daphne)
    ends: bool = True  # a complete response with a disconnect (uvicorn); or waits (gunicorn's asgi worker)
    complains: bool = True  # of a message after the end (uvicorn, Hypercorn, granian); or not (Daphne, gunicorn)


UVICORN = Manners()
UVICORN_0_28_0 = Manners(raises=ServersWord)
HYPERCORN = Manners(repeats=False)
DAPHNE = Manners(repeats=False, complains=False)
GUNICORN = Manners(ends=False, complains=False)
ALL_MANNERS = (UVICORN, UVICORN_0_28_0, HYPERCORN, DAPHNE, GUNICORN)


class FarSide:
    """A server and its client, for one HTTP exchange."""

    def __init__(self, manners: Manners = UVICORN, incoming: list[Message] | None = None) -> None:
        self.manners = manners
        self.sent: list[Message] = []
        self.reads = 0  # calls of receive
        self.cancelled_reads = 0
        self.has_left = False
        self.has_ended = False
        self._told = False
        self._incoming = [REQUEST] if incoming is None else incoming
        self._news = anyio.Event()

    def leave(self) -> None:
        """The client goes away."""
        self.has_left = True
        self._ring()

    def deliver(self, *messages: Message) -> None:
        """More of the request arrives."""
        self._incoming.extend(messages)
        self._ring()

    def _ring(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def receive(self) -> Message:
        self.reads += 1
        try:
            while True:
                if self._incoming and not self.has_left:
                    return self._incoming.pop(0)
                if self.has_left or (self.has_ended and self.manners.ends):
                    if self.manners.repeats or not self._told:
                        self._told = True
                        return dict(DISCONNECT)
                await self._news.wait()
        except BaseException:
            self.cancelled_reads += 1
            raise

    async def send(self, message: Message) -> None:
        if self.has_ended and self.manners.complains and not self.has_left:
            raise RuntimeError(f"Unexpected ASGI message '{message['type']}' sent, after response already completed.")
        self.sent.append(message)
        if self.has_left and self.manners.raises is not None:
            raise self.manners.raises()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.has_ended = True
            self._ring()


def http_scope(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **more,
    }
