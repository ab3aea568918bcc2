"""The apps that the server plays: raw probes and Starlette's, each behind `DisconnectMiddleware`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from disconnect_mw import (
    CancelOnDisconnect,
    ClientConnection,
    ClientDisconnected,
    Disconnect,
    DisconnectMiddleware,
    connection,
)

from .play import Play, Stage, emit, named

SENDS = 20
"""How many messages an app sends that does not care."""

PATIENCE = 2.0
"""Seconds for which an app goes on that waits for its `send` to raise."""

GRACE = 0.2
"""Seconds for which an app may go on under the options named `grace`."""

Probe = Callable[[Stage], Awaitable[None]]

APPS: dict[tuple[str, str], Any] = {}
"""Every app by name and variant: options of ours, or where what stands; "bare" is without our middleware."""


# What hooks add to the transcript. That one is called at all is told by the path.


def hook(disconnect: Disconnect) -> None:
    emit(run=disconnect.path.rpartition("/")[2], line=f"hook: {told(disconnect)}", known=True)


def told(disconnect: Disconnect) -> str:
    """All of the record, as far as it is the same everywhere."""
    path = disconnect.path.rpartition("/")[0]
    peer = None if disconnect.peer is None else disconnect.peer[0]
    code = "a code" if isinstance(disconnect.code, int) else disconnect.code
    is_plausible = 0 < disconnect.seconds < PATIENCE
    return (
        f"{disconnect.protocol} {disconnect.method} {path} from {peer}, {disconnect.phase}, {code}, "
        f"after {'some' if is_plausible else disconnect.seconds} time"
    )


async def async_hook(disconnect: Disconnect) -> None:
    hook(disconnect)
    await anyio.sleep(0.01)
    emit(run=disconnect.path.rpartition("/")[2], line="the hook has ended", known=True)


def raising_hook(disconnect: Disconnect) -> None:
    hook(disconnect)
    raise ValueError("a bug of the hook's own")


async def raising_async_hook(disconnect: Disconnect) -> None:
    await async_hook(disconnect)
    raise ValueError("a bug of the hook's own")


def cancels_what_waits(scope: Any) -> Any:
    return "cancel" if scope["path"].startswith("/waits/") else None


OPTIONS: dict[str, dict[str, Any]] = {
    "mute": {"policy": "mute", "websocket_policy": "mute"},
    "raise": {"policy": "raise", "websocket_policy": "raise"},
    "cancel": {"policy": "cancel", "websocket_policy": "cancel"},
    "grace": {"policy": "mute", "websocket_policy": "mute", "grace": GRACE},
    "cancel-grace": {"policy": "cancel", "websocket_policy": "cancel", "grace": GRACE},
    "hook": {"on_disconnect": hook},
    "async-hook": {"on_disconnect": async_hook},
    "raising-hook": {"on_disconnect": raising_hook},
    "raising-async-hook": {"on_disconnect": raising_async_hook},
    "policy-for": {"policy_for": cancels_what_waits},
}


def probe(run: Probe) -> Probe:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await run(Stage(scope, receive, send))

    for variant, options in OPTIONS.items():
        APPS[run.__name__, variant] = DisconnectMiddleware(app, **options)
    APPS[run.__name__, "bare"] = app
    return run


async def together(*functions: Callable[[], Awaitable[Any]]) -> None:
    async with anyio.create_task_group() as tasks:
        for function in functions:
            tasks.start_soon(_awaited, function)


async def _awaited(function: Callable[[], Awaitable[Any]]) -> None:
    await function()


async def begun(tasks: TaskGroup, function: Callable[[], Awaitable[Any]]) -> None:
    """Start `function` in a task of its own, and come back when it waits for something."""
    starting = anyio.Event()

    async def run() -> None:
        starting.set()
        await function()

    tasks.start_soon(run)
    await starting.wait()


# HTTP


async def start(stage: Stage) -> None:
    await stage.try_send("http.response.start", status=200, headers=[])


async def chunk(stage: Stage, body: bytes = b"chunk") -> bool:
    return await stage.try_send("http.response.body", body=body, more_body=True)


async def final(stage: Stage) -> None:
    await stage.try_send("http.response.body", body=b"final")


async def begin(stage: Stage) -> None:
    """Read the request, answer the start and a chunk."""
    await stage.receive()
    await start(stage)
    await chunk(stage)


async def disconnected(stage: Stage) -> None:
    while not stage.play.known:
        await stage.receive()


async def peek(stage: Stage) -> None:
    """What Starlette's `request.is_disconnected()` does."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stage.receive()
        return
    stage.play.line("peek: nothing")


