"""What one client and the app do, as the probe notes it between them.

Runs in the server's process.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import os
import time
import weakref
from typing import Any

from ._places import SERVERS, describe, package_of_task, place_of_task

_MESSAGES_KEPT = 60
"""Of one exchange, for its timeline; of all others only the times of sends are kept, of the last 4096."""

_TIMES_KEPT = 4096

TASKS_TELL_THEIR_CONTEXT = hasattr(asyncio.Task, "get_context")
"""From Python 3.12 on; before, each task is noted as it is made."""

current: contextvars.ContextVar[Exchange | None] = contextvars.ContextVar("disconnect_mw.check", default=None)
"""The exchange that a task, a log record, or a file belongs to. It stays set: servers log in the same context."""


class Exchange:
    """One call of the app. Times are `time.monotonic()`, which all processes of a machine share."""

    def __init__(self, scope: Any) -> None:
        client = scope.get("client") or (None, None)
        self.port = None if client[1] is None else int(client[1])  # granian 2 has text
        self.began = time.monotonic()
        self.ended: float | None = None
        self.how: str | None = None
        self.raised: dict[str, Any] | None = None
        self.connections = 0  # of a pool, taken and not given back
        self.files: list[str] = []
        self.task = asyncio.current_task()
        self.tasks: weakref.WeakSet[Any] = weakref.WeakSet()
        self._told_at: float | None = None
        self._messages: list[tuple[float, str, str, int]] = []
        self._sends: collections.deque[float] = collections.deque(maxlen=_TIMES_KEPT)
        self._sent = self._bytes_received = 0
        self._status: int | None = None
        self._status_at: float | None = None
        self._has_whole_body = False
        self._level = 0

    def around(self, receive: Any, send: Any) -> tuple[Any, Any]:
        """Return a `receive` and a `send` that note what passes. Of several on the way the innermost notes."""
        self._level = level = self._level + 1

        async def noted_receive() -> Any:
            message = await receive()
            if level == self._level:
                self._note_received(message)
            return message

        def noted_send(message: Any) -> Any:  # no frame of its own while the send is under way
            if level == self._level:
                self._note_sent(message)
            return send(message)

        return noted_receive, noted_send

    def _note_received(self, message: Any) -> None:
        now, kind, size = _facts_of(message)
        if kind.endswith(".disconnect"):
            self._told_at = self._told_at or now
        elif kind == "http.request":
            self._bytes_received += size
            self._has_whole_body = not message.get("more_body")
        self._note(now, "receive", kind, size)

    def _note_sent(self, message: Any) -> None:
        now, kind, size = _facts_of(message)
        if kind == "http.response.start":
            self._status, self._status_at = message.get("status"), now
        self._sent += 1
        self._sends.append(now)
        self._note(now, "send", kind, size)

    def _note(self, now: float, direction: str, kind: str, size: int) -> None:
        if len(self._messages) < _MESSAGES_KEPT:
            self._messages.append((now, direction, kind, size))

    def end(self, how: str, exception: BaseException | None = None) -> None:
        self.ended, self.how = time.monotonic(), how
        if exception is not None:
            self.raised = describe(exception)
        self.task = None

    def tasks_left(self) -> list[Any]:
        """The tasks that were started in this exchange, and still run."""
        if TASKS_TELL_THEIR_CONTEXT:
            everyone: list[Any] = [*asyncio.all_tasks()]
            own = [task for task in everyone if task.get_context().get(current) is self]
        else:
            own = [*self.tasks]
        return [task for task in own if not task.done() and task is not self.task and not is_servers_task(task)]

    def record(self) -> dict[str, Any]:
        """Return what the check is told."""
        return {
            "began": self.began,
            "ended": self.ended,
            "how": self.how,
            "raised": self.raised,
            "told_at": self._told_at,
            "messages": self._messages,
            "sends": [*self._sends],
            "sent": self._sent,
            "status": self._status,
            "status_at": self._status_at,
            "bytes_received": self._bytes_received,
            "has_whole_body": self._has_whole_body,
            "tasks": [place_of_task(task) for task in self.tasks_left()],
            "connections": self.connections,
            "files": [(path, os.path.getsize(path)) for path in self.files if os.path.isfile(path)],
        }


servers_tasks: weakref.WeakSet[Any] = weakref.WeakSet()
"""The tasks in which servers call the app, whose context has an exchange from then on."""


def is_servers_task(task: Any) -> bool:
    """Whether a server runs it for itself: those that it starts in a `send` have the context of the app."""
    return task in servers_tasks or package_of_task(task) in SERVERS


def _facts_of(message: Any) -> tuple[float, str, int]:
    content = message.get("body") or message.get("bytes") or message.get("text") or b""
    return time.monotonic(), str(message["type"]), len(content)
