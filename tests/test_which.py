"""What docs/which.rst says of other middleware, tried on the versions that it names. They need Python 3.12."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import inspect
import re
import warnings
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.testing import HTTPClient, WebSocketClient, servers, visit_now

from .support.pages import read

PAGE = read("which")

NEIGHBOURS = {
    "fastapi-disconnect": ("fastapi_disconnect", "CancelOnDisconnectMiddleware"),
    "aiofence": ("aiofence.contrib.starlette", "DisconnectMiddleware"),
}


def middleware(name: str) -> Any:
    module, attribute = NEIGHBOURS[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError:
        pytest.skip(f"NOT tested here: {name} is not installed, which needs Python 3.12")


def make_app(ended: list[str]) -> Any:
    async def slow(request: Request) -> PlainTextResponse:
        try:
            await anyio.sleep(0.5)
            ended.append("finished")
        except BaseException:
            ended.append("stopped")
            raise
        return PlainTextResponse("done")

    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.send_text("news")
            await anyio.sleep(0.01)

    return Starlette(routes=[Route("/slow", slow), WebSocketRoute("/feed", feed)])


@pytest.mark.parametrize(("name", "outcome"), [("fastapi-disconnect", "stopped"), ("aiofence", "finished")])
def test_what_becomes_of_a_handler(name: str, outcome: str) -> None:
    """One cancels it, the other leaves it to the handler's fences."""
    ended: list[str] = []
    app = middleware(name)(make_app(ended))
    visit_now(app, HTTPClient("/slow", leaves_after_seconds=0.1), servers.UVICORN_0_54_0)
    assert ended == [outcome]


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_websocket_is_as_bare(name: str) -> None:
    app, client = middleware(name)(make_app([])), WebSocketClient("/feed", leaves_after_messages=3)
    transcript = visit_now(app, client, servers.UVICORN_0_54_0, raise_app_exceptions=False)
    assert isinstance(transcript.raised, WebSocketDisconnect)
    transcript = visit_now(DisconnectMiddleware(make_app([])), client, servers.UVICORN_0_54_0)
    assert transcript.raised is None


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_it_is_for_asyncio(name: str) -> None:
    app = middleware(name)(make_app([]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a coroutine of theirs was never awaited
        with pytest.raises(RuntimeError, match="no running event loop"):
            visit_now(app, HTTPClient("/slow"), servers.UVICORN_0_54_0, backend="trio")
        gc.collect()


def test_the_versions_and_their_pythons_are_those_installed() -> None:
    middleware("fastapi-disconnect"), middleware("aiofence")
    titles = re.findall(r"^     - ([\w-]+) ([\d.]+)$", PAGE, re.MULTILINE)
    assert [name for name, _ in titles] == ["fastapi-disconnect", "aiofence", "sse-starlette"]
    (row,) = re.findall(r"^   \* - Python\n((?:     - .*\n)+)", PAGE, re.MULTILINE)
    pythons = re.findall(r"- (.*)", row)
    for (name, version), python in zip([("disconnect-mw", ""), *titles], pythons, strict=True):
        told = importlib.metadata.metadata(name)
        assert version in ("", told["Version"])
        assert f">={python}" in told["Requires-Python"].split(",")


def test_what_is_said_of_fastapi_disconnect_it_has() -> None:
    assert "queue_size" in inspect.signature(middleware("fastapi-disconnect")).parameters
    decorator = importlib.import_module("fastapi_disconnect").cancel_on_disconnect
    with pytest.raises(TypeError):
        decorator(lambda request: None)