async def aftermath(stage: Stage) -> None:
    """All that an app may try once it knows."""
    await stage.receive()
    await together(stage.receive, stage.receive)
    await peek(stage)
    await chunk(stage)
    await final(stage)
    await final(stage)
    await stage.receive()


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
    version = stage.scope["asgi"].get("spec_version", "2.0")
    stage.play.line(f"spec_version at least 2.4: {tuple(map(int, version.split('.'))) >= (2, 4)}")
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
        except ClientDisconnected:  # policy "raise", where the server itself tells it to the sender
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
        await begun(tasks, stage.receive)
        await begun(tasks, stage.receive)
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
        await begun(tasks, first)
        await begun(tasks, stage.receive)
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


class Flood:
    """Sends without end; it blocks where the client reads nothing, unless the server takes all of it."""

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
                await anyio.sleep(0)  # uvicorn's send alone gives nobody else a turn
        except ClientDisconnected:
            # Under "raise" a send that was on its way when the client left may come back either way.
            if play.variant != "raise":
                play.line("the blocked send: raises ClientDisconnected")
        except Exception as exception:
            play.line(f"the blocked send: raises {named(exception)}")

    async def is_blocked(self) -> None:
        """Come back when no send has returned for a while: the last one is blocked."""
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
            await begun(tasks, listen)
        await begun(tasks, flood.run)
        await flood.is_blocked()
        stage.play.ready("blocked")
        if not listens_before:
            await listen()
    stage.play.known = True
    stage.play.line("the blocked send came back")


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
    """Nobody listens."""
    await stage.receive()
    await start(stage)
    flood = Flood(stage, type="http.response.body", body=bytes(262144), more_body=True)
    async with anyio.create_task_group() as tasks:
        await begun(tasks, flood.run)
        await flood.is_blocked()
        stage.play.ready("blocked")
    await disconnected(stage)
    stage.play.line("the blocked send came back")
    await aftermath(stage)


@probe
async def tight_loop(stage: Stage) -> None:
    """Sends without ever waiting for anything else. The loop must go on turning."""
    await begin(stage)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await anyio.sleep(0.001)
            beats += 1

    async with anyio.create_task_group() as tasks:
        await begun(tasks, beat)
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
    """Sends once more and leaves what that may raise to others."""
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


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def bug_value() -> None:
    raise ValueError("a bug of the app's own")


async def bug_file() -> None:
    Path("/nowhere/no-such-file").read_bytes()


async def bug_outbound() -> None:
    socket.create_connection(("127.0.0.1", free_port()))


async def bug_timeout() -> None:
    raise TimeoutError("the app's database did not answer")


def install_bugs() -> None:
    for bug in (bug_value, bug_file, bug_outbound, bug_timeout):

        async def http(stage: Stage, bug: Callable[[], Awaitable[None]] = bug) -> None:
            await begin(stage)
            stage.play.ready("streaming")
            await disconnected(stage)
            await bug()

        async def websocket(stage: Stage, bug: Callable[[], Awaitable[None]] = bug) -> None:
            await greet(stage)
            stage.play.ready("open")
            await disconnected(stage)
            await bug()

        http.__name__ = bug.__name__
        websocket.__name__ = f"ws_{bug.__name__}"
        probe(http)
        probe(websocket)


@probe
async def stays(stage: Stage) -> None:
    """The client stays: an upload, answered in two parts, and a disconnect as the normal end."""
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


async def receives_nothing(stage: Stage, seconds: float) -> None:
    """A receive under a time-out, cancelled while the client stays."""
    with anyio.move_on_after(seconds):
        message = await stage.raw_receive()
        stage.play.line(f"OUT OF THE BLUE: {message['type']}")


