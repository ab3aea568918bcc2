"""P12: how long the disconnect is withheld: under `finish` until the last message, under `cancel` for `grace`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, connection

from .support.apps import behind
from .support.messages import CHUNK, DISCONNECT, EMPTY_FINAL, FINAL, REQUEST, START, START_499
from .support.records import ended, gone
from .support.serving import GRACE_AT_HAND, SECONDS, App, Until, call, grace_at_hand, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]

TRAILERS = {"type": "http.response.trailers", "headers": []}


async def listen(receive: Any, until: Until) -> None:
    """Receive until that is the disconnect, as a framework's listener does."""
    while (await receive()) != DISCONNECT:
        pass
    until.note("told")


def installed(app: App, times: int, **options: Any) -> App:
    """`app` in so many installs, of which the innermost has the options."""
    app = DisconnectMiddleware(app, **options)
    for _ in range(times - 1):
        app = DisconnectMiddleware(app)
    return app


# Until the last message


@pytest.mark.parametrize("installs", [1, 2])
@pytest.mark.parametrize(
    "messages",
    [
        [START, CHUNK, FINAL],
        [{**START, "trailers": True}, CHUNK, FINAL, TRAILERS],
        [START, {"type": "http.response.pathsend", "path": "/dev/null"}],
    ],
    ids=["body", "trailers", "pathsend"],
)
async def test_a_listener_is_told_after_the_apps_last_message(messages: list[Any], installs: int) -> None:
    far = http()
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, until)
            await turns()
            far.leave()
            await gone(connection(scope))
            for message in messages:
                await turns()
                until.note("sends")
                await send(message)
            await until("told")
        return "saved"

    scope = far.scope()
    assert await call(installed(app, installs, policy="finish"), far, scope) == "saved"
    assert until.happened == ["sends"] * len(messages) + ["told"]
    assert ended(scope) == "returned"


async def test_whoever_asks_after_the_disconnect_waits_until_the_last_message() -> None:
    far = http()
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await gone(connection(scope))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, until)
            await turns()
            until.note("sends")
            await send(START)
            await send(FINAL)
        assert await receive() == DISCONNECT

    await serve(app, far, policy="finish")
    assert until.happened == ["sends", "told"]


async def test_the_view_and_the_hook_know_from_the_first_moment() -> None:
    far = http()
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        assert client.connected
        far.leave()
        disconnect = await gone(client)
        assert (client.connected, told) == (False, [disconnect])

    await serve(app, far, policy="finish", on_disconnect=told.append)


async def test_what_is_sent_is_muted() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await gone(connection(scope))
        for message in (START, CHUNK, FINAL):
            assert await send(message) is None

    await serve(app, far, policy="finish")
    assert far.delivered == []


async def test_a_listener_that_outlives_the_app_is_told_at_its_end() -> None:
    """Although the last message never came."""
    far = http()
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.start_soon(listen, receive, until)
        await turns()
        far.leave()
        await gone(connection(scope))
        await turns()
        until.note("returns")

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            await DisconnectMiddleware(app, policy="finish")(far.scope(), far.receive, far.send)
    assert until.happened == ["returns", "told"]
    assert far.sent == [START_499, EMPTY_FINAL]


async def test_a_last_message_that_comes_after_the_exchange_is_muted_and_wakes_nobody() -> None:
    far = http()
    until = Until()

    async def answer(send: Any) -> None:
        await until("over")
        for message in (START, CHUNK, FINAL):
            assert await send(message) is None
        until.note("answered")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.start_soon(answer, send)
        far.leave()
        await gone(connection(scope))

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            await DisconnectMiddleware(app, policy="finish")(far.scope(), far.receive, far.send)
            until.note("over")
    assert until.happened == ["over", "answered"]
    assert far.sent == [START_499, EMPTY_FINAL]


# What comes before the disconnect


