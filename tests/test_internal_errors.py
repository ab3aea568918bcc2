"""An error of this package is logged once, and the app goes on as it would without the middleware."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from disconnect_mw import DisconnectMiddleware, _cancellation, _errors
from disconnect_mw._http import HTTPConnection

from .support.messages import DISCONNECT, EMPTY_FINAL, REQUEST, START, http_scope
from .support.serving import SECONDS, on_asyncio

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]

PLEASE = "please report this. The app goes on as it would without the middleware."


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


async def test_an_error_in_the_reader_is_logged_once_and_the_app_gets_its_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: HTTPConnection, message: Any) -> Any:
        raise ValueError

    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with monkeypatch.context() as patch, anyio.fail_after(SECONDS):
            patch.setattr(HTTPConnection, "received", fail)
            seen.append(await receive())
        await send(START)
        await send(EMPTY_FINAL)

    async def send(message: Any) -> None:
        seen.append(message)

    for _ in range(2):
        incoming = [dict(REQUEST), dict(DISCONNECT)]

        async def receive(incoming: Any = incoming) -> Any:
            return incoming.pop(0)

        await DisconnectMiddleware(app)(http_scope(), receive, send)
    assert seen == [DISCONNECT, START, EMPTY_FINAL] * 2
    assert reports(caplog) == [f"a message of the server could not be noted: {PLEASE}"]


@on_asyncio
async def test_an_error_in_a_timer_of_a_cancellation_is_logged_and_the_app_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = anyio.Event()

    def fail(*arguments: Any) -> None:
        tried.set()
        raise ValueError

    monkeypatch.setattr(_cancellation.Cancellation, "cancel", fail)
    incoming = [dict(REQUEST), dict(DISCONNECT)]

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        raise NotImplementedError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.fail_after(SECONDS):
            await tried.wait()

    await DisconnectMiddleware(app, policy="mute", grace=0.001)(http_scope(), receive, send)
    assert reports(caplog) == [f"the app could not be cancelled: {PLEASE}"]


def test_each_kind_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for error in (ValueError(), ValueError(), KeyError()):
        try:
            raise error
        except Exception:
            _errors.report("it failed")
    assert reports(caplog) == [f"it failed: {PLEASE}"] * 2