@probe
async def is_not_gone(stage: Stage) -> None:
    """The client stays; those who asked after it in vain must not be told later that it has gone."""
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
    """Receives that are cancelled between the parts of an upload lose nothing."""
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
    """A disconnect that comes after the whole response is the normal end, and the client is still there."""
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
    """Another stream of a connection on which one was reset."""
    await stage.raw_receive()
    await stage.raw_send({"type": "http.response.start", "status": 200, "headers": []})
    await stage.raw_send({"type": "http.response.body", "body": b"half", "more_body": True})
    await stage.play.cue("gone")
    await stage.raw_send({"type": "http.response.body", "body": b"whole"})


@probe
async def goes_on_for_long(stage: Stage) -> None:
    """Does not care, until the server cancels it."""
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
    """A mistake of the app's: the server must hear it, and be heard."""
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


# HTTP, under options that act on the departure


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """For what an app that has been cancelled still awaits. asyncio cancels once; trio does at each checkpoint."""
    cancels_once = anyio.get_cancelled_exc_class() is asyncio.CancelledError
    with contextlib.nullcontext() if cancels_once else anyio.CancelScope(shield=True):
        yield


async def is_cancelled(play: Play, work: Callable[[], Awaitable[Any]], *last: Callable[[], Awaitable[Any]]) -> None:
    """Do `work`, which only a cancellation ends; then clean up, and say the `last` of it into the void."""
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


async def sends_for_long(stage: Stage, **message: Any) -> None:
    """Until it raises, as the case may be."""
    message = message or {"type": "http.response.body", "body": b"chunk", "more_body": True}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        await stage.raw_send({**message})
        await anyio.sleep(0.01)


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


async def is_in_time(stage: Stage, client: ClientConnection, began: float) -> None:
    """Has it been the grace since the departure was known? The exchange began before `began`, by a little."""
    assert client.disconnect is not None
    seconds = time.monotonic() - began - client.disconnect.seconds
    stage.play.line("in time" if GRACE - 0.02 < seconds < GRACE + 1 else f"AFTER {seconds:.3f} s")


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


async def commit(stage: Stage) -> None:
    """What must not be done by halves."""
    client = connection(stage.scope)
    async with client.shield():
        await has_gone(client)
        await anyio.sleep(0.05)
        stage.play.known = True
        stage.play.line(f"committed, connected: {client.connected}")
    stage.play.line("NOT CANCELLED AT THE END OF THE BLOCK")


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


async def tells_of(stage: Stage, client: ClientConnection) -> None:
    """Wait for it, and say all that is known of it."""
    known = None
    with anyio.move_on_after(PATIENCE):
        known = await client.wait_disconnected()
    await anyio.sleep(0.05)  # by then the hook, which may be a task, has been called
    stage.play.known = True
    stage.play.line(f"connected: {client.connected}, gone: {known and told(known)}")
    if known is not client.disconnect:
        stage.play.line(f"ANOTHER RECORD: {client.disconnect}")
    await stage.receive()


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


# WebSocket


async def greet(stage: Stage) -> None:
    await stage.receive()
    await stage.try_send("websocket.accept")
    await stage.try_send("websocket.send", text="hello")


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
    """Lets out what its send raises, as a feed does that nobody thought about."""
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
        await begun(tasks, stage.receive)
        await begun(tasks, stage.receive)
        stage.play.ready("open")
    await ws_aftermath(stage)


@probe
async def ws_sends_while_reading(stage: Stage) -> None:
    """One task reads, another sends: both learn."""
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
    """The client stays: an echo, then the app closes; what comes after that is the server's to judge."""
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
    """The client stays; a receive under a time-out must lose none of its messages."""
    await stage.receive()
    await stage.send("websocket.accept")
    await receives_nothing(stage, 0.01)
    await receives_nothing(stage, 0.01)
    await stage.send("websocket.send", text="hello")
    stage.play.ready("open")
    message = await stage.receive()
    await stage.send("websocket.send", text=message["text"])
    await stage.send("websocket.close", code=1000)


# WebSocket, under options that act on the departure


