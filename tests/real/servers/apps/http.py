"""The probes over HTTP."""

from __future__ import annotations

import time

import anyio

from disconnect_mw import ClientDisconnected

from ..play import Stage
from .probes import PATIENCE, probe, start_waiting, together
from .steps import Flood, begin, chunk, disconnected, final, floods, peek, receives_nothing, start

SENDS = 20
"""How many messages an app sends that ignores the disconnect."""


async def aftermath(stage: Stage) -> None:
    """Do what an app may do once it knows of the disconnect."""
    await stage.receive()
    await together(stage.receive, stage.receive)
    await peek(stage)
    await chunk(stage)
    await final(stage)
    await final(stage)
    await stage.receive()


def is_raising(version: str | None) -> bool:
    return tuple(map(int, (version or "2.0").split("."))) >= (2, 4)


@probe
async def listen(stage: Stage) -> None:
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)
    await aftermath(stage)


@probe
async def before_start(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("reading")
    await disconnected(stage)
    # Under `mute` a server that states 2.4 keeps it once something has been received (P4).
    raises = "raise" in stage.play.variant or is_raising(stage.play.stated)
    stated = stage.scope["asgi"].get("spec_version")
    stage.play.line("the right spec_version" if is_raising(stated) == raises else f"THE WRONG spec_version {stated}")
    await start(stage)
    await aftermath(stage)


@probe
async def send_only(stage: Stage) -> None:
    await begin(stage)
    stage.play.ready("streaming")
    await stage.play.cue("gone")
    for _ in range(SENDS):
        try:
            await stage.raw_send({"type": "http.response.body", "body": b"chunk", "more_body": True})
        except ClientDisconnected:  # policy "raise", on a server whose send reports the disconnect
            break
    await disconnected(stage)
    await aftermath(stage)


@probe
async def never_receives(stage: Stage) -> None:
    await start(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await stage.play.cue("gone")
    for _ in range(SENDS):
        await chunk(stage)
    await final(stage)


@probe
async def reads_late(stage: Stage) -> None:
    stage.play.ready("waiting")
    await stage.play.cue("gone")
    await disconnected(stage)
    await start(stage)
    await aftermath(stage)


@probe
async def upload(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("uploading")
    await disconnected(stage)
    await start(stage)
    await aftermath(stage)


@probe
async def answers_during_upload(stage: Stage) -> None:
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)
    await aftermath(stage)


@probe
async def two_readers(stage: Stage) -> None:
    await begin(stage)
    async with anyio.create_task_group() as tasks:
        await start_waiting(tasks, stage.receive)
        await start_waiting(tasks, stage.receive)
        stage.play.ready("streaming")
    await aftermath(stage)


@probe
async def cancelled_reader(stage: Stage) -> None:
    await begin(stage)
    scope, cancelled = anyio.CancelScope(), anyio.Event()

    async def first() -> None:
        with scope:
            await stage.receive()
        cancelled.set()

    async with anyio.create_task_group() as tasks:
        await start_waiting(tasks, first)
        await start_waiting(tasks, stage.receive)
        scope.cancel()
        await cancelled.wait()
        stage.play.ready("streaming")
    await aftermath(stage)


@probe
async def peeks(stage: Stage) -> None:
    await stage.receive()
    await peek(stage)
    await start(stage)
    await peek(stage)
    await chunk(stage)
    stage.play.ready("streaming")
    await stage.play.cue("gone")
    await peek(stage)
    await aftermath(stage)


@probe
async def blocked_send(stage: Stage) -> None:
    await stage.receive()
    await start(stage)
    await floods(stage, False, type="http.response.body", body=bytes(262144), more_body=True)
    await aftermath(stage)


@probe
async def blocked_send_heard(stage: Stage) -> None:
    await stage.receive()
    await start(stage)
    await floods(stage, True, type="http.response.body", body=bytes(262144), more_body=True)
    await aftermath(stage)


@probe
async def blocked_send_alone(stage: Stage) -> None:
    """No task receives while the send is blocked."""
    await stage.receive()
    await start(stage)
    flood = Flood(stage, type="http.response.body", body=bytes(262144), more_body=True)
    async with anyio.create_task_group() as tasks:
        await start_waiting(tasks, flood.run)
        await flood.is_blocked()
        stage.play.ready("blocked")
    await disconnected(stage)
    stage.play.line("the blocked send came back")
    await aftermath(stage)


@probe
async def tight_loop(stage: Stage) -> None:
    """Awaits nothing but its sends. The event loop must go on running other tasks."""
    await begin(stage)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await anyio.sleep(0.001)
            beats += 1

    async with anyio.create_task_group() as tasks:
        await start_waiting(tasks, beat)
        stage.play.ready("streaming")
        await stage.receive()
        before, deadline = beats, time.monotonic() + PATIENCE
        while beats < before + 50 and time.monotonic() < deadline:
            await stage.raw_send({"type": "http.response.body", "body": b"x", "more_body": True})
        stage.play.line("the heart beats" if beats >= before + 50 else f"STARVED: {beats - before} beats")
        tasks.cancel_scope.cancel()


@probe
async def returns_early(stage: Stage) -> None:
    await stage.receive()
    stage.play.ready("reading")
    await disconnected(stage)


@probe
async def lets_out(stage: Stage) -> None:
    """Sends once more, and lets out what that raises."""
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)
    await stage.send("http.response.body", body=b"chunk", more_body=True)


@probe
async def lets_a_group_out(stage: Stage) -> None:
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)

    async def send() -> None:
        await stage.send("http.response.body", body=b"chunk", more_body=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)


