"""Departures are no events of Sentry's, and bugs are (`disconnect_mw.observe.sentry`).

With the real SDK, and a transport that keeps what is sent.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.transport import Transport
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from disconnect_mw import DisconnectMiddleware, connection
from disconnect_mw.observe import sentry

from .support.apps import through
from .support.messages import CHUNK, FINAL, START, http_scope
from .support.serving import ON_ASYNCIO, call
from .support.simulated_server import SimulatedServer, http, websocket

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("soon"),
    pytest.mark.parametrize("anyio_backend", ON_ASYNCIO),  # Sentry has no support for trio
]

LOG = logging.getLogger("uvicorn.error")


class Local(Transport):
    """Keeps what the SDK sends."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.transactions: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            event: Any = item.payload.json
            if item.type == "event":
                self.events.append(event)
            elif item.type == "transaction":
                self.transactions.append(event)

    def kinds(self) -> list[str]:
        """The exceptions of the events, the outermost of each, and what brought it."""
        return [event["exception"]["values"][-1]["type"] for event in self.events]


@pytest.fixture(params=[True, False], ids=["with", "without"])
def has_hooks(request: pytest.FixtureRequest) -> bool:
    """Whether the SDK has our hooks: a test shows that without them there are events."""
    return bool(request.param)


@pytest.fixture
def transport(has_hooks: bool) -> Iterator[Local]:
    local = Local()
    hooks: Any = {"before_send": sentry.before_send, "before_send_transaction": sentry.before_send_transaction}
    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=local,
        traces_sample_rate=1.0,
        auto_enabling_integrations=False,
        **hooks if has_hooks else {},
    )
    yield local
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.init(dsn=None, default_integrations=False)


