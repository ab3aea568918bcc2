"""The probes over HTTP, under options that act on the disconnect."""

from __future__ import annotations

import contextlib
import time

import anyio
import anyio.to_thread

from disconnect_mw import ClientDisconnected, connection

from ..play import Stage
from .probes import GRACE, PATIENCE, SECONDS_TO_END, probe, record_text, together
from .steps import (
    begin,
    chunk,
    commit,
    disconnected,
    final,
    has_gone,
    is_cancelled,
    is_in_time,
    note_disconnect,
    pause,
    sends_for_long,
    start,
)


@probe
async def waits(stage: Stage) -> None:
    """Neither receives nor sends."""
    stage.play.ready("waiting")
    await is_cancelled(stage.play, pause, lambda: start(stage), lambda: final(stage))


@probe
async def streams(stage: Stage) -> None:
    """Never receives."""
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await is_cancelled(stage.play, lambda: sends_for_long(stage), lambda: final(stage))


@probe
async def streams_and_listens(stage: Stage) -> None:
    """One task streams and one receives, which may get the disconnect or be cancelled first."""
    await begin(stage)
    stage.play.ready("streaming")

    async def listen() -> None:
        await stage.raw_receive()
        await pause()

    await is_cancelled(stage.play, lambda: together(listen, lambda: sends_for_long(stage)), lambda: final(stage))


@probe
async def works(stage: Stage) -> None:
    """Works on an upload that it has read to its end."""
    size, more = 0, True
    while more:
        message = await stage.raw_receive()
        size += len(message["body"])
        more = message["more_body"]
    stage.play.line(f"{size} bytes")
    stage.play.ready("working")
    await is_cancelled(stage.play, pause, lambda: start(stage), lambda: final(stage))


@probe
async def reads_and_waits(stage: Stage) -> None:
    """Receives the disconnect itself, and takes its time to end."""
    await stage.receive()
    stage.play.ready("uploading")
    await disconnected(stage)
    await anyio.sleep(SECONDS_TO_END)
    await start(stage)
    await final(stage)


@probe
async def works_after_its_end(stage: Stage) -> None:
    """Goes on after its complete response, and is not cancelled."""
    await stage.send("http.response.start", status=200, headers=[(b"content-length", b"5")])
    await final(stage)
    await anyio.sleep(0.3)
    stage.play.line("the work is done")


@probe
async def goes_on(stage: Stage) -> None:
    """Goes on until the grace is over."""
    client, began = connection(stage.scope), time.monotonic()
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await has_gone(client)
    stage.play.known = True
    await chunk(stage)
    await is_cancelled(stage.play, pause, lambda: is_in_time(stage, client, began), lambda: final(stage))


@probe
async def finishes(stage: Stage) -> None:
    """Completes its response before the grace is over, then goes on, and is not cancelled."""
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)
    await chunk(stage)
    await final(stage)
    await anyio.sleep(GRACE + 0.1)
    stage.play.line("the work is done")


@probe
async def commits(stage: Stage) -> None:
    stage.play.ready("waiting")
    await is_cancelled(stage.play, lambda: commit(stage))


@probe
async def sends_until_told(stage: Stage) -> None:
    """Never receives, and stops when its send raises."""
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    with contextlib.suppress(ClientDisconnected):
        await sends_for_long(stage)
        stage.play.line("SILENCE")
    stage.play.known = True
    await chunk(stage)
    await final(stage)
    await stage.receive()


@probe
async def sends_until_it_ends(stage: Stage) -> None:
    """Never receives, and lets out what its send raises."""
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await sends_for_long(stage)
    stage.play.line("SILENCE")


@probe
async def asks(stage: Stage) -> None:
    """Asks whether its client is there, and does not receive until that has left."""
    client = connection(stage.scope)
    stage.play.line(f"connected: {client.connected}, {client.disconnect}")
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await has_gone(client)
    await note_disconnect(stage, client)
    await chunk(stage)
    await final(stage)


@probe
async def waits_for_it(stage: Stage) -> None:
    """Awaits `wait_disconnected` before its response."""
    stage.play.ready("waiting")
    await note_disconnect(stage, connection(stage.scope))


@probe
async def waits_in_upload(stage: Stage) -> None:
    """Awaits `wait_disconnected` while another task reads the upload."""
    await stage.receive()
    stage.play.ready("uploading")

    async def read() -> None:
        while (await stage.raw_receive())["type"] != "http.disconnect":
            pass

    await together(read, lambda: note_disconnect(stage, connection(stage.scope)))


@probe
async def asks_from_thread(stage: Stage) -> None:
    client = connection(stage.scope)
    stage.play.ready("waiting")

    def ask() -> str:
        deadline = time.monotonic() + PATIENCE
        while client.connected and time.monotonic() < deadline:
            time.sleep(0.01)
        return f"in a thread: {client.disconnect and record_text(client.disconnect)}"

    answer = await anyio.to_thread.run_sync(ask)
    stage.play.known = True
    stage.play.line(answer)
    await start(stage)
    await final(stage)


@probe
async def asks_of_one_that_stays(stage: Stage) -> None:
    """Stays long enough for a check of the middleware."""
    client = connection(stage.scope)
    for _ in range(3):
        stage.play.line(f"connected: {client.connected}, {client.disconnect}")
        with anyio.move_on_after(0.04):
            stage.play.line(f"OUT OF THE BLUE: {await client.wait_disconnected()}")
    await stage.receive()
    await stage.send("http.response.start", status=200, headers=[(b"content-length", b"10")])
    await anyio.sleep(0.01)
    await chunk(stage)
    await final(stage)
    stage.play.line(f"connected: {client.connected}, {client.disconnect}")


@probe
async def sets_its_policy(stage: Stage) -> None:
    stage.play.ready("waiting")
    client = connection(stage.scope)
    client.policy = "cancel"
    await is_cancelled(stage.play, pause, lambda: start(stage), lambda: final(stage))
