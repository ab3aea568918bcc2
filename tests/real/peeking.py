"""The app of `test_gunicorn`: it polls `is_disconnected()` and answers what that said."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from disconnect_mw import DisconnectMiddleware

POLLS = 5


async def peek(request: Request) -> Response:
    await request.body()
    seen = []
    for _ in range(POLLS):
        seen.append(await request.is_disconnected())
        await asyncio.sleep(0.01)
    return JSONResponse(seen)


bare = Starlette(routes=[Route("/", peek)])
wrapped = Starlette(routes=[Route("/", peek)])
wrapped.add_middleware(DisconnectMiddleware)