async def again(stage: Stage) -> None:
    await stage.try_send("websocket.send", text="again")


@probe
async def ws_waits(stage: Stage) -> None:
    """Receives nothing more and sends nothing more."""
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
    await greet(stage)
    stage.play.ready("open")

    async def read() -> None:
        await disconnected(stage)
        await pause()

    await is_cancelled(stage.play, read, lambda: again(stage))


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
    await tells_of(stage, connection(stage.scope))
    await again(stage)


install_bugs()


# Starlette


def play_of(request: Request | WebSocket) -> Play:
    play: Play = request.scope["tests.play"]
    return play


def background(play: Play) -> BackgroundTask:
    return BackgroundTask(play.line, "the background task ran")


async def endless(play: Play) -> AsyncGenerator[bytes, None]:
    try:
        play.ready("streaming")
        while True:
            yield b"data: tick\n\n"
            await anyio.sleep(0.01)
    finally:
        play.known = True
        play.line("the generator stopped")


async def stream(request: Request) -> Response:
    play = play_of(request)
    ticks = endless(play)

    async def close() -> None:
        await ticks.aclose()  # else one that is cancelled in a send is there until it is collected
        play.line("the background task ran")

    return StreamingResponse(ticks, background=BackgroundTask(close))


BIG = tempfile.NamedTemporaryFile(prefix="disconnect-mw-", suffix=".bin")  # noqa: SIM115 - it lasts as the server does
BIG.truncate(1 << 26)  # sparse, and more than all the buffers between here and the client


async def file(request: Request) -> Response:
    play = play_of(request)
    play.ready("sending")
    return FileResponse(BIG.name, background=background(play))


async def body(request: Request) -> Response:
    play = play_of(request)
    play.ready("uploading")
    try:
        await request.body()
    except ClientDisconnect:
        play.line("ClientDisconnect")
        raise
    return PlainTextResponse("thanks")


async def polls(request: Request) -> Response:
    play = play_of(request)
    play.line(f"disconnected: {await request.is_disconnected()}")
    play.ready("polling")
    deadline = time.monotonic() + PATIENCE
    while not (seen := await request.is_disconnected()) and time.monotonic() < deadline:
        await anyio.sleep(0.005)
    play.line(f"disconnected: {seen}")
    return PlainTextResponse("nobody there", background=background(play))


async def polls_in_vain(request: Request) -> Response:
    """The client stays."""
    await request.body()
    seen = []
    for _ in range(5):
        seen.append(await request.is_disconnected())
        await anyio.sleep(0.01)
    return JSONResponse(seen)


async def polls_blindly(request: Request) -> Response:
    """Behind a `BaseHTTPMiddleware` the answer is not promised, the silence is."""
    play = play_of(request)
    play.ready("polling")
    await play.cue("gone")
    await request.is_disconnected()
    return PlainTextResponse("nobody there", background=background(play))


async def slow(request: Request) -> Response:
    play = play_of(request)
    play.ready("working")
    await play.cue("gone")
    play.line("the work is done")
    return JSONResponse({"answer": 42}, background=background(play))


async def bug(request: Request) -> Response:
    play = play_of(request)
    play.ready("working")
    await play.cue("gone")
    raise ValueError("a bug of the app's own")


async def missing_file(request: Request) -> Response:
    """What Starlette makes of a file that is not there: a RuntimeError."""
    play = play_of(request)
    play.ready("working")
    await play.cue("gone")
    return FileResponse("/nowhere/no-such-file")


async def stream_to_its_end(request: Request) -> Response:
    """Starlette's listener stops a stream, unless that is shielded."""
    play = play_of(request)

    async def ticks() -> AsyncIterator[bytes]:
        client = connection(request)
        async with client.shield():
            yield b"data: tick\n\n"
            play.ready("streaming")
            await has_gone(client)
            for _ in range(5):
                yield b"data: tick\n\n"
                await anyio.sleep(0.01)
            play.line("the generator has ended")

    return StreamingResponse(ticks(), background=background(play))


