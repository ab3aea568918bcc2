"""The probes on a WebSocket."""

from __future__ import annotations

import contextlib
import time

import anyio

from disconnect_mw import ClientDisconnected, connection

from ..play import Stage
from .probes import PATIENCE, SECONDS_TO_END, probe, start_waiting, together
from .steps import (
    commit,
    disconnected,
    floods,
    greet,
    is_cancelled,
    is_in_time,
    note_disconnect,
    pause,
    peek,
    receives_nothing,
    sends_for_long,
)


async def ws_aftermath(stage: Stage) -> None:
    await stage.receive()
    await together(stage.receive, stage.receive)
    await peek(stage)
    await stage.try_send("websocket.send", text="again")
    await stage.try_send("websocket.send", bytes=b"again")
    await stage.try_send("websocket.close")
    await stage.try_send("websocket.close", code=1011)
    await stage.receive()


async def sends_until_it_raises(stage: Stage) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            await stage.raw_send({"type": "websocket.send", "text": "tick"})
        except Exception:
            break
        await anyio.sleep(0.01)
    else:
        return
    await stage.try_send("websocket.send", text="tick")


@probe
async def ws_listen(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await disconnected(stage)
    await ws_aftermath(stage)


@probe
async def ws_send_only(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await stage.play.cue("gone")
    await sends_until_it_raises(stage)
    await stage.receive()
    await ws_aftermath(stage)


@probe
async def ws_only_ever_sends(stage: Stage) -> None:
    """Only sends, and lets out what that raises."""
    await greet(stage)
    stage.play.ready("open")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        await stage.raw_send({"type": "websocket.send", "text": "tick"})
        await anyio.sleep(0.01)
    stage.play.line("SILENCE")


@probe
async def ws_queued(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await stage.play.cue("gone")
    await disconnected(stage)
    await ws_aftermath(stage)


@probe
async def ws_two_readers(stage: Stage) -> None:
    await greet(stage)
    async with anyio.create_task_group() as tasks:
        await start_waiting(tasks, stage.receive)
        await start_waiting(tasks, stage.receive)
        stage.play.ready("open")
    await ws_aftermath(stage)


@probe
async def ws_sends_while_reading(stage: Stage) -> None:
    """One task receives, another sends: both learn of the disconnect."""
    await greet(stage)
    stage.play.ready("open")

    async def sender() -> None:
        while not stage.play.known:
            try:
                await stage.raw_send({"type": "websocket.send", "text": "tick"})
            except Exception:
                break
            await anyio.sleep(0.01)

    await together(stage.receive, sender)
    await ws_aftermath(stage)


@probe
async def ws_blocked_send(stage: Stage) -> None:
    await greet(stage)
    await floods(stage, False, type="websocket.send", bytes=bytes(262144))
    await ws_aftermath(stage)


@probe
async def ws_blocked_send_heard(stage: Stage) -> None:
    await greet(stage)
    await floods(stage, True, type="websocket.send", bytes=bytes(262144))
    await ws_aftermath(stage)


@probe
async def ws_before_accept(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("asked")
    await disconnected(stage)
    await stage.try_send("websocket.accept")
    await ws_aftermath(stage)


@probe
async def ws_accepts_late(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("asked")
    await stage.play.cue("gone")
    with contextlib.suppress(ClientDisconnected):  # some servers know at once, others at the next send
        await stage.raw_send({"type": "websocket.accept"})
    await sends_until_it_raises(stage)
    await stage.receive()
    await ws_aftermath(stage)


@probe
async def ws_returns_before_accept(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("asked")
    await disconnected(stage)


@probe
async def ws_closes_before_accept(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("asked")
    await disconnected(stage)
    await stage.send("websocket.close")


@probe
async def ws_returns(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await disconnected(stage)


@probe
async def ws_lets_out(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await disconnected(stage)
    await stage.send("websocket.send", text="again")


@probe
async def ws_stays(stage: Stage) -> None:
    """The client stays: an echo, then the app closes, then it sends once more, which is for the server to refuse."""
    await stage.receive()
    await stage.send("websocket.accept")
    message = await stage.receive()
    await stage.send("websocket.send", text=message["text"])
    await stage.send("websocket.close", code=1000)
    try:
        await stage.raw_send({"type": "websocket.send", "text": "too late"})
    except Exception as exception:
        ours = type(exception).__module__.startswith("disconnect_mw")
        stage.play.line("too late: raises OURS" if ours else "too late: the server complains")
        return
    stage.play.line("too late: NO COMPLAINT")


@probe
async def ws_goes_on_for_long(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await disconnected(stage)
    try:
        await anyio.sleep(5)
    except BaseException:
        stage.play.line("cancelled")
        raise
    stage.play.line("NOT CANCELLED")


@probe
async def ws_is_not_gone(stage: Stage) -> None:
    """The client stays: receives under a time-out must lose none of its messages."""
    await stage.receive()
    await stage.send("websocket.accept")
    await receives_nothing(stage, 0.01)
    await receives_nothing(stage, 0.01)
    await stage.send("websocket.send", text="hello")
    stage.play.ready("open")
    message = await stage.receive()
    await stage.send("websocket.send", text=message["text"])
    await stage.send("websocket.close", code=1000)


# Under options that act on the disconnect


async def again(stage: Stage) -> None:
    await stage.try_send("websocket.send", text="again")


@probe
async def ws_waits(stage: Stage) -> None:
    """Neither receives nor sends any more."""
    await greet(stage)
    stage.play.ready("open")
    await is_cancelled(stage.play, pause, lambda: again(stage))


@probe
async def ws_ticks(stage: Stage) -> None:
    """Only sends."""
    await greet(stage)
    stage.play.ready("open")
    await is_cancelled(
        stage.play, lambda: sends_for_long(stage, type="websocket.send", text="tick"), lambda: again(stage)
    )


@probe
async def ws_reads_and_waits(stage: Stage) -> None:
    """Receives the disconnect itself, and takes its time to end."""
    await greet(stage)
    stage.play.ready("open")
    await disconnected(stage)
    await anyio.sleep(SECONDS_TO_END)
    await again(stage)


@probe
async def ws_commits(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await is_cancelled(stage.play, lambda: commit(stage))


@probe
async def ws_goes_on(stage: Stage) -> None:
    client, began = connection(stage.scope), time.monotonic()
    await greet(stage)
    stage.play.ready("open")
    await is_cancelled(stage.play, pause, lambda: is_in_time(stage, client, began), lambda: again(stage))


@probe
async def ws_waits_for_it(stage: Stage) -> None:
    await greet(stage)
    stage.play.ready("open")
    await note_disconnect(stage, connection(stage.scope))
    await again(stage)
