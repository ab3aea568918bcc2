"""P12: while a handler is within `shield()` it is not told of the disconnect, and nothing cancels it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import ClientConnection, ClientDisconnected, DisconnectMiddleware, _cancellation, connection

from .support.apps import behind, leaves_generators
from .support.messages import ACCEPT, CHUNK, DISCONNECT, FINAL, START
from .support.records import gone
from .support.serving import GRACE_AT_HAND, SECONDS, App, Until, call, grace_at_hand, on_asyncio, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


async def test_the_cancellation_is_held_off_until_the_end_of_the_block() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            await turns()
            await anyio.sleep(0.005)
            steps.append("committed")
        steps.append("after the block")

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") is None
    assert steps == ["committed"]
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"


@pytest.mark.parametrize("policy", ["mute", "cancel"])
async def test_a_block_while_the_client_is_there_changes_nothing(policy: Any) -> None:
    """P0: not a context variable either."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        async with connection(scope).shield():
            await turns()
        assert _cancellation._blocks.get() == ()
        await turns()
        await send(START)
        await send(FINAL)
        return "done"

    assert await serve(app, far, policy=policy) == "done"


async def test_the_grace_may_end_within_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            await end_of_grace()
            steps.append("committed")
        steps.append("after the block")

    await serve(app, far, grace=GRACE_AT_HAND)
    assert steps == ["committed"]


async def test_the_grace_may_end_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
        await turns()
        steps.append("after the block")
        await end_of_grace()
        steps.append("after the grace")

    await serve(app, far, grace=GRACE_AT_HAND)
    assert steps == ["after the block"]


async def test_nested_blocks_hold_it_off_until_the_last_has_ended() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            async with client.shield():
                far.leave()
                await gone(client)
            await turns()
            steps.append("inner")
        steps.append("outer")

    await serve(app, far, policy="cancel")
    assert steps == ["inner"]


async def test_a_block_in_a_child_task_shields_the_whole_app() -> None:
    far = http()
    steps: list[str] = []

    async def save(client: ClientConnection) -> None:
        async with client.shield():
            far.leave()
            await gone(client)
            await turns()
            steps.append("committed")
        steps.append("after the block")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save, connection(scope))

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert steps[0] == "committed"
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"


async def test_blocks_in_two_tasks_hold_it_off_until_both_have_ended() -> None:
    far = http()
    until = Until()

    async def save(client: ClientConnection, name: str, waits_for: str) -> None:
        async with client.shield():
            until.note(f"{name} in")
            await until(waits_for)
            until.note(f"{name} saved")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(save, client, "first", "gone")
            tasks.start_soon(save, client, "second", "first saved")
            await until("second in")
            far.leave()
            await gone(client)
            until.note("gone")
            await anyio.sleep_forever()

    await serve(app, far, policy="cancel")
    assert until.happened[-2:] == ["first saved", "second saved"]


async def test_one_shield_may_be_held_by_two_tasks() -> None:
    far = http()
    until = Until()

    async def first(client: ClientConnection, shield: Any) -> None:
        async with shield:
            until.note("first in")
            await until("gone")
        until.note("first out")

    async def second(client: ClientConnection, shield: Any, receive: Any) -> None:
        await until("first in")
        async with shield:
            far.leave()
            await gone(client)
            until.note("gone")
            await until("first out")
            assert await receive() == DISCONNECT, "it is in the block"
            await turns()
            until.note("committed")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        shield = client.shield()
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first, client, shield)
            tasks.start_soon(second, client, shield, receive)

    await serve(app, far)
    assert until.happened == ["first in", "gone", "first out", "committed"]


async def test_what_a_block_raises_passes_at_once() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            raise ValueError("x")

    scope = far.scope()
    with pytest.raises(ValueError, match="x"):
        await serve(app, far, scope, policy="cancel")
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "raised"


async def test_after_a_block_that_raised_the_cancellation_comes_at_the_next_await() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        with contextlib.suppress(ValueError):
            async with client.shield():
                far.leave()
                await gone(client)
                raise ValueError
        steps.append("caught")
        await turns()
        steps.append("after an await")

    await serve(app, far, policy="cancel")
    assert steps == ["caught"]


async def test_a_block_that_begins_after_the_disconnect_comes_to_its_end() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await gone(connection(scope))
        async with connection(scope).shield():
            steps.append("in the block")
            await turns()
            steps.append("committed")

    for grace in (None, 60):
        steps.clear()
        far = http()
        await serve(app, far, policy="cancel", grace=grace)
        assert steps == ["in the block", "committed"]