async def polls_now_and_then(request: Request) -> Response:
    """As unchanged apps do."""
    play = play_of(request)
    play.line(f"disconnected: {await request.is_disconnected()}")
    play.ready("polling")
    await play.cue("gone")
    peeks = 1
    deadline = time.monotonic() + PATIENCE
    while not (seen := await request.is_disconnected()) and time.monotonic() < deadline:
        peeks += 1
        await anyio.sleep(0.05)
    play.line(f"disconnected: {seen}" if peeks <= 2 else f"disconnected: {seen}, AFTER {peeks} PEEKS")
    return PlainTextResponse("nobody there", background=background(play))


async def stalls(request: Request) -> Response:
    """A stream that has nothing to say just now."""
    play = play_of(request)

    async def tick() -> AsyncIterator[bytes]:
        yield b"data: tick\n\n"
        play.ready("streaming")
        try:
            await pause()
            play.line("NOT CANCELLED")
        finally:
            play.line("the generator stopped")

    return StreamingResponse(tick(), background=background(play))


async def endures(request: Request) -> Response:
    play = play_of(request)
    play.ready("working")
    await is_cancelled(play, pause)
    return PlainTextResponse("nobody there", background=background(play))


async def endures_behind(request: Request) -> Response:
    """The cancellation comes through anyio's task group in a `BaseHTTPMiddleware`, which cancels again and again."""
    play = play_of(request)
    play.ready("working")
    try:
        await pause()
        play.line("NOT CANCELLED")
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
            play.line("cleaned up")
    return PlainTextResponse("nobody there", background=background(play))


async def sets_policy(request: Request) -> Response:
    connection(request).policy = "cancel"
    return await endures(request)


async def sets_policy_behind(request: Request) -> Response:
    connection(request).policy = "cancel"
    return await endures_behind(request)


async def ws_echo(websocket: WebSocket) -> None:
    play = play_of(websocket)
    await websocket.accept()
    await websocket.send_text("hello")
    play.ready("open")
    while True:
        await websocket.send_text(await websocket.receive_text())


async def ws_feed(websocket: WebSocket) -> None:
    play = play_of(websocket)
    await websocket.accept()
    await websocket.send_text("hello")
    play.ready("open")
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            await websocket.send_text("tick")
            await anyio.sleep(0.01)
    except WebSocketDisconnect:
        play.line("WebSocketDisconnect")
        raise
    play.line("SILENCE")


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


ROUTES = [Route(f"/{f.__name__}/{{v}}/{{r}}", f, methods=["GET", "POST"]) for f in (stream, file, body, polls)]
ROUTES += [Route(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (polls_blindly, polls_in_vain, slow, bug, missing_file)]
ROUTES += [Route(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (endures, endures_behind, sets_policy, sets_policy_behind)]
ROUTES += [Route(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (stream_to_its_end, stalls, polls_now_and_then)]
WEBSOCKET_ROUTES = [WebSocketRoute(f"/{f.__name__}/{{v}}/{{r}}", f) for f in (ws_echo, ws_feed)]

# What add_middleware is given, first one innermost.
VARIANTS: dict[str, list[Any]] = {
    "bare": [],
    "alone": [DisconnectMiddleware],
    "outside": [DisconnectMiddleware, PassOn],
    "inside": [PassOn, DisconnectMiddleware],
    "both": [PassOn, DisconnectMiddleware, PassOn, PassOn],
    "around": [PassOn],  # and DisconnectMiddleware around it all
    "nested": [DisconnectMiddleware, PassOn, DisconnectMiddleware],
    "cancel-alone": [CancelOnDisconnect],
    "cancel-outermost": [DisconnectMiddleware, PassOn, CancelOnDisconnect],
    "cancel-innermost": [CancelOnDisconnect, PassOn, DisconnectMiddleware],
    "cancel-behind": [PassOn, PassOn, CancelOnDisconnect],
}

for variant, middleware in VARIANTS.items():
    starlette = Starlette(routes=[*ROUTES, *WEBSOCKET_ROUTES])
    for kind in middleware:
        starlette.add_middleware(kind)
    for route in starlette.routes:
        app = DisconnectMiddleware(starlette) if variant == "around" else starlette
        APPS[route.path.split("/")[1], variant] = app  # type: ignore[attr-defined]  # both kinds have one
