"""P6: somebody else's cancellation always passes, and ours never leaks to the server's own code."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from disconnect_mw import DisconnectMiddleware
from disconnect_mw._backends import _asyncio

from .support.messages import CHUNK, DISCONNECT, START
from .support.records import ended, known
from .support.serving import SECONDS, Until, cancellations, is_trio, left, on_asyncio, serve, turns
from .support.simulated_server import UVICORN_0_28_0, SimulatedServer, http
from .support.waits import ASYNCIO_WAITS, PORTABLE_WAITS

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


# Somebody else's cancellation passes


class Cancelling(SimulatedServer):
    """A server that cancels the app in the very turn in which it delivers the disconnect, but before."""

    task: Any = None

    async def receive(self) -> Any:
        message = await super().receive()
        if message == DISCONNECT and self.task is not None:
            self.task.cancel()
        return message


@on_asyncio
@pytest.mark.parametrize("wait", [anyio.sleep_forever, *PORTABLE_WAITS, *ASYNCIO_WAITS])
@pytest.mark.parametrize(
    "moment", ["before", "in the same turn, theirs first", "in the same turn, ours first", "after"]
)
async def test_a_cancellation_from_elsewhere_passes(moment: str, wait: Any) -> None:
    far = Cancelling()
    began = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        try:
            await wait()
        finally:
            if moment == "before":
                far.leave()
                await known(scope)
                await anyio.sleep(0.005)  # it is tried again
            elif moment == "after":
                task.cancel()
                await asyncio.sleep(0)

    def hook(disconnect: Any) -> None:
        if moment == "in the same turn, ours first":
            task.cancel()

    middleware = DisconnectMiddleware(app, policy="cancel", on_disconnect=hook)
    task = asyncio.ensure_future(middleware(far.scope(), far.receive, far.send))
    if moment == "in the same turn, theirs first":
        far.task = task
    await began.wait()
    if moment == "before":
        await turns()
        task.cancel()
    else:
        far.leave()
    await asyncio.wait({task}, timeout=SECONDS)
    assert task.cancelled()


@on_asyncio
@pytest.mark.parametrize("clean_up", [anyio.sleep_forever, *ASYNCIO_WAITS])
async def test_a_cancellation_from_elsewhere_passes_in_the_middle_of_the_clean_up(clean_up: Any) -> None:
    far = http()
    cleaning = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            cleaning.set()
            await clean_up()

    task = asyncio.ensure_future(DisconnectMiddleware(app, policy="cancel")(far.scope(), far.receive, far.send))
    await asyncio.wait_for(cleaning.wait(), SECONDS)
    await turns()
    task.cancel()
    await asyncio.wait({task}, timeout=SECONDS)
    assert task.cancelled()


@on_asyncio
@pytest.mark.parametrize("grace", [None, 60])
async def test_a_cancellation_from_elsewhere_is_told_as_one(grace: Any) -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            await turns()

    def hook(disconnect: Any) -> None:
        task.cancel()

    middleware = DisconnectMiddleware(app, policy="cancel", grace=grace, on_disconnect=hook)
    task = asyncio.ensure_future(middleware(scope, far.receive, far.send))
    await asyncio.wait({task}, timeout=SECONDS)
    assert (task.cancelled(), ended(scope)) == (True, "cancelled")


@pytest.mark.parametrize("moment", ["before", "in the same turn", "after"])
@pytest.mark.parametrize("wait", PORTABLE_WAITS)
async def test_a_cancel_scope_around_the_server_is_heard(moment: str, wait: Any) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if moment == "before":
            outer.cancel()
        far.leave()
        try:
            await wait()
        finally:
            with anyio.CancelScope(shield=True):
                await known(scope)
                if moment == "after":
                    outer.cancel()
                await turns()

    def hook(disconnect: Any) -> None:
        if moment == "in the same turn":
            outer.cancel()

    with anyio.fail_after(SECONDS):
        with anyio.CancelScope() as outer:
            await DisconnectMiddleware(app, policy="cancel", on_disconnect=hook)(far.scope(), far.receive, far.send)
            await anyio.lowlevel.checkpoint()
            raise AssertionError("the server's own scope has no effect")
        assert outer.cancelled_caught
        await turns()
        assert cancellations() == 0


@pytest.mark.parametrize("groups", range(3))
async def test_a_cancel_scope_around_the_server_is_heard_in_the_middle_of_the_clean_up(groups: int) -> None:
    far = http()
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            run: Any = None
            for _ in range(groups):
                run = (await stack.enter_async_context(anyio.create_task_group())).start_soon
            if run is None:
                await works()
            else:
                run(works)
                await anyio.sleep_forever()

    async def works() -> None:
        try:
            await left(far)
        finally:
            with anyio.CancelScope(shield=True):
                until.note("cleans up")
                await until("cancelled")
                await turns()

    async def cancel() -> None:
        await until("cleans up")
        await turns()
        outer.cancel()
        await turns()
        until.note("cancelled")

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            with anyio.CancelScope() as outer:
                await DisconnectMiddleware(app, policy="cancel")(far.scope(), far.receive, far.send)
                await anyio.lowlevel.checkpoint()
                raise AssertionError("the server's own scope has no effect")
            assert outer.cancelled_caught
            await turns()
            assert cancellations() == 0


@on_asyncio
async def test_ours_waits_until_somebody_elses_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two could not be told apart."""
    monkeypatch.setattr(_asyncio, "_UNTIL_SWALLOWED", 3600.0)
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task: Any = asyncio.current_task()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        far.leave()
        await known(scope)
        await asyncio.sleep(0.01)
        steps.append("not cancelled")
        task.uncancel()
        await anyio.sleep_forever()

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") is None
    assert (steps, ended(scope)) == (["not cancelled"], "cancelled")


