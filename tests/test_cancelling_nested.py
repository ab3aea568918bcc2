"""P6: where the middleware is installed more than once each app is cancelled once, in its own task."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from disconnect_mw import CancelOnDisconnect, DisconnectMiddleware, _backends, _connection, connection
from disconnect_mw._backends import _asyncio

from .support.messages import DISCONNECT, EMPTY_FINAL, FINAL, START, START_499
from .support.records import ended, known
from .support.serving import (
    GRACE,
    GRACE_AT_HAND,
    SECONDS,
    App,
    call,
    grace_at_hand,
    left,
    on_asyncio,
    serve,
    shielded,
    turns,
)
from .support.simulated_server import http

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


def on_a_loop_of_its_own(app: App, seen: list[Any]) -> App:
    """As an adapter has it, with a thread of its own."""

    async def adapter(scope: Any, receive: Any, send: Any) -> None:
        async def inner_receive() -> Any:
            return anyio.from_thread.run(receive)

        async def inner_send(message: Any) -> None:
            anyio.from_thread.run(send, message)

        await anyio.to_thread.run_sync(lambda: asyncio.run(app(scope, inner_receive, inner_send)))  # type: ignore[arg-type]  # it is a coroutine
        seen.append("adapter goes on")

    return adapter


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that is done to a connection is done on its own event loop; what was done."""
    done: list[str] = []

    def watched(name: str) -> Any:
        do = getattr(_connection.Connection, name)

        def do_at_home(self: Any, *arguments: Any) -> Any:
            assert _backends.current()[1] is self.token, name
            done.append(name)
            return do(self, *arguments)

        return do_at_home

    for name in ("_on_disconnect", "cancel_app", "cancel_later", "wake_readers", "watch", "check"):
        monkeypatch.setattr(_connection.Connection, name, watched(name))
    return done


@pytest.mark.parametrize("outer", [{"policy": "cancel"}, {"policy": "cancel", "grace": 0.01}, {}])
async def test_an_inner_app_on_an_event_loop_of_its_own_is_cancelled_there(outer: Any, at_home: list[str]) -> None:
    far = http()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        anyio.from_thread.run_sync(far.leave)
        try:
            await asyncio.sleep(2 * SECONDS)
        finally:
            await asyncio.sleep(0.001)
            seen.append("cleaned up")

    inner = DisconnectMiddleware(app, policy="mute" if outer else "cancel")
    scope = far.scope()
    await serve(on_a_loop_of_its_own(inner, seen), far, scope, **outer)
    assert (seen, ended(scope)) == (["cleaned up", "adapter goes on"], "cancelled")
    assert outer or "watch" in at_home


async def test_an_inner_app_on_an_event_loop_of_its_own_has_a_shield(at_home: list[str]) -> None:
    far = http()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with connection(scope).shield():
            anyio.from_thread.run_sync(far.leave)
            while connection(scope).connected:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            seen.append("committed")
        await asyncio.sleep(2 * SECONDS)

    scope = far.scope()
    await serve(on_a_loop_of_its_own(DisconnectMiddleware(app), seen), far, scope, policy="cancel")
    assert (seen, ended(scope)) == (["committed", "adapter goes on"], "cancelled")
    assert {*at_home} >= {"_on_disconnect", "cancel_app", "cancel_later", "wake_readers", "check"}


def stack(app: App, outer: Any, inner: Any, seen: list[Any]) -> App:
    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        await turns()
        seen.append(response.status_code)
        return response

    return DisconnectMiddleware(BaseHTTPMiddleware(DisconnectMiddleware(app, **inner), dispatch), **outer)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({}, {"policy": "cancel"}),
        ({"policy": "cancel"}, {}),
        ({"policy": "cancel"}, {"policy": "cancel"}),
        ({"grace": GRACE}, {}),
        ({}, {"grace": GRACE}),
    ],
)
async def test_the_inner_app_is_cancelled_in_its_own_task_and_what_stands_outside_is_not(
    outer: Any, inner: Any
) -> None:
    far = http()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(anyio.get_current_task() == server)
        try:
            await left(far)
        finally:
            with shielded():
                await turns()
                await anyio.sleep(0.002)
            seen.append("cleaned up")

    server = anyio.get_current_task()
    scope = far.scope()
    await call(stack(app, outer, inner, seen), far, scope)
    assert seen == [False, "cleaned up", 499]
    assert ended(scope) == "cancelled"
    assert far.sent == [START_499, EMPTY_FINAL]


@pytest.mark.parametrize("installs", [2, 3])
async def test_installs_in_one_task_cancel_it_once(installs: int) -> None:
    far = http()
    cleaned: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            with shielded():
                await turns()
            cleaned.append("up")

    wrapped: App = app
    for _ in range(installs):
        wrapped = CancelOnDisconnect(wrapped)
    scope = far.scope()
    assert await call(wrapped, far, scope) is None
    assert (cleaned, ended(scope)) == (["up"], "cancelled")