@probe
async def stays(stage: Stage) -> None:
    """The client stays: its upload is answered in two parts."""
    body = b""
    while True:
        message = await stage.raw_receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    length = [(b"content-length", str(2 * len(body)).encode())]
    await stage.send("http.response.start", status=200, headers=length)
    await stage.send("http.response.body", body=body, more_body=True)
    await stage.send("http.response.body", body=body)


@probe
async def is_not_gone(stage: Stage) -> None:
    """The client stays: receives that were cancelled must not cause a disconnect later."""
    await stage.receive()
    for _ in range(2):
        await peek(stage)
        await receives_nothing(stage, 0.01)
    await stage.send("http.response.start", status=200, headers=[(b"content-length", b"15")])
    await peek(stage)
    await chunk(stage)
    await receives_nothing(stage, 0.01)
    await chunk(stage)
    await peek(stage)
    await final(stage)


@probe
async def upload_in_time(stage: Stage) -> None:
    """Receives that are cancelled between the parts of an upload lose none of them."""
    size = 0
    while size < 1000:
        size += len((await stage.raw_receive())["body"])
    await receives_nothing(stage, 0.01)
    await peek(stage)
    stage.play.ready("uploading")
    while True:
        message = await stage.raw_receive()
        size += len(message["body"])
        if not message["more_body"]:
            break
    await stage.send("http.response.start", status=200, headers=[])
    await stage.send("http.response.body", body=b"%d bytes" % size)


@probe
async def after_its_end(stage: Stage) -> None:
    """A disconnect after the whole response is the normal end: the client is still there."""
    await stage.receive()
    length = [(b"content-length", b"5")]
    await stage.send("http.response.start", status=200, headers=length)
    await stage.send("http.response.body", body=b"final")
    for _ in range(2):
        with anyio.move_on_after(0.1) as scope:
            stage.play.line(f"after the end: {(await stage.raw_receive())['type']}")
        if scope.cancelled_caught:
            stage.play.line("after the end: nothing")


@probe
async def lives_on(stage: Stage) -> None:
    """One stream of a connection on which another is reset."""
    await stage.raw_receive()
    await stage.raw_send({"type": "http.response.start", "status": 200, "headers": []})
    await stage.raw_send({"type": "http.response.body", "body": b"half", "more_body": True})
    await stage.play.cue("gone")
    await stage.raw_send({"type": "http.response.body", "body": b"whole"})


@probe
async def goes_on_for_long(stage: Stage) -> None:
    """Goes on until the server cancels it."""
    await begin(stage)
    stage.play.ready("streaming")
    await disconnected(stage)
    try:
        await anyio.sleep(5)
    except BaseException:
        stage.play.line("cancelled")
        raise
    stage.play.line("NOT CANCELLED")


async def answer(stage: Stage, length: bytes, *bodies: bytes) -> None:
    """Make a mistake: the messages must reach the server, and its complaint the app."""
    await stage.raw_receive()
    try:
        if length:
            await stage.raw_send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
            )
        for body in bodies:
            await stage.raw_send({"type": "http.response.body", "body": body})
    except Exception as exception:
        if not type(exception).__module__.startswith("disconnect_mw"):
            stage.play.line("the server complains")
        raise


@probe
async def sends_after_its_end(stage: Stage) -> None:
    await answer(stage, b"5", b"final", b"and more")


@probe
async def sends_before_its_start(stage: Stage) -> None:
    await answer(stage, b"", b"final")


@probe
async def sends_too_much(stage: Stage) -> None:
    await answer(stage, b"3", b"final")
