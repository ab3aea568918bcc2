"""The probes over HTTP, under options that act on the departure."""

from __future__ import annotations

import contextlib
import time

import anyio
import anyio.to_thread

from disconnect_mw import ClientDisconnected, connection

from ..play import Stage
from .probes import GRACE, PATIENCE, probe, together, told
from .steps import (
    begin,
    chunk,
    commit,
    disconnected,
    final,
    has_gone,
    is_cancelled,
    is_in_time,
    pause,
    sends_for_long,
    start,
    tells_of,
)


@probe
async def waits(stage: Stage) -> None:
    """Receives nothing and sends nothing."""
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
    """Whether the listener is told or cancelled first is no matter."""
    await begin(stage)
    stage.play.ready("streaming")

    async def listen() -> None:
        await stage.raw_receive()
        await pause()

    await is_cancelled(stage.play, lambda: together(listen, lambda: sends_for_long(stage)), lambda: final(stage))


@probe
async def works(stage: Stage) -> None:
    """On an upload that it has read to its end."""
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
    """Learns it from its own receive, and goes on."""
    await stage.receive()
    stage.play.ready("uploading")

    async def read() -> None:
        await disconnected(stage)
        await pause()

    await is_cancelled(stage.play, read, lambda: start(stage), lambda: final(stage))


@probe
async def works_after_its_end(stage: Stage) -> None:
    """The response is complete: what is left to do is done."""
    await stage.send("http.response.start", status=200, headers=[(b"content-length", b"5")])
    await final(stage)
    await anyio.sleep(0.3)
    stage.play.line("the work is done")


@probe
async def goes_on(stage: Stage) -> None:
    """For as long as the grace."""
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
    """Before the grace is over; what is left to do after that is done."""
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
    """The same, without a thought."""
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await sends_for_long(stage)
    stage.play.line("SILENCE")


@probe
async def asks(stage: Stage) -> None:
    """Whether its client is there, and never receives until that has gone."""
    client = connection(stage.scope)
    stage.play.line(f"connected: {client.connected}, {client.disconnect}")
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await has_gone(client)
    await tells_of(stage, client)
    await chunk(stage)
    await final(stage)


@probe
async def waits_for_it(stage: Stage) -> None:
    """By the signal, before it says anything."""
    stage.play.ready("waiting")
    await tells_of(stage, connection(stage.scope))


@probe
async def waits_in_upload(stage: Stage) -> None:
    """By the signal, while a task reads."""
    await stage.receive()
    stage.play.ready("uploading")

    async def read() -> None:
        while (await stage.raw_receive())["type"] != "http.disconnect":
            pass

    await together(read, lambda: tells_of(stage, connection(stage.scope)))


@probe
async def asks_from_thread(stage: Stage) -> None:
    client = connection(stage.scope)
    stage.play.ready("waiting")

    def ask() -> str:
        deadline = time.monotonic() + PATIENCE
        while client.connected and time.monotonic() < deadline:
            time.sleep(0.01)
        return f"in a thread: {client.disconnect and told(client.disconnect)}"

    answer = await anyio.to_thread.run_sync(ask)
    stage.play.known = True
    stage.play.line(answer)
    await start(stage)
    await final(stage)


@probe
async def asks_of_one_that_stays(stage: Stage) -> None:
    """Long enough for somebody to have looked."""
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
