"""P6, P8: when a cancelled app has ended nothing is left behind: no task, no reference, no line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from disconnect_mw import DisconnectMiddleware, _blocked_sends, _telling, connection

from .support.messages import ACCEPT, DISCONNECT, FINAL, START
from .support.records import ended, gone, known
from .support.serving import SECONDS, Until, left, living, on_asyncio, serve, shielded, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


class Scope(dict):  # type: ignore[type-arg]  # a dict that can be referred to weakly
    pass


async def all_but(before: int) -> None:
    """Wait until there are no more tasks than that. On trio the watcher's timers are tasks, one for each loop."""
    with anyio.fail_after(SECONDS):
        while living() > before:
            await anyio.sleep(0.001)


ENDS = ["normal", "cancelled", "swallowed", "raised", "cancelled by others", "ignored"]


class Thing:
    """To be referred to weakly."""


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@on_asyncio
async def test_an_exception_that_its_task_keeps_keeps_nothing_else() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["thing"] = Thing()
        raise ValueError("the app's own")

    with without_collections():
        far = http()
        scope = far.scope()
        task = asyncio.ensure_future(DisconnectMiddleware(app)(scope, far.receive, far.send))
        await asyncio.wait({task}, timeout=SECONDS)
        assert isinstance(task.exception(), ValueError)
        thing = weakref.ref(scope["thing"])
        del scope, task, far
        assert thing() is None


@pytest.mark.parametrize("policy", ["mute", "raise", "cancel"])
async def test_the_apps_own_exception_has_its_context_wherever_it_is_called(policy: Any) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            far.leave()
            await known(scope)
            with shielded():
                raise IndexError("the root of the evil")
        except IndexError:
            raise KeyError("own")  # noqa: B904

    try:
        raise LookupError("no static file")
    except LookupError:
        with pytest.raises(KeyError) as caught:
            await serve(app, far, policy=policy, grace=60)
    root = caught.value.__context__
    assert isinstance(root, IndexError)
    assert isinstance(root.__context__, LookupError)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames.count("__call__") == 1


