"""`visit`: a client's whole exchange with an app, and the transcript of it."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

from .. import _backends
from . import _tasks
from ._behaviour import Server
from ._clients import Client, HTTPClient, WebSocketClient
from ._fields import check_app, check_choice, check_patience
from ._hang import Chains, Hang, KnownHangs, awaits_thread, describe, describe_place
from ._simulated_server import block_forever, create_simulated_server
from ._transcript import Ended, Recorder, Transcript
from .servers import SPEC_SILENT

__tracebackhide__ = True  # pytest leaves the frames of this module out

# How often within `patience` the exchange sees to the app. What the machine takes longer than planned for one of these
# turns does not count: the app has had no time.
_TURNS_WITHIN_PATIENCE = 4

_LEAST_TURN = 0.001

# The share of `patience` that an app has in a function in which it has hung before.
_OF_PATIENCE_IN_A_KNOWN_HANG = 0.04

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

    The app has `patience` seconds to end, from when its client left, or from when the server cancelled it
    (`cancels_after`, in real time). While the client is there they count from the last message that the app received,
    or that the client waited for. After that the app is cancelled and `Hang` is raised, an `AssertionError` that names
    the await in which the app hangs.

    An exception that leaves the app is in the transcript, and is raised here unless `raise_app_exceptions` is False.
    Raises `TypeError` or `ValueError`, before the app is called, for an argument that is wrong.
    """
    return transcript_of(await Exchange(app, client, server, patience).play(), raise_app_exceptions)


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

    Raises `RuntimeError` where an event loop runs already: there, `await visit(...)`.
    """
    exchange = Exchange(app, client, server, patience)
    return transcript_of(run_now(exchange.play, "visit", backend), raise_app_exceptions)


def transcript_of(outcome: Transcript | Hang, raise_app_exceptions: bool) -> Transcript:
    """Return the transcript, or raise what is to be raised."""
    if isinstance(outcome, Hang):
        raise outcome
    raised = outcome.raised
    if raised is not None and (raise_app_exceptions or not isinstance(raised, Exception)):
        raise raised
    return outcome


T = TypeVar("T")


def run_now(play: Callable[[], Coroutine[Any, Any, T]], name: str, backend: str) -> T:
    """Run `play` in a new event loop. `name` is that of the async function for which the caller stands."""
    check_choice("backend", backend, ("asyncio", "trio"))
    if _backends.current()[1] is not None:
        raise RuntimeError(
            f"{name}_now is for synchronous code, and an event loop runs here: use `await {name}(...)`, or make the "
            "test a plain function"
        )
    if backend == "trio":
        import trio

        return trio.run(play)  # type: ignore[no-any-return, unused-ignore]  # trio is installed or not
    return _run_on_asyncio(play)


def _run_on_asyncio(play: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """As `asyncio.run`, which would wait for ever for a task that ignores its cancellation."""
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        try:
            return loop.run_until_complete(play())
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


class Exchange:
    """One exchange of `client` with `app` on `server`.

    `known_hangs` are of other exchanges with the app. After `seconds_to_turn` in which the app has given the event loop
    no turn, it is made to (unless given a quarter of `patience`).
    """

    def __init__(
        self,
        app: Any,
        client: Client,
        server: Server,
        patience: float,
        known_hangs: KnownHangs | None = None,
        seconds_to_turn: float = math.inf,
    ) -> None:
        if not isinstance(client, (HTTPClient, WebSocketClient)):
            raise TypeError(
                f"client must be an HTTPClient or a WebSocketClient, not {client!r}"
                + (f": pass HTTPClient({client!r}, leaves_after_messages=1)" if isinstance(client, str) else "")
            )
        if not isinstance(server, Server):
            raise TypeError(
                f"server must be a Server, such as disconnect_mw.testing.servers.UVICORN_0_28_0, not {server!r}"
            )
        check_patience(patience)
        self._app = check_app(app)
        self._client = client
        self._server = server
        self._patience = patience
        self._seconds_to_turn = seconds_to_turn
        self._simulated_server = create_simulated_server(client, server)
        self._simulated_server.on_leave = self._client_left
        self._simulated_server.on_progress = self._made_progress
        self._simulated_server.pause = self._pause
        self._recorder = Recorder(self._simulated_server)
        self._leaves_at: float | None = None
        self._left_at: float | None = None
        self._cancels_at: float | None = None
        self._cancelled_at: float | None = None
        self._task: _tasks.AppTask
        self._began_at = 0.0
        self._progress_at = 0.0
        self._waited = 0.0  # seconds in which the app has got no further
        self._turns = 0  # of the event loop in these
        self._planned = 0.0  # seconds to the next of them
        self._known_hangs = KnownHangs() if known_hangs is None else known_hangs
        self._was_abandoned = False
        self.is_in_thread = False  # whether the app, which has hung, waits for a thread
        self._is_over = False
        self._last_turn = 0.0  # of the event loop; not by its clock, which a test may replace

    async def play(self) -> Transcript | Hang:
        if not self._simulated_server.calls_the_app:
            return self._transcript("never called", None)
        task = self._task = _tasks.new_task(self._call())
        self._last_turn = time.monotonic()
        task.start()
        self._began_at = self._progress_at = before = task.now()
        if self._client.leaves_after_seconds is not None:
            self._leaves_at = before + self._client.leaves_after_seconds
        try:
            self._simulated_server.begin()
            while task.ended is None:
                now = task.now()
                self._last_turn = time.monotonic()
                if not self._simulated_server.has_left and self._is_to_leave(now):
                    self._simulated_server.leave()
                if self._cancels_at is not None and now >= self._cancels_at:
                    self._cancels_at, self._cancelled_at = None, now
                    task.cancel()
                self._count_seconds(before, now)
                if self._waited >= self._patience:
                    return self._make_hang()
                if self._is_in_known_hang():
                    return self._make_known_hang()
                before, self._planned = now, self._seconds_to_next_turn(now)
                await task.wait(self._planned)
        finally:
            self._is_over = True
            await task.abandon()
            self._was_abandoned = task.was_abandoned
        return self._transcript(task.ended, task.raised)

    def _is_to_leave(self, now: float) -> bool:
        return self._leaves_at is not None and now >= self._leaves_at

    def _count_seconds(self, before: float, now: float) -> None:
        """Count the seconds since `before`, as far as they are after the last progress, or the disconnect."""
        if self._leaves_at is not None and not self._simulated_server.has_left:
            return
        since = self._progress_at if self._left_at is None else max(self._left_at, self._cancelled_at or 0)
        if since > before:
            before, self._waited, self._turns = since, 0.0, 0
        self._waited += min(now - before, self._planned)
        self._turns += 1

    def _seconds_to_next_turn(self, now: float) -> float:
        moments = [now + min(self._turn(), max(self._patience - self._waited, _LEAST_TURN))]
        if self._cancels_at is not None:
            moments.append(self._cancels_at)
        if self._leaves_at is not None and not self._simulated_server.has_left:
            moments.append(self._leaves_at)
        return min(moments) - now

    def _turn(self) -> float:
        """Seconds between two turns in which the exchange sees to the app."""
        share = _OF_PATIENCE_IN_A_KNOWN_HANG if self._known_hangs else 1
        return min(self._patience / _TURNS_WITHIN_PATIENCE * share, self._seconds_to_turn)

    def _is_in_known_hang(self) -> bool:
        """Whether the app waits where it has hung before, and not for a cancellation by the server that is to come."""
        if not self._known_hangs or self._turns <= _TURNS_WITHIN_PATIENCE:
            return False
        if self._waited < self._patience * _OF_PATIENCE_IN_A_KNOWN_HANG:
            return False
        return self._cancels_at is None and self._known_hangs.find(self._task.await_chains()) is not None

    async def _call(self) -> None:
        scope = self._simulated_server.scope()
        self._recorder.put_into(scope)
        calls = self._recorder.calls
        await self._app(scope, calls.receive, calls.send)

    def _client_left(self) -> None:
        self._left_at = self._task.now()
        seconds = self._simulated_server.behaviour.cancels_after
        if seconds is not None and seconds <= self._patience and not self._simulated_server.has_ended:
            self._cancels_at = self._left_at + seconds
        # A client that leaves after a message leaves inside the `send` of it, whose line is still to come.
        is_in_send = bool(self._client.leaves_after_messages)
        self._recorder.calls.client_left(is_in_send)
        self._task.wake()

    def _made_progress(self) -> None:
        self._progress_at = self._task.now()

    def _pause(self) -> Awaitable[None] | None:
        """What the app's calls await first: nothing, as long as it gives other tasks their turns."""
        if self._is_over:
            return block_forever()
        if time.monotonic() - self._last_turn > self._turn():
            return _backends.current()[0].checkpoint()
        return None

    @property
    def has_middleware(self) -> bool:
        """Whether there was a `DisconnectMiddleware` on the way."""
        return self._recorder.is_inside

    @property
    def was_cancelled(self) -> bool:
        """Whether the server has cancelled the app, or the exchange has done so in vain, after a hang."""
        return self._cancelled_at is not None or self._was_abandoned

    def seconds(self) -> float:
        """From the request to the end of the app, or until now."""
        return self._task.ended_at_or_now() - self._began_at

    def _make_hang(self) -> Hang:
        chains, transcript = self._await_chains(), self._transcript("hung", None)
        self._known_hangs.add(chains, str(self._server))
        return Hang(describe(self._why(), chains), describe_place(chains), transcript)

    def _await_chains(self) -> Chains:
        chains = self._task.await_chains()
        self.is_in_thread = awaits_thread(chains)
        return chains

    def _make_known_hang(self) -> Hang:
        chains, transcript = self._await_chains(), self._transcript("hung", None)
        seconds = self._patience * _OF_PATIENCE_IN_A_KNOWN_HANG
        reason = f"Hangs as on {self._known_hangs.find(chains)} (given {seconds:g} s here): {describe_place(chains)}"
        return Hang(reason, describe_place(chains), transcript, is_known=True)

    def _why(self) -> str:
        patience = f"{self._patience:g} s"
        simulated_server, client = self._simulated_server, self._client
        if self._cancelled_at is not None:
            why = f"The app had not ended {patience} after the server cancelled it."
        elif simulated_server.has_left:
            sent = len(simulated_server.wasted) + len(self._recorder.calls.muted)
            sends = f" It has sent {_count(sent, 'message')} since." if sent else ""
            why = f"The app had not ended {patience} after its client left.{sends}"
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
        return why

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