class Logging:
    """What uvicorn does with an exception that reaches it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except BaseException as exception:
            LOG.error("Exception in ASGI application\n", exc_info=exception)


Case = Callable[[Any, Any], Awaitable[Any]]


async def cut_body(request: Request) -> Response:
    await request.body()
    raise AssertionError("it was cut")


async def chained(request: Request) -> Response:
    try:
        await request.body()
    except Exception as error:
        raise LookupError("no order") from error
    raise AssertionError("it was cut")


async def grouped(request: Request) -> Response:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request.body)
        tasks.start_soon(anyio.sleep, 0)
    raise AssertionError("it was cut")


async def logged(request: Request) -> Response:
    """What an app logs by itself, before any middleware sees it."""
    try:
        await request.body()
    except Exception:
        LOG.exception("Error handling POST request")
        return PlainTextResponse("late", 500)
    raise AssertionError("it was cut")


class CutUpload:
    """A POST whose client leaves in the middle of its body."""

    def __init__(self) -> None:
        begun = {"type": "http.request", "body": b"begun", "more_body": True}
        self.far = SimulatedServer(incoming=[begun])
        self.scope = http_scope(method="POST", headers=[(b"content-length", b"100")])
        self.far.leave()


ENDPOINTS = [cut_body, chained, grouped, logged]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_cut_upload_is_no_event(transport: Local, has_hooks: bool, endpoint: Any) -> None:
    """With Sentry inside of the middleware, where it captures what the middleware ends."""
    upload = CutUpload()
    app = SentryAsgiMiddleware(Starlette(routes=[Route("/", endpoint, methods=["POST"])]))
    await call(Logging(DisconnectMiddleware(app)), upload.far, upload.scope)
    assert bool(transport.events) is not has_hooks


@pytest.mark.parametrize("endpoint", ENDPOINTS[:2])
async def test_nor_is_it_one_behind_other_middleware(transport: Local, has_hooks: bool, endpoint: Any) -> None:
    upload = CutUpload()
    app = SentryAsgiMiddleware(Starlette(routes=[Route("/", endpoint, methods=["POST"])]))
    await call(Logging(DisconnectMiddleware(BaseHTTPMiddleware(app, through))), upload.far, upload.scope)
    assert bool(transport.events) is not has_hooks


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_send_that_raises_is_no_event(transport: Local, has_hooks: bool, has_begun: bool) -> None:
    """During the response and before it."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if has_begun:
            await send(START)
        far.leave()
        await receive()
        await send(CHUNK if has_begun else START)

    await call(Logging(DisconnectMiddleware(SentryAsgiMiddleware(app), policy="raise")), far)
    assert transport.kinds() == ([] if has_hooks else ["ClientDisconnected"])


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_websocket_is_no_event(transport: Local, has_hooks: bool, is_open: bool) -> None:
    """While it is open and before the handshake."""
    far = websocket()

    async def endpoint(socket: WebSocket) -> None:
        if not is_open:
            far.leave()
        await socket.accept()
        far.leave()
        await socket.receive_text()

    app = SentryAsgiMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]))
    await call(Logging(DisconnectMiddleware(app)), far)
    assert transport.kinds() == ([] if has_hooks else ["WebSocketDisconnect"])


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
async def test_what_is_logged_after_the_exchange_is_no_event(transport: Local) -> None:
    """By a middleware outside that kept the exception."""
    far, kept = http(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        far.leave()
        await receive()
        try:
            await send(CHUNK)
        except OSError as error:
            kept.append(error)
            raise

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        await DisconnectMiddleware(app, policy="raise")(scope, receive, send)
        LOG.error("later", exc_info=kept[0])
        LOG.error("later", exc_info=KeyError())

    await call(outside, far)
    assert transport.kinds() == ["KeyError"]


# Bugs


class Bug(Exception):
    pass


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
@pytest.mark.parametrize("ends_in", ["raise", "from none", "group", "context"])
async def test_a_bug_in_the_request_of_a_client_that_has_left_is_one_event(transport: Local, ends_in: str) -> None:
    upload = CutUpload()

    async def endpoint(request: Request) -> Response:
        async def fail() -> None:
            raise Bug

        if ends_in == "group":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(request.body)
                tasks.start_soon(fail)
        try:
            await request.body()
        except Exception:
            if ends_in == "context":
                raise Bug
        if ends_in == "from none":
            raise Bug from None
        raise Bug

    app = SentryAsgiMiddleware(Starlette(routes=[Route("/", endpoint, methods=["POST"])]))
    await call(Logging(DisconnectMiddleware(app)), upload.far, upload.scope)
    assert transport.kinds() == ["ExceptionGroup" if ends_in == "group" else "Bug"]


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
@pytest.mark.parametrize("says", ["reports", "from bug"])
@pytest.mark.parametrize("install", ["outside", "inside"])
async def test_a_bug_that_is_being_handled_when_the_client_leaves_is_one_event(
    transport: Local, install: str, says: str
) -> None:
    upload = CutUpload()

    async def endpoint(request: Request) -> Response:
        try:
            raise Bug
        except Bug as bug:
            if says == "from bug":
                raise ClientDisconnect from bug
            await request.body()
        raise AssertionError("it was cut")

    app: Any = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    app = DisconnectMiddleware(SentryAsgiMiddleware(app) if install == "outside" else app)
    await call(Logging(app if install == "outside" else SentryAsgiMiddleware(app)), upload.far, upload.scope)
    (event,) = transport.events
    assert [value["type"] for value in event["exception"]["values"]] == ["Bug", "ClientDisconnect"]
    assert told(only_transaction(transport))[0] == "internal_error"


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
async def test_a_disconnect_error_of_a_client_that_is_there_is_an_event(transport: Local) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect  # of another connection, say

    await call(Logging(DisconnectMiddleware(SentryAsgiMiddleware(app))), http())
    await call(Logging(SentryAsgiMiddleware(app)), http())
    assert transport.kinds() == ["ClientDisconnect"] * 2


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
async def test_what_has_no_exception_passes(transport: Local) -> None:
    sentry_sdk.capture_message("a message")
    assert [event["message"] for event in transport.events] == ["a message"]
    assert sentry.before_send({"a": 1}, {"exc_info": None}) == {"a": 1}


# Transactions


def only_transaction(transport: Local) -> Any:
    (transaction,) = transport.transactions
    return transaction


def told(transaction: Any) -> tuple[Any, Any]:
    return (
        transaction["contexts"]["trace"]["status"],
        transaction["contexts"].get("response", {}).get("status_code"),
    )


@pytest.mark.parametrize("install", ["outside", "inside"])
async def test_a_transaction_that_is_cancelled_has_499(transport: Local, has_hooks: bool, install: str) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await asyncio.sleep(60)

    if install == "outside":
        await call(DisconnectMiddleware(SentryAsgiMiddleware(app), policy="cancel"), far)
        without: tuple[Any, Any] = ("internal_error", None)
    else:
        await call(SentryAsgiMiddleware(DisconnectMiddleware(app, policy="cancel")), far)
        without = ("invalid_argument", 499)
    transaction = only_transaction(transport)
    assert told(transaction) == (("cancelled", 499) if has_hooks else without)
    if has_hooks:
        assert transaction["tags"]["http.status_code"] == "499"
        assert transaction["contexts"]["trace"]["data"]["http.response.status_code"] == 499


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
async def test_a_response_that_had_begun_keeps_its_status(transport: Local) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        far.leave()
        await asyncio.sleep(60)

    await call(DisconnectMiddleware(SentryAsgiMiddleware(app), policy="cancel"), far)
    assert told(only_transaction(transport)) == ("cancelled", 200)


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
@pytest.mark.parametrize("install", ["outside", "inside"])
async def test_a_bug_stays_an_internal_error(transport: Local, install: str) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        raise Bug

    if install == "outside":
        wrapped: Any = DisconnectMiddleware(SentryAsgiMiddleware(app))
    else:
        wrapped = SentryAsgiMiddleware(DisconnectMiddleware(app))
    await call(Logging(wrapped), far)
    assert told(only_transaction(transport))[0] == "internal_error"
    assert transport.kinds() == ["Bug"]


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
async def test_a_bug_in_a_group_stays_an_internal_error_inside_and_outside(transport: Local) -> None:
    """What comes out of the middleware is a smaller group, of which Sentry has been told."""
    upload = CutUpload()

    async def endpoint(request: Request) -> Response:
        async def fail() -> None:
            raise Bug

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request.body)
            tasks.start_soon(fail)
        raise AssertionError("it was cut")

    app = DisconnectMiddleware(SentryAsgiMiddleware(Starlette(routes=[Route("/", endpoint, methods=["POST"])])))
    await call(Logging(SentryAsgiMiddleware(app)), upload.far, upload.scope)
    assert transport.kinds() == ["ExceptionGroup"]
    assert told(only_transaction(transport))[0] == "internal_error"


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
async def test_an_app_that_goes_on_keeps_what_it_did(transport: Local) -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        await receive()
        assert connection(scope).disconnect is not None
        await send(START)
        await send(FINAL)

    await call(DisconnectMiddleware(SentryAsgiMiddleware(app)), far)
    assert told(only_transaction(transport)) == ("ok", 200)


@pytest.mark.parametrize("has_hooks", [True], indirect=True)
async def test_a_bad_request_of_a_client_that_stays_is_its_own(transport: Local) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 400})
        await send(FINAL)

    await call(DisconnectMiddleware(SentryAsgiMiddleware(app)), http())
    assert told(only_transaction(transport)) == ("invalid_argument", 400)


async def test_without_the_library_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    monkeypatch.delitem(sys.modules, "disconnect_mw.observe.sentry")
    with pytest.raises(ImportError, match=r"needs sentry-sdk: pip install 'disconnect-mw\[sentry\]'"):
        importlib.import_module("disconnect_mw.observe.sentry")