async def test_what_stands_outside_is_cancelled_when_no_inner_app_is_left() -> None:
    far = http()
    steps: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        steps.append("inner")

    async def between(scope: Any, receive: Any, send: Any) -> None:
        await DisconnectMiddleware(inner)(scope, receive, send)
        await left(far)

    scope = far.scope()
    assert await serve(between, far, scope, policy="cancel") is None
    assert (steps, ended(scope)) == (["inner"], "cancelled")


async def test_an_inner_app_that_comes_after_the_departure_is_not_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one cancellation has ended what stands outside; its clean-up may call an app."""
    monkeypatch.setattr(_asyncio, "_UNTIL_SWALLOWED", 0)
    far = http()
    steps: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        with shielded():
            await turns()
            steps.append(await receive())

    async def between(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            with shielded():
                await DisconnectMiddleware(inner)(scope, receive, send)

    await serve(between, far, policy="cancel")
    assert steps == [DISCONNECT]


async def test_an_inner_app_that_comes_after_the_departure_is_cancelled_in_a_task_of_its_own() -> None:
    far = http()
    steps: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep(2 * SECONDS)
        finally:
            steps.append("inner cancelled")

    async def between(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(DisconnectMiddleware(inner), scope, receive, send)
                steps.append("cleaned up")

    await serve(between, far, policy="cancel")
    assert steps == ["inner cancelled", "cleaned up"]


async def test_an_inner_app_that_comes_after_the_departure_has_the_rest_of_the_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = http()
    steps: list[Any] = []
    end_of_grace = grace_at_hand(monkeypatch)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        try:
            await turns(20)
            steps.append("goes on")
            await end_of_grace()
            await anyio.sleep(2 * SECONDS)
        finally:
            steps.append("inner cancelled")

    async def between(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await known(scope)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(DisconnectMiddleware(inner), scope, receive, send)
        steps.append("between goes on")

    scope = far.scope()
    await serve(between, far, scope, grace=GRACE_AT_HAND)
    assert steps == ["goes on", "inner cancelled", "between goes on"]
    assert ended(scope) == "cancelled"


async def test_an_inner_app_that_is_complete_and_works_in_the_background_is_not_cancelled() -> None:
    """P3, although what stands outside has not sent it yet."""
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)
        far.leave()
        await connection(scope).wait_disconnected()
        await anyio.sleep(0.01)
        steps.append("background done")

    async def holding(scope: Any, receive: Any, send: Any) -> None:
        async def keep(message: Any) -> None:
            steps.append(message["type"])

        await DisconnectMiddleware(app)(scope, receive, keep)

    await serve(holding, far, policy="cancel")
    assert steps == ["http.response.start", "http.response.body", "background done"]


@on_asyncio
async def test_each_of_two_inner_apps_is_cancelled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the end of one is taken for an ordinary end by what stands around both."""
    monkeypatch.setattr(_connection, "_SECONDS_TO_COMPLETE", 0.005)
    monkeypatch.setattr(_asyncio, "_UNTIL_SWALLOWED", 0)
    far = http()
    steps: list[str] = []

    def app(name: str, seconds: float) -> DisconnectMiddleware:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                await anyio.sleep(seconds)
                steps.append(name)

        return DisconnectMiddleware(app)

    async def ignore(message: Any) -> None: ...

    async def between(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            for each in (app("one", 0), app("other", 0.03)):
                tasks.start_soon(each, dict(scope), receive, ignore)
            await turns()
            far.leave()

    await serve(between, far, policy="cancel")
    assert steps == ["one", "other"]


async def test_what_goes_on_around_an_inner_app_that_was_cancelled_is_cancelled_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes that for an ordinary end, and has a while to send what it makes of it."""
    monkeypatch.setattr(_connection, "_SECONDS_TO_COMPLETE", 0.01)
    far = http()
    scope = far.scope()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    async def ignore(message: Any) -> None: ...

    async def between(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(DisconnectMiddleware(app), scope, receive, ignore)
        await turns()
        steps.append("goes on")
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("cancelled")

    await serve(between, far, scope, policy="cancel")
    assert (steps, ended(scope)) == (["goes on", "cancelled"], "cancelled")


async def test_an_inner_app_that_is_complete_is_not_cancelled() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)
        steps.append("background")

    async def holding(scope: Any, receive: Any, send: Any) -> None:
        """Between the two, it keeps the last message until the app has ended."""
        kept: list[Any] = []

        async def keep(message: Any) -> None:
            kept.append(message)

        await DisconnectMiddleware(app)(scope, receive, keep)
        far.leave()
        await known(scope)
        steps.append("out")

    await serve(holding, far, policy="cancel")
    assert steps == ["background", "out"]