async def test_sends_in_a_block_are_muted_and_in_the_raising_policy_raise() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await send(START)
        async with client.shield():
            far.leave()
            await gone(client)
            if client.policy == "raise":
                with pytest.raises(ClientDisconnected):
                    await send(CHUNK)
            else:
                assert await send(CHUNK) is None

    await serve(app, far, policy="cancel")
    far = http()
    await serve(app, far, policy="raise")


@pytest.mark.parametrize("installs", [1, 2, 3])
async def test_other_tasks_that_wait_to_receive_hear_of_it_at_the_end_of_the_block(installs: int) -> None:
    """Frameworks cancel on it. But not those that were made in it: the block may wait for them."""
    far = http()
    until = Until()

    async def listen(receive: Any, name: str, begins: str = "at once") -> None:
        await until(begins)
        assert await receive() == DISCONNECT
        until.note(name)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await receive()
        until.note("at once")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, "early")
            tasks.start_soon(listen, receive, "late", "gone")
            await turns()
            async with client.shield():
                far.leave()
                await gone(client)
                until.note("gone")
                await turns()
                assert until.happened == ["at once", "gone"]
                assert await receive() == DISCONNECT, "but whoever is in the block"
                tasks.start_soon(listen, receive, "made in it")
                await until("made in it")
        assert until.happened[:3] == ["at once", "gone", "made in it"]
        assert sorted(until.happened[3:]) == ["early", "late"]

    wrapped: App = app
    for _ in range(installs):
        wrapped = DisconnectMiddleware(wrapped)
    await call(wrapped, far)


@pytest.mark.parametrize("installs", [1, 2, 3])
async def test_whoever_comes_to_receive_during_the_block_hears_of_it_at_its_end(installs: int) -> None:
    far = http()
    until = Until()

    async def listen(receive: Any) -> None:
        await until("gone")
        until.note("asks")
        assert await receive() == DISCONNECT
        until.note("heard")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            async with client.shield():
                far.leave()
                await gone(client)
                until.note("gone")
                await until("asks")
                await turns()
                until.note("end")

    wrapped: App = app
    for _ in range(installs):
        wrapped = DisconnectMiddleware(wrapped)
    await call(wrapped, far)
    assert until.happened == ["gone", "asks", "end", "heard"]


async def test_whoever_waits_for_the_rest_of_a_body_is_not_kept_waiting() -> None:
    """Where the body is cut; that may be what the block waits for."""
    far = http(body=[b"a", b"b"], leaves_after_chunks=1)
    until = Until()

    async def read(receive: Any) -> None:
        await until("in the block")
        while (await receive())["type"] == "http.request":
            pass
        until.note("read")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, receive)
            async with connection(scope).shield():
                until.note("in the block")
                await until("read")

    await serve(app, far)


