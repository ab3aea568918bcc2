"""One visit of a client to an application: the exchange is played to its end, and written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from .._middleware import ASGIApp, single_callable
from . import _tasks
from ._behaviour import Server
from ._checks import check_choice, check_seconds
from ._clients import Client, HTTPClient, WebSocketClient
from ._hang import Hang, describe
from ._simulated_server import between
from ._transcript import Ended, Recorder, Transcript
from .servers import SPEC_SILENT

# How often, while patience lasts, it is noted that the event loop has its turns.
_LOOKS = 4

# Seconds that the tasks which an application has left behind get, once they are cancelled.
_SECONDS_FOR_LEFTOVERS = 1.0


async def visit(
    app: Any,
    client: Client,
    server: Server = SPEC_SILENT,
    *,
    patience: float = 5.0,
    raise_app_exceptions: bool = True,
) -> Transcript:
    """Let `client` visit `app`, an ASGI application, by way of `server`; on asyncio or trio, whichever runs.

    The app has `patience` seconds to end: after its client has left, or if that stays or waits, after the last message
    that got the exchange any further. Then `Hang` is raised, an `AssertionError` that names the await where the app
    hangs, and the app is cancelled. An exception that leaves the app is raised here as well, unless
    `raise_app_exceptions` is False; the transcript has it in any case. A server that cancels the app after so many
    seconds does so in real time. `lifespan` is not run: the `state` of the client stands in for it.

    Raises `TypeError` or `ValueError` at once for anything that is not of its kind.
    """
    exchange = _Exchange(app, client, server, patience)
    transcript = await exchange.play()
    raised = transcript.raised
    if raised is not None and (raise_app_exceptions or not isinstance(raised, Exception)):
        raise raised
    return transcript


def visit_now(
    app: Any,
    client: Client,
    server: Server = SPEC_SILENT,
    *,
    patience: float = 5.0,
    raise_app_exceptions: bool = True,
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> Transcript:
    """As `visit`, for synchronous code: in an event loop of its own, asyncio's or trio's.

    Raises `RuntimeError` where an event loop runs already: there, `await visit(...)`.
    """
    check_choice("backend", backend, ("asyncio", "trio"))

    async def play() -> Transcript:
        return await visit(app, client, server, patience=patience, raise_app_exceptions=raise_app_exceptions)

    if backend == "trio":
        import trio

        return trio.run(play)  # type: ignore[no-any-return, unused-ignore]  # trio is not there to be looked at, or is
    return _run_on_asyncio(play)


def _run_on_asyncio(play: Callable[[], Any]) -> Transcript:
    """As `asyncio.run`, which would wait for ever for a task that does not let itself be cancelled."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("visit_now is for synchronous code, and an event loop runs here: use `await visit(...)`")
    loop = asyncio.new_event_loop()
    try:
        try:
            return loop.run_until_complete(play())  # type: ignore[no-any-return]  # as visit returns it
        finally:
            leftovers = asyncio.all_tasks(loop)
            for task in leftovers:
                task.cancel()
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # as asyncio.gather does
            if leftovers:
                loop.run_until_complete(asyncio.wait(leftovers, timeout=_SECONDS_FOR_LEFTOVERS))
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class _Exchange:
    def __init__(self, app: Any, client: Client, server: Server, patience: float) -> None:
        if not isinstance(client, (HTTPClient, WebSocketClient)):
            raise TypeError(f"client must be an HTTPClient or a WebSocketClient, not {client!r}")
        if not isinstance(server, Server):
            raise TypeError(f"server must be a Server, one of disconnect_mw.testing.servers, not {server!r}")
        check_seconds("patience", patience)
        if patience == 0:
            raise ValueError("patience must be more than 0 seconds: the app would be given up before its first turn")
        self._app: ASGIApp = single_callable(app)
        self._client = client
        self._server = server
        self._patience = patience
        self._simulated_server = between(client, server)
        self._simulated_server.on_departure = self._departs
        self._simulated_server.on_progress = self._advances
        self._simulated_server.is_out_of_time = self._is_starved
        self._recorder = Recorder(self._simulated_server)
        self._left_at: float | None = None
        self._cancels_at: float | None = None
        self._task: _tasks.AppTask
        self._advanced_at = 0.0
        self._last_turn = time.monotonic()  # of the event loop; not on its own clock, which may be a test's

    async def play(self) -> Transcript:
        if not self._simulated_server.calls_the_app:
            return self._transcript("never called", None)
        task = self._task = _tasks.new_task(self._call())
        task.start()
        self._advanced_at = task.now()
        leaves_at = None
        if self._client.leaves_after_seconds is not None:
            leaves_at = task.now() + self._client.leaves_after_seconds
        try:
            self._simulated_server.begin()
            while task.ended is None:
                now = task.now()
                self._last_turn = time.monotonic()
                if self._simulated_server.has_left:
                    leaves_at = None
                elif leaves_at is not None and now >= leaves_at:
                    self._simulated_server.leave()
                    continue
                if self._cancels_at is not None and now >= self._cancels_at:
                    self._cancels_at = None
                    task.cancel()
                since = self._left_at if self._left_at is not None else max(self._advanced_at, leaves_at or 0)
                gives_up_at = since + self._patience
                if now >= gives_up_at:
                    raise self._hang()
                times = (leaves_at, self._cancels_at, gives_up_at, now + self._patience / _LOOKS)
                await task.wait(min(moment for moment in times if moment is not None) - now)
        finally:
            await task.abandon()
        return self._transcript(task.ended, task.raised)

    async def _call(self) -> None:
        scope = self._simulated_server.scope()
        self._recorder.put_into(scope)
        view = self._recorder.view
        await self._app(scope, view.receive, view.send)

    def _departs(self) -> None:
        self._left_at = self._task.now()
        if self._simulated_server.behaviour.cancels_after is not None and not self._simulated_server.has_ended:
            self._cancels_at = self._left_at + self._simulated_server.behaviour.cancels_after
        # Where a message makes the client leave, its line is still to come.
        is_in_send = bool(self._client.leaves_after_messages)
        self._recorder.view.note_departure(is_in_send)
        self._task.wake()

    def _advances(self) -> None:
        self._advanced_at = self._task.now()

    def _is_starved(self) -> bool:
        """Has the event loop had no turn for too long?"""
        return time.monotonic() - self._last_turn > self._patience

    def _hang(self) -> Hang:
        patience = f"{self._patience:g} s"
        simulated_server, client = self._simulated_server, self._client
        if simulated_server.has_left:
            why = f"The app had not ended {patience} after its client left."
        elif client.leaves_after_messages is not None:
            why = (
                f"The client waits for {client.leaves_after_messages} messages before it leaves and has got "
                f"{len(simulated_server.delivered)}; for {patience} the app has neither sent the next nor ended."
            )
        elif isinstance(client, HTTPClient) and client.leaves_after_chunks is not None:
            why = (
                f"The client waits until {client.leaves_after_chunks} chunks of its body have been read before it "
                f"leaves; for {patience} the app has neither read the next nor sent anything nor ended."
            )
        else:
            stalls = " (it has stalled, and reads no more)" if client.stalls_after_messages is not None else ""
            why = f"The app had not ended after {patience}, and its client stays{stalls}."
        transcript = self._transcript("hung", None)
        return Hang(describe(why, self._task.chains(), transcript), transcript)

    def _transcript(self, ended: Ended, raised: BaseException | None) -> Transcript:
        simulated_server, view = self._simulated_server, self._recorder.view
        went_on = None if self._left_at is None else self._task.ended_at_or_now() - self._left_at
        return Transcript(
            client=self._client,
            server=self._server,
            sent=simulated_server.sent[: len(simulated_server.sent) - len(simulated_server.wasted)],
            wasted=list(simulated_server.wasted),
            muted=list(view.muted),
            received=list(view.received),
            lines=list(view.lines),
            delivered=list(simulated_server.delivered),
            ended=ended,
            raised=raised,
            went_on=went_on,
            lines_until_departure=view.lines_until_departure,
        )
