"""What an exchange costs the event loop and the server: the tasks it makes, and the messages it reads ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from ._rows import ROWS, SECONDS_TO_CHECK, App, Receive, Send, logging_of
from ._workloads import WORKLOADS, after_body, exchange, http_scope, wait_for_ever

CHUNKS_OFFERED = 500

LONG = "long"
"""A GET that is still under way when the watcher checks it."""

_SECONDS = 10.0


async def long(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.sleep(SECONDS_TO_CHECK)
    await send({"type": "http.response.body", "body": b"x"})


def tasks_made(workload: str, row: str) -> int:
    """How many tasks one exchange makes, beyond the one that the server runs the app in."""
    played = WORKLOADS["GET"]._replace(app=long, after_body=wait_for_ever) if workload == LONG else WORKLOADS[workload]
    app = ROWS[row](played.app)
    after = after_body(played, row)

    async def run() -> int:
        await exchange(app, played, after)  # what is made once per process is not counted
        with _counted() as made:
            await exchange(app, played, after)
        return len(made)

    with logging_of(row):
        return asyncio.run(asyncio.wait_for(run(), _SECONDS))


@contextmanager
def _counted() -> Iterator[list[str]]:
    """The names of the tasks that are made in the block, by a loop or by a call of the class."""
    made: list[str] = []

    class CountedTask(asyncio.Task[Any]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self.get_name())

    with mock.patch.object(asyncio, "Task", CountedTask), mock.patch.object(asyncio.tasks, "Task", CountedTask):
        yield made


def read_ahead(row: str, *, answers_first: bool) -> int:
    """How many of the body's messages are received from the server although the app receives none.

    The app waits until the watcher has checked, before it starts its response or after.
    """
    offered = 0

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if not answers_first:
            await asyncio.sleep(SECONDS_TO_CHECK)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if answers_first:
            await asyncio.sleep(SECONDS_TO_CHECK)
        await send({"type": "http.response.body", "body": b"x"})

    async def receive() -> Any:
        nonlocal offered
        await asyncio.sleep(0)
        if offered == CHUNKS_OFFERED:
            await wait_for_ever()
        offered += 1
        return {"type": "http.request", "body": b"x", "more_body": offered < CHUNKS_OFFERED}

    async def send(message: Any) -> None:
        pass

    async def run(wrapped: App) -> None:
        await wrapped(http_scope("POST", [(b"content-length", b"%d" % CHUNKS_OFFERED)]), receive, send)

    with logging_of(row):
        asyncio.run(asyncio.wait_for(run(ROWS[row](app)), _SECONDS))
    return offered