async def test_a_websocket_is_told_at_once() -> None:
    far = websocket()
    until = Until()

    async def listen(receive: Any) -> None:
        until.note((await receive())["type"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive)
            await turns()
            async with connection(scope).shield():
                far.leave()
                await until("websocket.disconnect")

    await serve(app, far)


@leaves_generators
@pytest.mark.parametrize("policy", ["mute", "cancel"])
@pytest.mark.parametrize("layers", [0, 1, 2])
async def test_a_generator_of_starlettes_stream_goes_on_to_the_end_of_its_block(layers: int, policy: Any) -> None:
    """Its listener cancels it on the disconnect."""
    far = http()
    saved: list[int] = []

    async def tokens(client: ClientConnection) -> AsyncIterator[str]:
        async with client.shield():
            for number in range(10):
                if number == 3:
                    far.leave()
                await anyio.sleep(0.002)
                saved.append(number)
                yield "token"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(tokens(connection(request)))

    await call(behind(Starlette(routes=[Route("/", endpoint)]), layers, policy=policy), far)
    assert saved == [*range(10)]


@on_asyncio
@pytest.mark.parametrize("policy", ["mute", "cancel"])
@pytest.mark.parametrize("leaves", [True, False])
async def test_somebody_elses_cancellation_is_not_held_off(policy: Any, leaves: bool) -> None:
    """P6."""
    far = http()
    inside = asyncio.Event()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            if leaves:
                far.leave()
                await gone(client)
            inside.set()
            await anyio.sleep_forever()
        steps.append("after the block")

    task = asyncio.ensure_future(DisconnectMiddleware(app, policy=policy)(far.scope(), far.receive, far.send))
    await asyncio.wait_for(inside.wait(), SECONDS)
    await turns()
    task.cancel()
    await asyncio.wait({task}, timeout=SECONDS)
    assert (task.cancelled(), steps) == (True, [])


async def test_a_cancel_scope_of_the_apps_own_is_not_held_off() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        with anyio.move_on_after(0.002) as own:
            async with connection(scope).shield():
                await anyio.sleep_forever()
        assert own.cancelled_caught
        return "done"

    assert await serve(app, far, policy="cancel") == "done"


async def test_a_block_that_outlives_the_app_cancels_nobody() -> None:
    """What the app left behind ends its block while the skeleton of the response is on its way to the server (P11)."""
    far = http()
    until = Until()

    async def save(client: ClientConnection) -> None:
        async with client.shield():
            until.note("in the block")
            await until("the app has ended")
            await turns()
        until.note("block ended")

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        tasks.start_soon(save, client)
        await until("in the block")
        far.leave()
        await gone(client)
        return "done"

    async def slow_send(message: Any) -> None:
        until.note("the app has ended")
        await until("block ended")
        await turns()
        await far.send(message)

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(SECONDS):
            result = await DisconnectMiddleware(app, policy="cancel")(far.scope(), far.receive, slow_send)
            await turns()
    assert result == "done"


async def test_a_block_after_the_end_holds_nothing_off() -> None:
    far = http()
    kept: list[ClientConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(connection(scope))
        far.leave()
        await gone(kept[0])

    scope = far.scope()
    await serve(app, far, scope)
    for client in (*kept, connection(scope)):
        async with client.shield():
            await turns()


async def test_a_block_around_the_last_message_is_followed_by_no_cancellation() -> None:
    """P3."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            await send(START)
            await send(FINAL)
        await turns()
        return "background done"

    assert await serve(app, far, policy="cancel") == "background done"


async def test_a_block_under_a_nested_install_holds_off_the_outer_ones_cancellation() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            await turns()
            steps.append("committed")
        steps.append("after the block")

    stack = behind(DisconnectMiddleware(app), 1, policy="cancel")
    scope = far.scope()
    await call(stack, far, scope)
    assert steps == ["committed"]


async def test_a_listener_between_nested_installs_hears_of_it_at_the_end_of_the_block_too() -> None:
    far = http()
    until = Until()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        await receive()
        async with client.shield():
            until.note("in the block")
            far.leave()
            await gone(client)
            await turns()
            assert "heard" not in until.happened
        await until("heard")

    async def between(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(DisconnectMiddleware(inner), scope, receive, send)
            await until("in the block")
            assert await receive() == DISCONNECT
            until.note("heard")

    await serve(between, far)


def test_without_an_event_loop_it_works_as_well() -> None:
    """A coroutine that is driven by hand."""
    far = http()
    steps: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        steps.append((client.connected, client.policy))
        client.policy = "cancel"
        await receive()
        async with client.shield():
            far.leave()
            assert await receive() == DISCONNECT
        steps.append((client.connected, client.policy))
        assert await client.wait_disconnected() is client.disconnect
        async with client.shield():
            steps.append("once more")
        return "done"

    coroutine = DisconnectMiddleware(app)(far.scope(), far.receive, far.send)
    with pytest.raises(StopIteration) as stopped:
        for _ in range(200):
            coroutine.send(None)
    assert stopped.value.value == "done"
    assert steps == [(True, "mute"), (False, "cancel"), "once more"]
    assert far.sent[-1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_view_of_an_exchange_that_is_over_knows_its_policy(kind: str) -> None:
    far: Any = http() if kind == "http" else websocket()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await receive()
        await receive()

    await serve(app, far, scope)
    assert connection(scope).policy == ("mute" if kind == "http" else "raise")


@pytest.mark.parametrize("policy", ["mute", "cancel"])
async def test_an_app_may_copy_and_pickle_the_scope(policy: Any) -> None:
    """P0."""
    far = http()
    copies: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        copies.extend([copy.copy(scope), copy.deepcopy(scope), pickle.loads(pickle.dumps(scope))])
        assert connection(copies[1]).connected
        assert copy.copy(scope["disconnect_mw.connection"]) is scope["disconnect_mw.connection"]

    scope = {**far.scope()}
    before = {**scope, "asgi": {**scope["asgi"], "spec_version": "2.3" if policy == "mute" else "2.4"}}
    await DisconnectMiddleware(app, policy=policy)(scope, far.receive, far.send)
    for copied in copies:
        del copied["disconnect_mw.connection"]
        assert copied == before
