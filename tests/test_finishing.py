"""The policy `finish`, what is withheld and until when, and how many apps may go on for nobody (P10, P12)."""

from __future__ import annotations

import math
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from disconnect_mw import DisconnectMiddleware, connection

from .support.messages import CHUNK, DISCONNECT, FINAL, REQUEST, START
from .support.records import ended, gone
from .support.serving import GRACE, call, left, serve, turns
from .support.simulated_server import SimulatedServer, http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


async def listen(receive: Any, heard: list[Any]) -> None:
    heard.append(await receive())


async def test_the_disconnect_is_withheld_until_the_last_message_and_then_told() -> None:
    far = http()
    heard: list[Any] = []
    steps: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, receive, heard)
            far.leave()
            client = connection(scope)
            await gone(client)
            steps.append(client.connected)
            for message in (START, CHUNK, FINAL):
                await turns()
                steps.append(list(heard))
                await send(message)
            with anyio.fail_after(1):
                while not heard:
                    await anyio.lowlevel.checkpoint()
        return "saved"

    scope = far.scope()
    assert await serve(app, far, scope, policy="finish") == "saved"
    assert (steps, heard, ended(scope)) == ([False, [], [], []], [DISCONNECT], "returned")
    assert far.sent == [{**START, "status": 200}, {**FINAL, "body": b"", "more_body": False}]


@pytest.mark.parametrize("options", [{"policy": "finish", "grace": GRACE}, {"policy": "cancel", "grace": GRACE}])
async def test_after_the_grace_whoever_listens_is_told(options: Any) -> None:
    far = http()
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        began = anyio.current_time()
        heard.append(await receive())
        assert anyio.current_time() - began >= GRACE - 0.003
        return "ended by itself"

    scope = far.scope()
    assert await serve(app, far, scope, **options) == "ended by itself"
    assert (heard, ended(scope)) == ([DISCONNECT], "returned")


async def test_cancel_with_an_endless_grace_withholds_nothing() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        far.leave()
        return await receive()

    assert await serve(app, far, policy="cancel", grace=math.inf) == DISCONNECT


@pytest.mark.parametrize("policy", ["finish", "cancel"])
async def test_an_app_that_has_not_read_its_empty_request_gets_that_first(policy: Any) -> None:
    far = http()
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        far.leave()
        await gone(connection(scope))
        got.append(await receive())
        with anyio.move_on_after(0.01):
            got.append(await receive())
        await send(FINAL)
        got.append(await receive())

    await serve(app, far, policy=policy, grace=60)
    assert got == [REQUEST, DISCONNECT]


async def test_a_cut_body_is_told_at_once() -> None:
    far = SimulatedServer(incoming=[{"type": "http.request", "body": b"one", "more_body": True}])
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(await receive())
        far.leave()
        got.append(await receive())

    scope = far.scope()
    scope["method"], scope["headers"] = "POST", [(b"content-length", b"6")]
    await serve(app, far, scope, policy="finish")
    assert got[1] == DISCONNECT


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


# Orphans


async def play(options: Any, shields: bool = False) -> list[str]:
    """How three apps ended whose clients have left one after another, in that order."""
    ends: list[str] = ["", "", ""]
    over = anyio.Event()
    middlewares: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = int(scope["path"][1:])
        fars[number].leave()
        try:
            if shields and number == 0:
                async with connection(scope).shield():
                    await over.wait()
            await over.wait()
            ends[number] = "went on"
        finally:
            ends[number] = ends[number] or "cancelled"

    middlewares.append(DisconnectMiddleware(app, **options))
    fars = [http(path=f"/{number}") for number in range(3)]
    async with anyio.create_task_group() as tasks:
        for far in fars:
            tasks.start_soon(call, middlewares[0], far)
            await anyio.sleep(0.05)
        over.set()
    return ends


async def test_the_one_that_has_gone_on_longest_is_cancelled() -> None:
    assert await play({"policy": "finish", "max_orphans": 2}) == ["cancelled", "went on", "went on"]


async def test_as_many_as_are_allowed_go_on() -> None:
    assert await play({"policy": "finish", "max_orphans": 3}) == ["went on"] * 3


async def test_a_shielded_one_is_excepted() -> None:
    options = {"policy": "finish", "max_orphans": 2}
    assert await play(options, shields=True) == ["went on", "cancelled", "went on"]


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)]
)
def test_what_is_no_number_of_orphans_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^max_orphans must be "):
        DisconnectMiddleware(left, policy="finish", max_orphans=value)


def test_a_limit_where_nothing_can_go_on_is_refused() -> None:
    with pytest.raises(ValueError, match="^max_orphans needs apps that can go on for nobody"):
        DisconnectMiddleware(left, policy="raise", max_orphans=1)
    DisconnectMiddleware(left, policy="raise", max_orphans=1, policy_for={"/agents/*": "finish"})


# By the path


@pytest.mark.parametrize(
    ("path", "policy"), [("/v1/chat", "cancel"), ("/v1/models", "finish"), ("/v2/chat", "raise"), ("/", "mute")]
)
async def test_a_policy_may_be_chosen_by_the_path(path: str, policy: str) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(connection(scope).policy)

    by_path: Any = {"/v1/models": "finish", "/v1/*": "cancel", "/v2/*": "raise"}
    await serve(app, http(path=path), policy_for=by_path)
    assert seen == [policy]


@pytest.mark.parametrize(
    ("policies", "error", "text"),
    [
        ({"/answer": "cancle"}, ValueError, "policy_for['/answer'] must be 'mute', 'finish', 'cancel' or 'raise', not"),
        ({"/answer": None}, TypeError, "policy_for['/answer'] must be"),
        ({7: "cancel"}, TypeError, "policy_for must have patterns of paths as its keys, not 7"),
        ({"v1/*": "cancel"}, ValueError, "policy_for has a pattern that matches no path, 'v1/*'"),
    ],
)
def test_a_mapping_with_a_mistake_is_refused(policies: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        DisconnectMiddleware(left, policy_for=policies)
    assert str(caught.value).startswith(text)
