"""The steps that probes have in common."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio

from disconnect_mw import ClientConnection, ClientDisconnected, connection

from ..play import Play, Stage, named
from .probes import GRACE, PATIENCE, record_text, start_waiting


async def start(stage: Stage) -> None:
    await stage.try_send("http.response.start", status=200, headers=[])


async def chunk(stage: Stage, body: bytes = b"chunk") -> bool:
    return await stage.try_send("http.response.body", body=body, more_body=True)


async def final(stage: Stage) -> None:
    await stage.try_send("http.response.body", body=b"final")


async def begin(stage: Stage) -> None:
    """Read the request, send the start and a chunk."""
    await stage.receive()
    await start(stage)
    await chunk(stage)


async def disconnected(stage: Stage) -> None:
    while not stage.play.known:
        await stage.receive()


async def peek(stage: Stage) -> None:
    """Receive as Starlette's `request.is_disconnected()` does."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stage.receive()
        return
    stage.play.line("peek: nothing")


class Flood:
    """Sends without end; blocks where the client does not read, if the server has flow control."""

    ENOUGH = 64

    def __init__(self, stage: Stage, **message: Any) -> None:
        self._stage = stage
        self._message = message
        self._sent = 0

    async def run(self) -> None:
        play = self._stage.play
        try:
            while not play.known and self._sent < self.ENOUGH:
                await self._stage.raw_send({**self._message})
                self._sent += 1
                await anyio.sleep(0)  # uvicorn's send alone gives no other task a turn
        except ClientDisconnected:
            # Under "raise" a send that was under way when the client left may return or raise.
            if play.variant != "raise":
                play.line("the blocked send: raises ClientDisconnected")
        except Exception as exception:
            play.line(f"the blocked send: raises {named(exception)}")

    async def is_blocked(self) -> None:
        """Wait until no send has returned for a while: the last one is blocked."""
        before = -1
        while before != self._sent:
            before = self._sent
            await anyio.sleep(0.1)


async def floods(stage: Stage, listens_before: bool, **message: Any) -> None:
    async def listen() -> None:
        await disconnected(stage)

    flood = Flood(stage, **message)
    async with anyio.create_task_group() as tasks:
        if listens_before:
            await start_waiting(tasks, listen)
        await start_waiting(tasks, flood.run)
        await flood.is_blocked()
        stage.play.ready("blocked")
        if not listens_before:
            await listen()
    stage.play.known = True
    stage.play.line("the blocked send came back")


async def receives_nothing(stage: Stage, seconds: float) -> None:
    """Receive under a time-out, which ends it while the client stays."""
    with anyio.move_on_after(seconds):
        message = await stage.raw_receive()
        stage.play.line(f"OUT OF THE BLUE: {message['type']}")


async def greet(stage: Stage) -> None:
    await stage.receive()
    await stage.try_send("websocket.accept")
    await stage.try_send("websocket.send", text="hello")


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """Let a cancelled app await. asyncio cancels once; trio cancels at each checkpoint, so it needs a shield."""
    cancels_once = anyio.get_cancelled_exc_class() is asyncio.CancelledError
    with contextlib.nullcontext() if cancels_once else anyio.CancelScope(shield=True):
        yield


async def is_cancelled(play: Play, work: Callable[[], Awaitable[Any]], *last: Callable[[], Awaitable[Any]]) -> None:
    """Do `work`, which only a cancellation ends; then clean up, and call each of `last`, whose sends are muted."""
    try:
        await work()
        play.line("NOT CANCELLED")
    except anyio.get_cancelled_exc_class():
        play.known = True
        play.line("cancelled")
        raise
    finally:
        with cleaning_up():
            await anyio.sleep(0.01)
            for function in last:
                await function()
            play.line("cleaned up")


async def pause() -> None:
    await anyio.sleep(PATIENCE)


async def has_gone(client: ClientConnection) -> None:
    deadline = time.monotonic() + PATIENCE
    while client.connected and time.monotonic() < deadline:
        await anyio.sleep(0.01)


async def sends_for_long(stage: Stage, **message: Any) -> None:
    """Send for `PATIENCE` seconds, or until that raises."""
    message = message or {"type": "http.response.body", "body": b"chunk", "more_body": True}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        await stage.raw_send({**message})
        await anyio.sleep(0.01)


async def is_in_time(stage: Stage, client: ClientConnection, began: float) -> None:
    """Note whether the grace has passed since the disconnect. The exchange began slightly before `began`."""
    assert client.disconnect is not None
    seconds = time.monotonic() - began - client.disconnect.seconds
    stage.play.line("in time" if GRACE - 0.02 < seconds < GRACE + 1 else f"AFTER {seconds:.3f} s")


async def commit(stage: Stage) -> None:
    """Do work that must not be cut short."""
    client = connection(stage.scope)
    async with client.shield():
        await has_gone(client)
        await anyio.sleep(0.05)
        stage.play.known = True
        stage.play.line(f"committed, connected: {client.connected}")
    stage.play.line("NOT CANCELLED AT THE END OF THE BLOCK")


async def note_disconnect(stage: Stage, client: ClientConnection) -> None:
    """Wait for the disconnect, and note its record."""
    known = None
    with anyio.move_on_after(PATIENCE):
        known = await client.wait_disconnected()
    await anyio.sleep(0.05)  # by then the hook, which may be a task, has been called
    stage.play.known = True
    stage.play.line(f"connected: {client.connected}, gone: {known and record_text(known)}")
    if known is not client.disconnect:
        stage.play.line(f"ANOTHER RECORD: {client.disconnect}")
    await stage.receive()
