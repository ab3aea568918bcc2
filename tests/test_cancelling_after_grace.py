"""P10: what goes on after its client has left is cancelled when its grace is over."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from disconnect_mw import connection

from .support.messages import ACCEPT, START
from .support.records import ended, gone
from .support.serving import GRACE, checked, left, serve
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


@pytest.mark.parametrize(
    "options", [{"policy": "cancel"}, {"policy": "mute"}, {"policy": "raise"}, {"websocket_policy": "raise"}]
)
async def test_the_grace_puts_the_cancellation_off(options: Any) -> None:
    far = websocket() if "websocket_policy" in options else http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if "websocket_policy" in options:
            await send(ACCEPT)
        far.leave()
        if options.get("policy") != "cancel":  # which withholds it
            await receive()
        await anyio.sleep_forever()

    scope = far.scope()
    await serve(app, far, scope, grace=GRACE, **options)
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.ended == "cancelled"
    assert GRACE - 0.003 <= exchange.seconds < 1


@pytest.mark.parametrize("policy", ["mute", "raise", "cancel"])
async def test_no_grace_at_all_cancels_at_once_under_any_policy(policy: Any) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    scope = far.scope()
    await serve(app, far, scope, policy=policy, grace=0)
    assert ended(scope) == "cancelled"


async def test_an_app_that_ends_within_its_grace_is_not_cancelled() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        far.leave()
        await gone(connection(scope))
        await anyio.sleep(0.002)
        return "saved"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel", grace=60) == "saved"
    assert ended(scope) == "returned"


async def test_an_endless_grace_cancels_never_and_what_is_sent_is_muted(caplog: pytest.LogCaptureFixture) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        far.leave()
        await receive()
        await send(START)
        await anyio.sleep(0.03)
        return "saved"

    assert await serve(app, far, policy="cancel", grace=math.inf) == "saved"
    assert [message["type"] for message in far.wasted] == ["http.response.start", "http.response.body"], "the skeleton"


@pytest.mark.parametrize("options", [{}, {"grace": math.inf}, {"policy": "cancel", "grace": math.inf}])
async def test_an_endless_grace_needs_nobody_to_look(options: Any) -> None:
    """Nor does none under `mute`. Under `cancel` somebody looks: what is sent is to be muted."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await checked()

    await serve(app, far, **options)
    assert (far.reads > 0) == ("policy" in options)


async def test_the_grace_ends_with_the_app() -> None:
    """A timer that was still there would hold the server."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far = send.__self__.server_receive.__self__
        far.leave()
        del far
        await gone(connection(scope))

    far = http()
    gc.disable()
    try:
        await serve(app, far, policy="cancel", grace=3600)
        reference = weakref.ref(far)
        del far
        assert reference() is None
    finally:
        gc.enable()
