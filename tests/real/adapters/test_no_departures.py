"""Adapters without departures: the answers are those of the bare app, and nothing is told or left behind."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from disconnect_mw import Policy

from ...support.serving import turns
from .apps import ASKS, POLICIES, PROXIED, App, Ask, Probe

pytestmark = pytest.mark.usefixtures("soon")


@dataclass(frozen=True)
class Exchange:
    """All that can be seen of an exchange."""

    answer: Any
    seen: list[str]  # by the app
    logged: list[tuple[str, str, str]]
    tasks: int  # left behind
    threads: int


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop that Mangum takes from the main thread."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


def ask_by_lambda(app: App, ask: Ask, loop: asyncio.AbstractEventLoop) -> tuple[Any, int]:
    """An event of AWS API Gateway, version 2.0, through Mangum."""
    from mangum import Mangum

    path, _, query = ask.path.partition("?")
    http = {"method": ask.method, "path": path, "sourceIp": "192.0.2.1", "protocol": "HTTP/1.1", "userAgent": "test"}
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "test", "content-length": str(len(ask.body))},
        "requestContext": {"http": http, "domainName": "test", "stage": "$default"},
        "body": base64.b64encode(ask.body).decode(),
        "isBase64Encoded": True,
    }
    answer = Mangum(app, lifespan="off")(event, SimpleNamespace(function_name="test"))  # type: ignore[arg-type]  # ours
    return answer, len(asyncio.all_tasks(loop))


def _by_azure(app: App, ask: Ask) -> tuple[Any, Any]:
    import azure.functions

    middleware = azure.functions.AsgiMiddleware(app)  # type: ignore[no-untyped-call]  # it is not annotated
    headers = {"host": "test", "content-length": str(len(ask.body))}
    return middleware, azure.functions.HttpRequest(
        ask.method, f"https://test{ask.path}", headers=headers, body=ask.body
    )


def _of_azure(response: Any) -> Any:
    return response.status_code, list(response.headers.items()), response.mimetype, response.get_body()


def ask_by_azure(app: App, ask: Ask, loop: asyncio.AbstractEventLoop) -> tuple[Any, int]:
    """`main` of azure-functions' AsgiMiddleware, which has an event loop of its own for each call."""
    middleware, request = _by_azure(app, ask)
    try:
        return _of_azure(middleware.main(request, None)), 0
    except ValueError as failure:  # it lets out what the app raises
        return repr(failure), 0


def ask_by_azure_async(app: App, ask: Ask, loop: asyncio.AbstractEventLoop) -> tuple[Any, int]:
    middleware, request = _by_azure(app, ask)

    async def call() -> tuple[Any, int]:
        try:
            answer = _of_azure(await middleware.handle_async(request))
        except ValueError as failure:
            answer = repr(failure)
        return answer, await left()

    return loop.run_until_complete(call())


def ask_by_httpx(app: App, ask: Ask, loop: asyncio.AbstractEventLoop) -> tuple[Any, int]:
    return _by_transport(httpx, app, ask, loop)


def ask_by_httpx2(app: App, ask: Ask, loop: asyncio.AbstractEventLoop) -> tuple[Any, int]:
    return _by_transport(httpx2, app, ask, loop)


def _by_transport(library: Any, app: App, ask: Ask, loop: asyncio.AbstractEventLoop) -> tuple[Any, int]:
    async def call() -> tuple[Any, int]:
        transport = library.ASGITransport(app, raise_app_exceptions=False)
        async with library.AsyncClient(transport=transport, base_url="http://test") as client:
            return _of_httpx(await client.request(ask.method, ask.path, content=ask.body)), await left()

    return loop.run_until_complete(call())


def ask_by_test_client(app: App, ask: Ask, loop: asyncio.AbstractEventLoop) -> tuple[Any, int]:
    with TestClient(app, raise_server_exceptions=False) as client:
        return _of_httpx(client.request(ask.method, ask.path, content=ask.body)), 0


def ask_by_test_client_of_fastapi(app: App, ask: Ask, loop: asyncio.AbstractEventLoop) -> tuple[Any, int]:
    """The app is mounted in a FastAPI app, as another one's part."""
    outer = FastAPI()
    outer.mount("/part", app)
    return ask_by_test_client(outer, Ask(f"/part{ask.path}", ask.body), loop)