@on_asyncio
@pytest.mark.parametrize("ends", ["ours", "others as well", "another in its place", "taken back late"])
async def test_one_that_was_swallowed_holds_ours_off_for_a_while_only(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken back by us."""
    monkeypatch.setattr(_asyncio, "_UNTIL_SWALLOWED", 0.01)
    far = http()
    scope = far.scope()
    times: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task: Any = asyncio.current_task()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await anyio.sleep_forever()
        times.append(anyio.current_time())
        far.leave()
        await known(scope)
        try:
            await anyio.sleep_forever()
        finally:
            times.append(anyio.current_time())
            if ends == "others as well":
                task.cancel()
                await turns()
            if ends == "another in its place":  # an `asyncio.timeout` of the app's own does that
                raise asyncio.CancelledError from None
            if ends == "taken back late":
                task.uncancel()

    async def server() -> int:
        await DisconnectMiddleware(app, policy="cancel")(scope, far.receive, far.send)
        await turns()
        return cancellations()

    task = asyncio.ensure_future(server())
    await asyncio.wait({task}, timeout=SECONDS)
    assert task.cancelled() == (ends == "others as well")
    if not task.cancelled():
        assert task.result() == (ends != "taken back late")
    assert ended(scope) == "cancelled"
    assert times[1] - times[0] >= 0.008


# The app's own scopes

SLOW = 0.08
"""Seconds that a clean-up takes: longer than until our cancellation would be tried again."""


class CleanUp:
    """In which the client leaves: how many have begun, and how many have come to their end."""

    def __init__(self, leave: Callable[[], None]) -> None:
        self.leave = leave
        self.begun = self.whole = 0

    async def run(self) -> None:
        self.begun += 1
        self.leave()
        await asyncio.sleep(SLOW)
        self.whole += 1


async def forever(clean_up: CleanUp) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await clean_up.run()


async def in_timeout(clean_up: CleanUp) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await forever(clean_up)


async def in_timeout_of_a_stack(clean_up: CleanUp) -> None:
    with contextlib.suppress(TimeoutError):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(0.01))
            await forever(clean_up)


async def in_timeout_of_a_generator(clean_up: CleanUp) -> None:
    @contextlib.asynccontextmanager
    async def limited() -> Any:
        async with asyncio.timeout(0.01):
            yield

    with contextlib.suppress(TimeoutError):
        async with limited():
            await forever(clean_up)


async def in_wait_for(clean_up: CleanUp) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(forever(clean_up), 0.01)


async def in_group(clean_up: CleanUp) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise ValueError

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(forever(clean_up))
            await asyncio.Event().wait()
    except* ValueError:
        pass


async def in_anyio_scope(clean_up: CleanUp) -> None:
    with anyio.move_on_after(0.01):
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await clean_up.run()


async def in_anyio_group(clean_up: CleanUp) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(in_anyio_scope, clean_up)
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()


SCOPES = [
    in_timeout,
    in_timeout_of_a_stack,
    in_timeout_of_a_generator,
    in_wait_for,
    in_group,
    in_anyio_scope,
    in_anyio_group,
]


@on_asyncio
@pytest.mark.parametrize("scope", SCOPES)
async def test_what_a_scope_of_the_app_has_ended_cleans_up_before_ours_comes(scope: Any) -> None:
    """Else that scope takes ours for its own, or ours comes out with it (case `cancel_lost_in_apps_own_timeout`)."""
    far = http()
    http_scope = far.scope()
    clean_up = CleanUp(far.leave)

    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await scope(clean_up)
        await asyncio.Event().wait()

    async def server() -> int:
        await DisconnectMiddleware(app, policy="cancel")(http_scope, far.receive, far.send)
        return cancellations()

    assert await asyncio.wait_for(server(), SECONDS) == 0
    assert ended(http_scope) == "cancelled"
    if scope is not in_wait_for or sys.version_info >= (3, 12):  # before, it leaves its task when it is cancelled
        assert (clean_up.begun, clean_up.whole) == (1, 1)


@on_asyncio
async def test_a_clean_up_after_a_time_out_of_the_app_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_asyncio, "_UNTIL_CLEANED_UP", 0.02)
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        async with asyncio.timeout(0):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.Event().wait()

    async def server() -> int:
        await DisconnectMiddleware(app, policy="cancel")(scope, far.receive, far.send)
        return cancellations()

    assert await asyncio.wait_for(server(), SECONDS) == 0
    assert ended(scope) == "cancelled"


@on_asyncio
async def test_a_handler_that_holds_what_another_task_has_open_is_cancelled_at_once() -> None:
    """And however much it holds: rows of a database, say."""
    far = http()
    scope = far.scope()
    was_ending: list[bool] = []

    may_end = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()

    async def fails(group: asyncio.TaskGroup) -> None:
        async with group:
            group.create_task(never())
            await asyncio.sleep(0)
            raise ValueError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        rows = tuple((number,) for number in range(20_000))
        group = asyncio.TaskGroup()
        other = asyncio.create_task(fails(group))
        await receive()
        await turns()
        far.leave()
        try:
            await asyncio.Event().wait()
        finally:
            was_ending.append(not other.done() and bool(rows))
            may_end.set()
            with contextlib.suppress(ExceptionGroup):
                await other

    await asyncio.wait_for(DisconnectMiddleware(app, policy="cancel")(scope, far.receive, far.send), SECONDS)
    assert ended(scope) == "cancelled"
    assert was_ending == [True]


# Nothing may leak to the server's own code


@pytest.mark.parametrize("options", [{"policy": "cancel"}, {"grace": 0}, {"policy": "cancel", "grace": 0.0001}])
@pytest.mark.parametrize("learns", ["by its own receive", "by its own send", "by another task's receive"])
@pytest.mark.parametrize("ends", ["returns", "raises"])
@pytest.mark.parametrize("steps", range(6))
async def test_an_app_that_ends_in_the_turn_of_the_cancellation_leaves_none_to_its_server(
    options: Any, learns: str, ends: str, steps: int
) -> None:
    """The departure becomes known; then it ends, after so many turns."""
    far = SimulatedServer(UVICORN_0_28_0)
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await send(START)
        if learns == "by its own receive":
            far.leave()
            await receive()
        elif learns == "by its own send":
            far.leave()
            await send(CHUNK)
        else:
            tasks.start_soon(listen, receive)
            await turns()
            far.leave()
        await turns(steps)
        if ends == "raises":
            raise ValueError
        return "done"

    async def listen(receive: Any) -> None:
        got.append(await receive())

    async with anyio.create_task_group() as tasks:
        try:
            got.append(await serve(app, far, **options))
        except ValueError:
            got.append("raised")
    assert {"done", "raised", None} & {*filter(lambda one: one != DISCONNECT, got)}


@on_asyncio
@pytest.mark.parametrize("steps", range(4))
async def test_an_app_whose_future_comes_in_the_turn_of_the_cancellation_leaves_none_to_its_server(steps: int) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        reading = asyncio.ensure_future(receive())
        await turns()
        far.leave()

        def step(count: int) -> None:
            if count:
                loop.call_soon(step, count - 1)
            elif not future.done():
                future.set_result(None)

        step(steps)
        try:
            await future
        finally:
            reading.cancel()
        return "done"

    assert await serve(app, far, policy="cancel") in ("done", None)


@pytest.mark.parametrize("policy", ["mute", "raise", "cancel"])
@pytest.mark.parametrize("grace", [None, 0])
async def test_an_app_that_has_just_received_the_disconnect_is_not_cancelled_in_its_clean_up(
    policy: Any, grace: Any
) -> None:
    """P12: that is what the disconnect began."""
    far = http()
    steps: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        steps.append(await receive())
        await anyio.sleep(0.1)
        return "done"

    scope = far.scope()
    assert await serve(app, far, scope, policy=policy, grace=grace) == "done"
    assert (steps, ended(scope)) == ([DISCONNECT], "returned")


async def test_a_failed_send_of_the_apps_own_cancels_it_at_its_next_turn() -> None:
    """Not in `send`, but for an app that awaits nothing else: after 32 muted ones."""
    far = SimulatedServer(UVICORN_0_28_0)
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        far.leave()
        while True:
            await send(CHUNK)
            sent.append(CHUNK)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"
    assert 31 <= len(sent) <= (64 if is_trio() else 32)  # the callback of a turn is a task there