@on_asyncio
@pytest.mark.parametrize("error", [ValueError, ConnectionResetError])
async def test_an_exception_that_a_send_with_a_timeout_waited_for_keeps_nothing(error: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["thing"] = Thing()
        await send(START)

    with without_collections():
        far = http()
        scope = far.scope()
        drained: list[Any] = [asyncio.get_running_loop().create_future()]

        async def send(message: Any) -> None:
            await drained[0]

        task = asyncio.ensure_future(DisconnectMiddleware(app, send_timeout=60)(scope, far.receive, send))
        await turns()
        drained.pop().set_exception(error())
        await asyncio.wait({task}, timeout=SECONDS)
        assert isinstance(task.exception(), (ValueError, type(None)))
        thing = weakref.ref(scope["thing"])
        del scope, task, far, send
        await turns()
        assert thing() is None


@on_asyncio
async def test_a_listener_that_is_left_behind_and_gives_up_later_leaves_no_task() -> None:
    far = http()
    listeners: list[Any] = []

    async def listen(receive: Any) -> None:
        while True:
            with anyio.move_on_after(0.005):
                await receive()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listeners.append(asyncio.ensure_future(listen(receive)))
        await turns()
        await send(START)
        await send(FINAL)

    before = asyncio.all_tasks()
    await serve(app, far)
    await anyio.sleep(0.05)
    listeners[0].cancel()
    await asyncio.wait(listeners)
    await turns()
    assert asyncio.all_tasks() == before


async def test_what_waits_to_receive_beyond_the_end_keeps_nothing_when_it_has() -> None:
    """An app that leaves a task behind."""
    waits = anyio.Event()

    async def wait(receive: Any) -> None:
        waits.set()
        assert await receive() == DISCONNECT

    with without_collections():
        far = http()
        scope = far.scope()
        left_behind = weakref.ref(far)

        async with anyio.create_task_group() as tasks:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await receive()
                tasks.start_soon(wait, receive)
                await waits.wait()
                await turns()

            await DisconnectMiddleware(app)(scope, far.receive, far.send)
            far.leave()
        del far, scope, app
        await turns()
        assert left_behind() is None


@on_asyncio
async def test_what_meets_the_orderly_end_does_not_keep_what_the_app_raised() -> None:
    """A generator that was left would wait for the garbage collector, since BaseHTTPMiddleware keeps what it meets."""
    far = http()
    things: list[Any] = []
    blocks = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        far.leave()
        await known(scope)
        await send(START)

    async def send(message: Any) -> None:
        blocks.set()
        await anyio.sleep_forever()

    with without_collections():
        task = asyncio.ensure_future(DisconnectMiddleware(app, policy="raise")(far.scope(), far.receive, send))
        await asyncio.wait_for(blocks.wait(), SECONDS)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as met:
            assert things[0]() is None
            del met
        else:
            raise AssertionError("it is not heard")


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("end", ENDS)
async def test_scope_server_and_app_are_free_at_the_end_without_the_garbage_collector(
    end: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_telling.abandoned, "seconds", 3600)

    async def exchange() -> list[weakref.ref[Any]]:
        far: Any = http() if kind == "http" else websocket()
        scope = Scope(far.scope())

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            if kind == "websocket":
                await send(ACCEPT)
            await anyio.sleep(0.004)
            if end == "normal":
                return
            if end == "ignored":
                far.leave()
                await known(scope)
                return
            if end == "raised":
                raise ValueError
            if end == "cancelled by others":
                others.cancel()
            try:
                await left(far)
            except anyio.get_cancelled_exc_class():
                if end != "swallowed":
                    raise

        with anyio.CancelScope() as others:
            policy: Any = "mute" if end == "ignored" else "cancel"
            with contextlib.suppress(ValueError):
                await DisconnectMiddleware(app, policy=policy, websocket_policy=policy, send_timeout=5)(
                    scope, far.receive, far.send
                )
        return [weakref.ref(scope), weakref.ref(far), weakref.ref(app)]

    before = living()
    gc.disable()
    try:
        with anyio.fail_after(SECONDS):
            refs = await exchange()
        with anyio.fail_after(SECONDS):
            while [ref() for ref in refs] != [None, None, None]:
                await anyio.sleep(0.001)
        if end != "ignored":
            await all_but(before)
    finally:
        gc.enable()


async def test_a_departure_leaves_no_task_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_telling.abandoned, "seconds", 0.01)
    before = living()
    for policy, grace in (("cancel", None), ("cancel", 60), ("mute", 0), ("mute", None), ("raise", 60)):
        far = http()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            far.leave()
            await gone(connection(scope))
            await turns()

        await serve(app, far, policy=policy, grace=grace)
        await all_but(before)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_departure_that_only_what_the_app_left_behind_hears_of_is_told_and_holds_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_blocked_sends.blocked, "seconds", 3600)
    monkeypatch.setattr(_telling.abandoned, "seconds", 3600)
    heard: list[Any] = []
    told: list[Any] = []

    async def listen(receive: Any) -> None:
        await receive()
        heard.append((await receive())["type"])

    async def exchange() -> weakref.ref[Any]:
        far: Any = http() if kind == "http" else websocket()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.start_soon(listen, receive)
            await turns()

        async with anyio.create_task_group() as tasks:
            await serve(app, far, on_disconnect=told.append)
            far.leave()
        return weakref.ref(far)

    left = await exchange()
    await turns()
    gc.collect()
    assert (heard, told, left()) == ([f"{kind}.disconnect"], [], None)
    assert caplog.messages == []


async def test_nothing_is_logged_above_debug_of_a_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    far = http()
    caplog.set_level(logging.INFO)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    await serve(app, far, policy="cancel")
    assert [record.levelname for record in caplog.records if record.name == "disconnect_mw"] == ["INFO"]
    assert caplog.messages[-1].endswith("and was cancelled")


@on_asyncio
async def test_a_thread_that_the_app_waits_for_is_given_up() -> None:
    """Nobody can cancel it."""
    far = http()
    until = Until()
    loop = asyncio.get_running_loop()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.to_thread.run_sync(poll, connection(scope))

    def poll(client: Any) -> None:
        loop.call_soon_threadsafe(far.leave)
        while client.connected:
            time.sleep(0.001)
        loop.call_soon_threadsafe(until.note, "the thread has ended")

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"
    with anyio.fail_after(SECONDS):
        await until("the thread has ended")


@on_asyncio
@pytest.mark.parametrize("uses", ["shield", "cancel", "nothing"])
async def test_an_exception_of_the_apps_own_keeps_no_exchange(uses: str) -> None:
    """The task keeps it, its traceback the frames: nothing of the exchange may keep the task."""
    with without_collections():
        far = http()
        scope = far.scope()
        left_behind, leave = weakref.ref(far), weakref.WeakMethod(far.leave)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if uses == "shield":
                async with connection(scope).shield():
                    pass
            elif uses == "cancel":
                await receive()
                leave()()  # type: ignore[misc]  # it is there until the end
                try:
                    await anyio.sleep_forever()
                except asyncio.CancelledError:
                    raise LookupError("the app's own") from None
            raise LookupError("the app's own")

        middleware = DisconnectMiddleware(app, policy="cancel")
        task = asyncio.get_running_loop().create_task(middleware(scope, far.receive, far.send))
        await asyncio.wait({task}, timeout=5)
        assert isinstance(task.exception(), LookupError)
        del far, scope, app, middleware, task
        await turns()
        assert left_behind() is None
