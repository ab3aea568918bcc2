"""`visit`: a client's whole exchange with an app, and the transcript of it."""

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
from ._simulated_server import create_simulated_server
from ._transcript import Ended, Recorder, Transcript
from .servers import SPEC_SILENT

# How often within `patience` the exchange notes that the event loop runs.
_TURNS_WITHIN_PATIENCE = 4

# Seconds that tasks which the app has left running have to end, once they are cancelled.
_SECONDS_FOR_LEFTOVERS = 1.0


async def visit(
    app: Any,
    client: Client,
    server: Server = SPEC_SILENT,
    *,
    patience: float = 5.0,
    raise_app_exceptions: bool = True,
) -> Transcript:
    """Play one exchange of `client` with `app`, an ASGI application, on a simulated `server`; return its transcript.

    It runs on asyncio or trio, on the event loop that runs already. `lifespan` is not run: the client's `state` stands
    in for what it would leave in the scope.

    The app has `patience` seconds to end, from when its client left. While the client is there they count from the last
    message that the app received, or that the client waited for. After that the app is cancelled and `Hang` is raised,
    an `AssertionError` that names the await in which the app hangs. A server that cancels the app (`cancels_after`)
    does so in real time.

    An exception that leaves the app is in the transcript, and is raised here unless `raise_app_exceptions` is False.
    Raises `TypeError` or `ValueError`, before the app is called, for an argument that is wrong.
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
    """As `visit`, for synchronous code: runs it in a new event loop, of asyncio or trio by `backend`.

    Raises `RuntimeError` where an event loop of that kind runs already: there, `await visit(...)`.
    """
    check_choice("backend", backend, ("asyncio", "trio"))

    async def play() -> Transcript:
        return await visit(app, client, server, patience=patience, raise_app_exceptions=raise_app_exceptions)

    if backend == "trio":
        import trio

        return trio.run(play)  # type: ignore[no-any-return, unused-ignore]  # trio is installed or not
    return _run_on_asyncio(play)


def _run_on_asyncio(play: Callable[[], Any]) -> Transcript:
    """As `asyncio.run`, which would wait for ever for a task that ignores its cancellation."""
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
            raise ValueError(
                "patience must be more than 0 seconds, not 0: the app would have no turn of the event loop"
            )
        self._app: ASGIApp = single_callable(app)
        self._client = client
        self._server = server
        self._patience = patience
        self._simulated_server = create_simulated_server(client, server)
        self._simulated_server.on_leave = self._client_left
        self._simulated_server.on_progress = self._made_progress
        self._simulated_server.is_out_of_time = self._is_starved
        self._recorder = Recorder(self._simulated_server)
        self._left_at: float | None = None
        self._cancels_at: float | None = None
        self._task: _tasks.AppTask
        self._progress_at = 0.0
        self._last_turn = time.monotonic()  # of the event loop; not by its clock, which a test may replace

    async def play(self) -> Transcript:
        if not self._simulated_server.calls_the_app:
            return self._transcript("never called", None)
        task = self._task = _tasks.new_task(self._call())
        task.start()
        self._progress_at = task.now()
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
                since = self._left_at if self._left_at is not None else max(self._progress_at, leaves_at or 0)
                gives_up_at = since + self._patience
                if now >= gives_up_at:
                    raise self._make_hang()
                times = (leaves_at, self._cancels_at, gives_up_at, now + self._patience / _TURNS_WITHIN_PATIENCE)
                await task.wait(min(moment for moment in times if moment is not None) - now)
        finally:
            await task.abandon()
        return self._transcript(task.ended, task.raised)

    async def _call(self) -> None:
        scope = self._simulated_server.scope()
        self._recorder.put_into(scope)
        calls = self._recorder.calls
        await self._app(scope, calls.receive, calls.send)

    def _client_left(self) -> None:
        self._left_at = self._task.now()
        if self._simulated_server.behaviour.cancels_after is not None and not self._simulated_server.has_ended:
            self._cancels_at = self._left_at + self._simulated_server.behaviour.cancels_after
        # A client that leaves after a message leaves inside the `send` of it, whose line is still to come.
        is_in_send = bool(self._client.leaves_after_messages)
        self._recorder.calls.client_left(is_in_send)
        self._task.wake()

    def _made_progress(self) -> None:
        self._progress_at = self._task.now()

    def _is_starved(self) -> bool:
        """Whether the event loop has had no turn for `patience` seconds."""
        return time.monotonic() - self._last_turn > self._patience

    def _make_hang(self) -> Hang:
        patience = f"{self._patience:g} s"
        simulated_server, client = self._simulated_server, self._client
        if simulated_server.has_left:
            why = f"The app had not ended {patience} after its client left."
        elif client.leaves_after_messages is not None:
            why = (
                f"The client leaves after {_count(client.leaves_after_messages, 'message')} and has got "
                f"{len(simulated_server.delivered)}; for {patience} the app has neither sent the next nor ended."
            )
        elif isinstance(client, HTTPClient) and client.leaves_after_chunks is not None:
            why = (
                f"The client leaves when the app has read {_count(client.leaves_after_chunks, 'chunk')} of its body; "
                f"for {patience} the app has neither read the next nor sent a message nor ended."
            )
        else:
            stalls = " (it has stalled: it reads no more)" if client.stalls_after_messages is not None else ""
            why = f"The app had not ended after {patience}, and its client stays{stalls}."
        transcript = self._transcript("hung", None)
        return Hang(describe(why, self._task.await_chains(), transcript), transcript)

    def _transcript(self, ended: Ended, raised: BaseException | None) -> Transcript:
        simulated_server, calls = self._simulated_server, self._recorder.calls
        went_on = None if self._left_at is None else self._task.ended_at_or_now() - self._left_at
        return Transcript(
            client=self._client,
            server=self._server,
            sent=simulated_server.sent[: len(simulated_server.sent) - len(simulated_server.wasted)],
            wasted=list(simulated_server.wasted),
            muted=list(calls.muted),
            received=list(calls.received),
            lines=list(calls.lines),
            delivered=list(simulated_server.delivered),
            ended=ended,
            raised=raised,
            went_on=went_on,
            lines_until_departure=calls.lines_until_departure,
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
