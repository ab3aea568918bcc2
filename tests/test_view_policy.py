"""The handler's view of its client: the policy, which the handler can read and set."""

from __future__ import annotations

import functools
from typing import Any

import anyio
import anyio.to_thread
import pytest

from disconnect_mw import ClientConnection, ClientDisconnected, connection

from .support.messages import CHUNK, DISCONNECT, FINAL, START
from .support.records import gone
from .support.serving import left, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


@pytest.mark.parametrize("policy", ["mute", "raise", "cancel"])
async def test_the_policy_can_be_read(policy: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(connection(scope).policy)

    far, other = http(), websocket()
    await serve(app, far, policy=policy, websocket_policy="raise")
    await serve(app, other, policy="mute", websocket_policy=policy)
    assert seen == [policy] * 2


@pytest.mark.parametrize(("bad", "error"), [("cancle", ValueError), (None, TypeError), (7, TypeError)])
async def test_what_is_no_policy_is_refused(bad: Any, error: type[Exception]) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        with pytest.raises(error, match="^policy must be 'mute', 'finish', 'cancel' or 'raise', not "):
            client.policy = bad
        assert client.policy == "mute"
        far.leave()
        await gone(client)
        with pytest.raises(error):
            client.policy = bad

    scope = far.scope()
    await serve(app, far, scope)
    with pytest.raises(error):
        connection(scope).policy = bad


async def test_a_handler_that_wants_to_be_cancelled_is() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).policy = "cancel"
        await left(far)

    scope = far.scope()
    assert await serve(app, far, scope) is None
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"
    assert connection(scope).policy == "cancel"


async def test_a_handler_that_wants_to_go_on_does() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        connection(scope).policy = "mute"
        far.leave()
        await gone(connection(scope))
        await turns()
        return "saved"

    assert await serve(app, far, policy="cancel") == "saved"


async def test_a_handler_that_wants_to_hear_of_it_does() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection(scope).policy = "raise"
        await send(START)
        far.leave()
        while True:
            await send(CHUNK)
            await anyio.sleep(0.001)

    assert await serve(app, far) is None


@pytest.mark.parametrize(
    ("before", "after", "version"),
    [
        ("mute", "raise", "2.4"),
        ("raise", "mute", "2.3"),
        ("raise", "cancel", "2.4"),
        ("raise", "finish", "2.4"),
        ("mute", "cancel", "2.4"),
        ("mute", "finish", "2.4"),
        ("cancel", "mute", "2.3"),
    ],
)
async def test_the_version_that_the_scope_claims_stays_true(before: Any, after: Any, version: str) -> None:
    """P4."""
    far = http()
    shared = {"version": "3.0", "spec_version": "2.3"}
    scope = {**far.scope(), "asgi": shared}

    async def app(inner: Any, receive: Any, send: Any) -> None:
        connection(inner).policy = after
        assert inner is scope
        assert inner["asgi"] == {"version": "3.0", "spec_version": version}

    await serve(app, far, scope, policy=before)
    assert shared == {"version": "3.0", "spec_version": "2.3"}, "other requests share it"


async def test_a_handler_that_asks_for_mute_is_given_what_the_server_stated() -> None:
    far = http()
    scope = {**far.scope(), "asgi": {"version": "3.0", "spec_version": "2.1"}}
    stated = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        stated.append(scope["asgi"]["spec_version"])
        connection(scope).policy = "mute"
        stated.append(scope["asgi"]["spec_version"])

    await serve(app, far, scope, policy="raise")
    assert stated == ["2.4", "2.1"]


@pytest.mark.parametrize("policy", ["raise", "cancel"])
async def test_after_the_departure_to_set_it_raises_and_that_ends_quietly(policy: Any) -> None:
    far = http()
    caught: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        far.leave()
        await gone(client)
        client.policy = "mute"  # as it was: nothing is asked
        try:
            client.policy = policy
        except ClientDisconnected as exception:
            caught.append(exception.message)
            raise

    scope = far.scope()
    assert await serve(app, far, scope) is None
    assert caught == [DISCONNECT]
    assert connection(scope).policy == "mute"


async def test_after_the_end_to_set_it_does_nothing() -> None:
    far = http()
    kept: list[ClientConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept.append(connection(scope))
        far.leave()
        await gone(kept[0])

    scope = far.scope()
    await serve(app, far, scope)
    for client in (connection(scope), kept[0]):
        setattr(client, "policy", "raise")  # noqa: B010  # a type checker would believe it
        assert client.policy == "mute"


async def test_after_the_end_with_the_client_there_it_is_mute() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    far = http()
    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert connection(scope).policy == "mute"


async def test_a_thread_may_set_it() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.to_thread.run_sync(functools.partial(setattr, connection(scope), "policy", "cancel"))
        await left(far)

    assert await serve(app, far) is None