def _of_httpx(response: Any) -> Any:
    return response.status_code, response.headers.raw, response.content


async def left() -> int:
    """Count the tasks that are left but for the test's own, some turns later.

    Where a request's body has been begun, httpx leaves its generator to the loop, which closes it in a task.
    """
    await turns()
    return len(asyncio.all_tasks()) - 1


ADAPTERS: dict[str, tuple[str, Callable[[App, Ask, asyncio.AbstractEventLoop], tuple[Any, int]]]] = {
    "Mangum": ("mangum", ask_by_lambda),
    "Azure Functions": ("azure.functions", ask_by_azure),
    "Azure Functions, async": ("azure.functions", ask_by_azure_async),
    "httpx.ASGITransport": ("httpx", ask_by_httpx),
    "httpx2.ASGITransport": ("httpx2", ask_by_httpx2),
    "TestClient": ("fastapi", ask_by_test_client),
    "TestClient, mounted": ("fastapi", ask_by_test_client_of_fastapi),
}


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def require(adapter: str) -> None:
    """Skip, loudly, what cannot be tested here."""
    module = ADAPTERS[adapter][0]
    if not is_installed(module):
        python = ".".join(map(str, sys.version_info[:2]))
        pytest.skip(f"NOT tested here: {adapter}: {module} is not installed (it may not be made for Python {python})")


def play(
    adapter: str,
    app: App,
    probe: Probe,
    ask: Ask,
    loop: asyncio.AbstractEventLoop,
    caplog: pytest.LogCaptureFixture,
) -> Exchange:
    caplog.clear()
    before = threading.active_count()
    answer, tasks = ADAPTERS[adapter][1](app, ask, loop)
    logged = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    return Exchange(answer, probe.seen, logged, tasks, threading.active_count() - before)


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.path)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_answer_is_that_of_the_bare_app_under_every_policy(
    adapter: str, ask: Ask, loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    require(adapter)
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, logger="disconnect_mw")
    probe = Probe()
    bare = play(adapter, probe, probe, ask, loop, caplog)
    assert (bare.tasks, bare.threads) == (0, 0)
    for policy in POLICIES:
        probe = Probe()
        try:
            assert play(adapter, probe.wrapped(policy), probe, ask, loop, caplog) == bare
        except BaseException as failure:
            failure.add_note(f"under {policy}")
            raise
        assert probe.told == [], policy


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_stream_of_the_request_body_is_answered(
    adapter: str, policy: Policy, loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Bare it hangs, or httpx gets an empty body: none of them states 2.4, so Starlette's listener takes the body."""
    require(adapter)
    caplog.set_level(logging.INFO, logger="disconnect_mw")
    probe = Probe()
    exchange = play(adapter, probe.wrapped(policy), probe, PROXIED, loop, caplog)
    body = exchange.answer["body"].encode() if adapter == "Mangum" else exchange.answer[-1]
    assert body == PROXIED.body
    assert (exchange.seen, probe.told) == (["status 200"], [])
    assert [line for line in exchange.logged if line[0] == "disconnect_mw"] == []


@pytest.mark.parametrize("policy", POLICIES)
def test_a_websocket_of_the_test_client_is_left_by_its_block(policy: Policy, caplog: pytest.LogCaptureFixture) -> None:
    """The one departure that a test client can tell: the app gets the message, as bare, and it is told once."""
    caplog.set_level(logging.INFO, logger="disconnect_mw")
    seen = []
    wrapped = Probe()
    for probe, app in ((Probe(), None), (wrapped, wrapped.wrapped(policy, websocket_policy=policy))):
        with TestClient(app or probe) as client, client.websocket_connect("/") as websocket:
            websocket.send_text("one")
            assert websocket.receive_text() == "one"
            websocket.close(3000)
        seen.append(probe.seen)
    assert seen == [["websocket.connect", "websocket.disconnect 3000"]] * 2
    assert [disconnect.code for disconnect in wrapped.told] == [3000]
    assert [record.name for record in caplog.records if record.name == "disconnect_mw"] == ["disconnect_mw"]