async def test_a_body_that_is_cut_is_told_at_once() -> None:
    """It can never be whole, and the app waits for it."""
    far = http(body=[b"a", b"b"], leaves_after_chunks=1)
    received: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        received.append((await receive())["body"])
        received.append(await receive())
        return "told"

    assert await serve(app, far, policy="finish") == "told"
    assert received == [b"a", DISCONNECT]


async def test_an_announced_body_that_was_not_read_is_told_as_cut() -> None:
    far = http(body=b"a")

    async def app(scope: Any, receive: Any, send: Any) -> str:
        far._incoming.clear()  # the server drops what nobody has read
        far.leave()
        assert await receive() == DISCONNECT
        assert await receive() == DISCONNECT
        return "told"

    assert await serve(app, far, policy="finish") == "told"


async def test_a_request_without_a_body_gets_its_empty_message_first() -> None:
    """Also from a server that delivers nothing but the disconnect once the client has left."""
    far = http()
    far._incoming.clear()
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await gone(connection(scope))
        assert await receive() == REQUEST
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, until)
            await turns()
            until.note("sends")
            await send(START)
            await send(FINAL)

    await serve(app, far, policy="finish")
    assert until.happened == ["sends", "told"]


async def test_an_app_that_was_given_an_empty_body_for_the_disconnect_was_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So it is cancelled at the end of its grace, and has no time to clean up."""
    far = http()
    far._incoming.clear()
    end_of_grace = grace_at_hand(monkeypatch)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        assert await receive() == REQUEST
        await end_of_grace()
        while True:
            await anyio.sleep(0.01)

    scope = far.scope()
    await serve(app, far, scope, policy="cancel", grace=GRACE_AT_HAND)
    assert ended(scope) == "cancelled"


async def test_what_was_read_ahead_is_handed_out_first() -> None:
    far = http()
    far._incoming[:] = [{**REQUEST, "read": "ahead"}]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not far.reads:
            await anyio.sleep(0.001)
        far.leave()
        await gone(connection(scope))
        assert await receive() == {**REQUEST, "read": "ahead"}
        with anyio.move_on_after(0.01) as is_withheld:
            await receive()
        assert is_withheld.cancelled_caught

    await serve(app, far, policy="finish")


# How long


async def test_after_the_grace_whoever_listens_is_told_and_may_end_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, until)
            await turns()
            far.leave()
            await gone(connection(scope))
            await turns()
            until.note("grace ends")
            await end_of_grace()
            await until("told")
        return "saved"

    scope = far.scope()
    assert await serve(app, far, scope, policy="finish", grace=GRACE_AT_HAND) == "saved"
    assert (until.happened, ended(scope)) == (["grace ends", "told"], "returned")


async def test_after_the_grace_an_app_to_which_nobody_listens_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await gone(connection(scope))
        await end_of_grace()
        await anyio.sleep_forever()

    scope = far.scope()
    assert await serve(app, far, scope, policy="finish", grace=GRACE_AT_HAND) is None
    assert ended(scope) == "cancelled"


@pytest.mark.parametrize("options", [{}, {"grace": 3600}])
async def test_the_app_is_not_cancelled_before(options: Any) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        far.leave()
        await gone(connection(scope))
        await turns(40)
        await anyio.sleep(0.06)
        return "saved"

    assert await serve(app, far, policy="finish", **options) == "saved"


# Starlette


@pytest.mark.parametrize("layers", [0, 1, 2])
async def test_a_stream_goes_on_to_its_end_and_its_background_task_runs(layers: int) -> None:
    far = http()
    saved: list[Any] = []

    async def tokens(client: Any) -> AsyncIterator[str]:
        for number in range(5):
            if number == 2:
                far.leave()
                await gone(client)
            await turns(2)
            saved.append(number)
            yield "token"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(tokens(connection(request)), background=BackgroundTask(saved.append, "background"))

    app = Starlette(routes=[Route("/", endpoint)])
    await call(behind(app, layers, policy="finish"), far)
    assert saved == [0, 1, 2, 3, 4, "background"]


async def test_is_disconnected_is_false_until_the_last_message() -> None:
    far = http()
    answers: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        far.leave()
        await gone(connection(scope))
        answers.append(await request.is_disconnected())
        await send(START)
        answers.append(await request.is_disconnected())
        await send(FINAL)
        answers.append(await request.is_disconnected())

    await serve(app, far, policy="finish")
    assert answers == [False, False, True]


# Under `cancel`, for `grace`


async def test_during_the_grace_neither_a_listener_nor_a_poll_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        request = Request(scope, receive)
        await request.body()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, until)
            await turns()
            far.leave()
            await gone(connection(scope))
            await turns()
            assert not await request.is_disconnected()
            until.note("grace ends")
            await end_of_grace()
            await until("told")
            assert await request.is_disconnected()
        return "saved"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel", grace=GRACE_AT_HAND) == "saved"
    assert (until.happened, ended(scope)) == (["grace ends", "told"], "returned")


async def test_during_the_grace_a_body_that_is_cut_is_told_at_once() -> None:
    far = http(body=[b"a", b"b"], leaves_after_chunks=1)

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        return await receive()

    assert await serve(app, far, policy="cancel", grace=3600) == DISCONNECT


@pytest.mark.parametrize("policy", ["mute", "raise"])
async def test_under_other_policies_a_grace_tells_at_once_and_cancels_whoever_listens_after_it(
    policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was told long ago gets no time of his own besides."""
    far = http()
    end_of_grace = grace_at_hand(monkeypatch)
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, until)
            await turns()
            far.leave()
            await until("told")
            tasks.start_soon(receive)
            await turns()
            await end_of_grace()
            await turns(40)
            until.note("goes on")

    scope = far.scope()
    assert await serve(app, far, scope, policy=policy, grace=GRACE_AT_HAND) is None
    assert (until.happened, ended(scope)) == (["told"], "cancelled")


