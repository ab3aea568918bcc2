"""Type-checked and never run: what mypy and pyright make of the middleware in the hands of its users.

Every `type: ignore` here is a mistake of theirs that the checker must find: an unused one is an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from asgiref.typing import (
    ASGI2Application,
    ASGI3Application,
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    Scope,
)
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp as StarletteApp
from starlette.types import Message as StarletteMessage
from starlette.types import Receive as StarletteReceive
from starlette.types import Scope as StarletteScope
from starlette.types import Send as StarletteSend

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, __version__

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

DisconnectMiddleware(plain, policy="ignore", websocket_policy="ignore")
DisconnectMiddleware(plain, policy="raise", websocket_policy="raise")

chosen: Literal["ignore", "raise"] = "raise"
DisconnectMiddleware(plain, policy=chosen, websocket_policy=chosen)

DisconnectMiddleware(plain, policy="cancle")  # type: ignore[arg-type]  # misspelled
DisconnectMiddleware(plain, policy=None)  # type: ignore[arg-type]  # no string
DisconnectMiddleware(plain, policy=True)  # type: ignore[arg-type]  # no string
DisconnectMiddleware(plain, websocket_policy="close")  # type: ignore[arg-type]  # unknown
DisconnectMiddleware(plain, websocket_policy=b"raise")  # type: ignore[arg-type]  # no string
DisconnectMiddleware(plain, polcy="raise")  # type: ignore[call-arg]  # misspelled
DisconnectMiddleware(plain, "raise")  # type: ignore[call-arg]  # the options are keywords
DisconnectMiddleware(policy="raise")  # type: ignore[call-arg]  # no application


def from_the_environment(policy: str) -> DisconnectMiddleware:
    return DisconnectMiddleware(plain, policy=policy)  # type: ignore[arg-type]  # any string: to be narrowed first


# add_middleware

starlette = Starlette(middleware=[Middleware(DisconnectMiddleware), Middleware(DisconnectMiddleware, policy="raise")])
starlette.add_middleware(DisconnectMiddleware)
starlette.add_middleware(DisconnectMiddleware, policy="raise")
starlette.add_middleware(DisconnectMiddleware, policy="ignore", websocket_policy="ignore")
starlette.add_middleware(DisconnectMiddleware, policy="cancle")  # type: ignore[arg-type]  # misspelled
starlette.add_middleware(DisconnectMiddleware, polcy="raise")  # type: ignore[call-arg]  # misspelled
Middleware(DisconnectMiddleware, policy=1)  # type: ignore[arg-type]  # no string

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
