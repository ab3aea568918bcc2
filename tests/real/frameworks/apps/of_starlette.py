"""Starlette, FastAPI and sse-starlette: handlers, streams, server-sent events, and what stands around them."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from disconnect_mw import DisconnectMiddleware

from .stacks import behind_two, routed
from .work import POLICIES, clean_up, hook, install, steps, word_for


def _afterwards(request: Request) -> BackgroundTask:
    async def told() -> None:
        request.scope["tests.play"].line("ran its background task")

    return BackgroundTask(told)


async def handler(request: Request) -> Response:
    async for _ in steps(request.scope):
        pass
    return PlainTextResponse("done", background=_afterwards(request))


async def stream(request: Request) -> Response:
    return StreamingResponse(steps(request.scope), background=_afterwards(request))


for _endpoint in (handler, stream):
    install(_endpoint.__name__, routed(_endpoint))
    install(f"{_endpoint.__name__}-behind-two", behind_two(routed(_endpoint)))


# FastAPI

api = FastAPI()


async def _resource(request: Request) -> AsyncIterator[str]:
    """A dependency that is given back in the end, be it by awaiting."""
    try:
        yield "resource"
    except BaseException as exception:
        request.scope["tests.play"].line(f"its dependency {word_for(exception)}")
        raise
    finally:
        await clean_up(request.scope)


Resource = Annotated[str, Depends(_resource)]


@api.get("/dependent/{variant}/{run}")
async def dependent(request: Request, resource: Resource) -> str:
    async for _ in steps(request.scope):
        pass
    return resource


@api.get("/events/{variant}/{run}", response_class=EventSourceResponse)
async def events(request: Request) -> AsyncIterator[str]:
    async with contextlib.aclosing(steps(request.scope)) as these:  # type: ignore[type-var]  # it is a generator
        async for step in these:
            yield step.decode()


for _name in ("dependent", "events"):
    install(_name, api)

if importlib.util.find_spec("sse_starlette"):
    from sse_starlette.sse import EventSourceResponse as OtherEventSourceResponse

    async def sse(request: Request) -> Response:
        return OtherEventSourceResponse(steps(request.scope))

    install("sse", routed(sse))


# Installed in the app, inside of its other middleware

for _variant, _options in POLICIES.items():
    serve.APPS["stream-behind-two", f"{_variant}-inside"] = behind_two(
        DisconnectMiddleware(routed(stream), **_options, on_disconnect=hook)
    )