def test_without_an_event_loop_a_grace_withholds_nothing() -> None:
    """A coroutine that is driven by hand: nothing would end the grace."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        far.leave()
        return await receive()

    with pytest.raises(StopIteration) as stopped:
        DisconnectMiddleware(app, policy="cancel", grace=3600)(far.scope(), far.receive, far.send).send(None)
    assert stopped.value.value == DISCONNECT


# Elsewhere


async def test_of_nested_installs_the_inner_policy_says_whether_it_is_withheld() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        assert await receive() == DISCONNECT
        with pytest.raises(ClientDisconnected):
            await send(START)

    await serve(DisconnectMiddleware(app, policy="raise"), far, policy="finish")


def test_without_an_event_loop_the_last_message_releases_it() -> None:
    """A coroutine that is driven by hand."""
    far = http()
    steps: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        waiting = receive()
        for _ in range(3):
            assert waiting.send(None) is None
        await send(START)
        assert waiting.send(None) is None
        await send(FINAL)
        steps.append("sent")
        with pytest.raises(StopIteration) as stopped:
            waiting.send(None)
        steps.append(stopped.value.value)

    with pytest.raises(StopIteration):
        DisconnectMiddleware(app, policy="finish")(far.scope(), far.receive, far.send).send(None)
    assert steps == ["sent", DISCONNECT]


# Where nothing is withheld


async def test_cancel_with_an_endless_grace_withholds_nothing() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        far.leave()
        return await receive()

    assert await serve(app, far, policy="cancel", grace=math.inf) == DISCONNECT


async def test_on_a_websocket_finish_mutes_and_tells() -> None:
    far = websocket()
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await send({"type": "websocket.accept"})
        far.leave()
        got.append((await receive())["type"])
        await send({"type": "websocket.send", "text": "to nobody"})
        return "saved"

    assert await serve(app, far, websocket_policy="finish") == "saved"
    assert got == ["websocket.disconnect"]
