"""The lifespan of the app under check, as a server runs it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from ... import _backends
from ..._middleware import ASGIApp
from .. import _tasks
from .._hang import describe_place
from .._simulated_server import block_forever

_SECONDS_TO_START = 60.0
_SECONDS_TO_SHUT_DOWN = 10.0
_SECONDS_TO_END = 1.0


@contextlib.asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """Start the app up, give what it leaves in the scope's `state`, and shut it down.

    An app that does not speak lifespan is left alone. Raises `RuntimeError` for a start-up that fails, or does not end.
    """
    state: dict[str, Any] = {}
    answers: list[Any] = []
    events = ["lifespan.startup", "lifespan.shutdown"]
    is_to_end = _backends.current()[0].create_waiter()

    async def receive() -> Any:
        if len(events) == 1:
            await is_to_end
        if not events:
            await block_forever()
        return {"type": events.pop(0)}

    async def send(message: Any) -> None:
        answers.append(message)
        task.wake()

    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def call() -> None:
        await app(scope, receive, send)

    task = _tasks.new_task(call())
    task.start()
    try:
        await _wait(task, answers, 1, _SECONDS_TO_START)
        if not answers and task.ended is None:
            raise RuntimeError(
                f"the app's start-up has not ended after {_SECONDS_TO_START:g} s, at "
                f"{describe_place(task.await_chains())}: pass lifespan=False if the test has started the app itself"
            )
        if answers and answers[0]["type"] == "lifespan.startup.failed":
            lines = str(answers[0].get("message", "")).strip().splitlines() or ["it gives no reason"]
            raise RuntimeError(f"the app's start-up has failed: {lines[-1].strip()}") from task.raised
        yield state
        is_to_end.set()
        await _wait(task, answers, 2, _SECONDS_TO_SHUT_DOWN)
        await _wait(task, answers, 3, _SECONDS_TO_END)
    finally:
        await task.abandon()


async def _wait(task: _tasks.AppTask, answers: list[Any], count: int, seconds: float) -> None:
    """Wait for so many answers, or for the end of the app."""
    until = task.now() + seconds
    while task.ended is None and len(answers) < count and task.now() < until:
        await task.wait(until - task.now())
