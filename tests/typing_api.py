"""Type-checked and never run: what mypy and pyright make of the middleware in the hands of its users.

Every `type: ignore` here is a mistake of theirs that the checker must find: an unused one is an error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import sentry_sdk
from asgiref.typing import (
    ASGI2Application,
    ASGI3Application,
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    Scope,
)
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp as StarletteApp
from starlette.types import Message as StarletteMessage
from starlette.types import Receive as StarletteReceive
from starlette.types import Scope as StarletteScope
from starlette.types import Send as StarletteSend
from starlette.websockets import WebSocket

from disconnect_mw import (
    CancelOnDisconnect,
    ClientConnection,
    ClientDisconnected,
    Disconnect,
    DisconnectMiddleware,
    Exchange,
    RaiseOnDisconnect,
    __version__,
    connection,
)
from disconnect_mw.fastapi import Client, client_connection
from disconnect_mw.observe import Departure, opentelemetry, prometheus, subscribe
from disconnect_mw.observe.access import AccessLog
from disconnect_mw.observe.logging import configure
from disconnect_mw.observe.sentry import before_send, before_send_transaction
from disconnect_mw.observe.summary import Summary
from disconnect_mw.observe.summary import app as summary_app
from disconnect_mw.testing import (
    Fault,
    FaultKind,
    HTTPClient,
    Phase,
    Report,
    WebSocketClient,
    check,
    check_now,
    servers,
)

version: str = __version__


# Any application can be wrapped


async def of_asgiref(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None: ...


async def of_starlette(scope: StarletteScope, receive: StarletteReceive, send: StarletteSend) -> None: ...


async def plain(scope: Any, receive: Any, send: Any) -> None: ...


async def of_dicts(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None: ...


class Double:
    def __init__(self, scope: Scope) -> None: ...

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None: ...


def wrap(single: ASGI3Application, double: ASGI2Application, either: ASGIApplication, starlette: StarletteApp) -> None:
    wrapped: list[DisconnectMiddleware] = [
        DisconnectMiddleware(single),
        DisconnectMiddleware(double),
        DisconnectMiddleware(either),
        DisconnectMiddleware(starlette),
        DisconnectMiddleware(of_asgiref),
        DisconnectMiddleware(of_starlette),
        DisconnectMiddleware(plain),
        DisconnectMiddleware(of_dicts),
        DisconnectMiddleware(Double),
        DisconnectMiddleware(Starlette()),
        DisconnectMiddleware(FastAPI()),
        DisconnectMiddleware(DisconnectMiddleware(plain)),
    ]
    wrapped.clear()


# The wrapped one is an application again, of whichever vocabulary

for_asgiref: ASGI3Application = DisconnectMiddleware(of_asgiref)
for_starlette: StarletteApp = DisconnectMiddleware(of_starlette)
for_either: ASGIApplication = DisconnectMiddleware(plain)


async def call(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await DisconnectMiddleware(plain)(scope, receive, send)
    await DisconnectMiddleware(plain)(scope=scope, receive=receive, send=send)


async def call_from_starlette(scope: StarletteScope, receive: StarletteReceive, send: StarletteSend) -> None:
    async def counting(message: StarletteMessage) -> None:
        await send(message)

    await DisconnectMiddleware(plain)(scope, receive, counting)


# The options

DisconnectMiddleware(plain, policy="mute", websocket_policy="mute")
DisconnectMiddleware(plain, policy="raise", websocket_policy="raise")

DisconnectMiddleware(plain, policy="cancel", websocket_policy="cancel", grace=5, send_timeout=0.5)
DisconnectMiddleware(plain, grace=None, send_timeout=None, policy_for=None, on_disconnect=None)

chosen: Literal["mute", "raise", "cancel"] = "raise"
DisconnectMiddleware(plain, policy=chosen, websocket_policy=chosen)

DisconnectMiddleware(plain, policy="cancle")  # type: ignore[arg-type]  # misspelled
DisconnectMiddleware(plain, policy=None)  # type: ignore[arg-type]  # no string
DisconnectMiddleware(plain, policy=True)  # type: ignore[arg-type]  # no string
DisconnectMiddleware(plain, websocket_policy="close")  # type: ignore[arg-type]  # unknown
DisconnectMiddleware(plain, websocket_policy=b"raise")  # type: ignore[arg-type]  # no string
DisconnectMiddleware(plain, polcy="raise")  # type: ignore[call-arg]  # misspelled
DisconnectMiddleware(plain, "raise")  # type: ignore[call-arg]  # the options are keywords
DisconnectMiddleware(policy="raise")  # type: ignore[call-arg]  # no application


DisconnectMiddleware(plain, grace="5")  # type: ignore[arg-type]  # no number
DisconnectMiddleware(plain, send_timeout="5")  # type: ignore[arg-type]  # no number


def policy_for(scope: Scope) -> Literal["mute", "raise", "cancel"] | None:
    return "cancel" if scope["type"] == "http" and scope["path"].startswith("/slow") else None


def policy_for_starlettes(scope: StarletteScope) -> Literal["cancel"]:
    return "cancel"


async def async_policy_for(scope: Scope) -> None: ...


def told(disconnect: Disconnect) -> None: ...


async def told_later(disconnect: Disconnect) -> None: ...


def told_nothing() -> None: ...


DisconnectMiddleware(plain, policy_for=policy_for, on_disconnect=told)
DisconnectMiddleware(plain, policy_for=policy_for_starlettes, on_disconnect=told_later)
DisconnectMiddleware(plain, policy_for=lambda scope: "raise", on_disconnect=lambda disconnect: print(disconnect.path))
DisconnectMiddleware(plain, policy_for=lambda scope: "cancle")  # type: ignore[arg-type]  # misspelled
DisconnectMiddleware(plain, policy_for={"/v1/*": "cancel"}, max_orphans=8)
DisconnectMiddleware(plain, policy_for={"/v1/*": "cancle"})  # type: ignore[dict-item]  # misspelled
DisconnectMiddleware(plain, policy_for=async_policy_for)  # type: ignore[arg-type]  # it is not awaited
DisconnectMiddleware(plain, policy_for="cancel")  # type: ignore[arg-type]  # no function
DisconnectMiddleware(plain, on_disconnect=told_nothing)  # type: ignore[arg-type]  # it takes no argument


def from_the_environment(policy: str) -> DisconnectMiddleware:
    return DisconnectMiddleware(plain, policy=policy)  # type: ignore[arg-type]  # any string: to be narrowed first


# add_middleware

starlette = Starlette(middleware=[Middleware(DisconnectMiddleware), Middleware(DisconnectMiddleware, policy="raise")])
starlette.add_middleware(DisconnectMiddleware)
starlette.add_middleware(DisconnectMiddleware, policy="raise")
starlette.add_middleware(DisconnectMiddleware, policy="mute", websocket_policy="mute")
starlette.add_middleware(DisconnectMiddleware, policy="cancle")  # type: ignore[arg-type]  # misspelled
starlette.add_middleware(DisconnectMiddleware, polcy="raise")  # type: ignore[call-arg]  # misspelled
Middleware(DisconnectMiddleware, policy=1)  # type: ignore[arg-type]  # no string

starlette.add_middleware(DisconnectMiddleware, grace=5, policy_for=policy_for, on_disconnect=told_later)
starlette.add_middleware(CancelOnDisconnect)
starlette.add_middleware(RaiseOnDisconnect)
starlette.add_middleware(CancelOnDisconnect, policy="raise")  # type: ignore[call-arg]  # it takes no options
ready_made: list[StarletteApp] = [CancelOnDisconnect(of_starlette), RaiseOnDisconnect(of_starlette)]

fastapi = FastAPI(middleware=[Middleware(DisconnectMiddleware)])
fastapi.add_middleware(DisconnectMiddleware)
fastapi.add_middleware(DisconnectMiddleware, policy="raise")
fastapi.add_middleware(DisconnectMiddleware, policy="cancle")  # type: ignore[arg-type]  # misspelled


# ClientDisconnected


async def handler(send: ASGISendCallable) -> None:
    try:
        await send({"type": "http.response.body", "body": b"", "more_body": True})
    except ClientDisconnected as disconnected:
        codes: list[int] = [disconnected.message["code"]]
        codes.append(disconnected.code)  # type: ignore[attr-defined]  # it is in the message
        oserrors: list[OSError] = [disconnected]
        oserrors.append(ClientDisconnected({"type": "http.disconnect"}))
        oserrors.append(ClientDisconnected())  # type: ignore[call-arg]  # without its message


# The handler's view


async def ask(scope: Scope, starlettes: StarletteScope, request: Request, websocket: WebSocket) -> None:
    clients: list[ClientConnection] = [
        connection(scope),
        connection(starlettes),
        connection(request),
        connection(websocket),
    ]
    for client in clients:
        connected: bool = client.connected
        disconnect: Disconnect | None = client.disconnect
        waited: Disconnect | None = await client.wait_disconnected()
        exchange: Exchange | None = client.exchange
        client.policy = "cancel"
        policy: Literal["mute", "raise", "cancel"] = client.policy
        client.policy = "cancle"  # type: ignore[assignment]  # misspelled
        client.connected = False  # type: ignore[misc]  # it is told, not set
        print(connected, disconnect, waited, exchange, policy)
        async with client.shield():
            await client.wait_disconnected()
        with client.shield():  # type: ignore[attr-defined]  # it is async
            pass


async def number() -> int:
    return 7


async def saves(client: ClientConnection) -> int:
    async with client.shield() as nothing:
        saved = await number()
    nothing.cancel()  # type: ignore[attr-defined]  # the block has no handle
    return saved


# What is told


def facts(disconnect: Disconnect, exchange: Exchange) -> None:
    protocol: Literal["http", "websocket"] = disconnect.protocol
    method: str | None = disconnect.method
    path: str = disconnect.path
    peer: tuple[str, int] | None = disconnect.peer
    phase: Literal[
        "during the upload", "before the response", "during the response", "before the handshake", "while open"
    ] = disconnect.phase
    code: int | None = disconnect.code
    seconds: list[float] = [disconnect.seconds, exchange.seconds]
    left: Disconnect = exchange.disconnect
    counts: list[int | None] = [exchange.status, exchange.messages_sent, exchange.bytes_sent]
    muted: list[int] = [exchange.messages_muted, exchange.bytes_muted]
    ended: Literal["returned", "cancelled", "raised", "suppressed"] = exchange.ended
    exception: str | None = exchange.exception
    print(protocol, method, path, peer, phase, code, seconds, left, counts, muted, ended, exception)
    disconnect.path = "/"  # type: ignore[misc]  # a record


# FastAPI's dependency


@fastapi.get("/")
async def endpoint(client: Client) -> bool:
    kind: ClientConnection = client
    return kind.connected


@fastapi.websocket("/chat")
async def chat(websocket: WebSocket, client: Client) -> None:
    await client.wait_disconnected()


@fastapi.get("/query")
def query(client: Client) -> bool:
    database = sqlite3.connect(":memory:")
    with client.on_disconnect(database.interrupt):
        handle = client.on_disconnect(print, "gone", in_thread=True)
    was_cancelled: bool = handle.cancel()
    return was_cancelled


@fastapi.get("/dependency")
def threaded(client: ClientConnection = Depends(client_connection)) -> bool:  # noqa: B008  # FastAPI's way
    return client.connected


# What tells of departures


def observe(departure: Departure) -> Callable[[Exchange], None]:
    route: str = departure.route
    seconds: float = departure.seconds
    print(route, seconds, departure.disconnect.phase, departure.policy, departure.bytes_muted)
    return lambda exchange: None


def observing() -> None:
    unsubscribe: Callable[[], None] = subscribe(observe)
    unsubscribe()
    configure("INFO", "json")
    configure(format="yaml")  # type: ignore[arg-type]  # there is no such format
    fastapi.add_middleware(AccessLog, format="combined")
    fastapi.add_middleware(Summary, report=print)
    fastapi.mount("/departures", summary_app)
    sentry_sdk.init(before_send=before_send, before_send_transaction=before_send_transaction)
    stops: list[Callable[[], None]] = [prometheus.instrument(max_routes=10), opentelemetry.instrument(error=True)]
    print(stops)


# The check of an app


def checking() -> None:
    report: Report = check_now(plain, ["/", HTTPClient("/x", body=b"x"), WebSocketClient("/ws")], raise_faults=False)
    faults: tuple[Fault, ...] = report.faults + report.mended
    for fault in faults:
        kind: FaultKind = fault.kind
        phases: tuple[Phase, ...] = fault.phases
        print(kind, phases, fault.request, fault.sentence, fault.ways, fault.servers, fault.advice, fault.transcript)
    print(report.requests, report.notes, report.departures, report.servers, report.seconds)
    check_now(starlette, wrap=lambda app: DisconnectMiddleware(app, policy="cancel"), servers=["uvicorn-0.54.0"])
    check_now(fastapi, wrap=None, phases=["mid-stream"], saved=number, headers={"a": "b"}, backend="trio")
    check_now(plain, phases=["midstream"])  # type: ignore[list-item]  # misspelled
    check_now(plain, [7])  # type: ignore[list-item]  # no path
    check_now(plain, backend="uvloop")  # type: ignore[arg-type]  # neither


async def checking_on_this_loop() -> None:
    report: Report = await check(plain, ["/"], servers=[servers.UVICORN_0_54_0])
    print(report)
    check(plain)  # type: ignore[unused-coroutine]  # it is awaited
