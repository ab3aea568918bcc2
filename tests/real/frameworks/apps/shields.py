"""Places in which an app may await what must not be cut when its client leaves, under each kind of shield."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.responses import Response, StreamingResponse

from disconnect_mw import DisconnectMiddleware, connection

from ..sizes import KINDS
from .stacks import STACKS, routed
from .work import app, run_of

__all__ = ["app"]

SECONDS_OF_GRACE = 2.0

SECONDS = 0.05
"""Of the await that must not be cut."""

SECONDS_UNTIL_IT_IS_KNOWN = 0.15
"""Twice the 75 ms after which the middleware has checked for the first time."""

TICKS = 3
SECONDS_PER_TICK = 1.4
"""Until the work ends by itself; a grace ends between two of them."""

OPTIONS: dict[str, dict[str, Any]] = {
    "mute": {"policy": "mute"},
    "raise": {"policy": "raise"},
    "cancel": {"policy": "cancel"},
    "finish": {"policy": "finish"},
    "grace": {"policy": "cancel", "grace": SECONDS_OF_GRACE},
}


def _kind(scope: Any) -> str:
    return str(scope["tests.play"].variant.rpartition("-")[2])


@contextlib.contextmanager
def _telling_when_over(scope: Any) -> Iterator[None]:
    try:
        yield
    finally:
        serve.emit(run=run_of(scope["path"]), over=True)


async def _leave_it(scope: Any) -> None:
    """Await what must not be cut; the client leaves in its middle."""
    play = scope["tests.play"]
    play.ready("working")
    await play.cue("left")
    await asyncio.sleep(SECONDS_UNTIL_IT_IS_KNOWN)
    await _clean_up(scope)


async def _clean_up(scope: Any) -> None:
    await asyncio.sleep(SECONDS)
    scope["tests.play"].line("completed")


async def _clean_up_under_shield(scope: Any) -> None:
    """The shield is in a coroutine of its own."""
    with _telling_when_over(scope):
        match _kind(scope):
            case "none":
                await _clean_up(scope)
            case "client":
                async with connection(scope).shield():
                    await _clean_up(scope)
            case "anyio":
                with anyio.CancelScope(shield=True):
                    await _clean_up(scope)


async def _ticks(scope: Any) -> AsyncIterator[str]:
    play = scope["tests.play"]
    yield "working"
    play.ready("working")
    await play.cue("left")
    for _ in range(TICKS):
        await asyncio.sleep(SECONDS_PER_TICK)
        yield "tick"


# In a handler


async def handler(request: Request) -> Response:
    """The client leaves during the await."""
    with _telling_when_over(request.scope):
        match _kind(request.scope):
            case "none":
                await _leave_it(request.scope)
            case "client":
                async with connection(request).shield():
                    await _leave_it(request.scope)
            case "anyio":
                with anyio.CancelScope(shield=True):
                    await _leave_it(request.scope)
    return Response()


async def handler_finally(request: Request) -> Response:
    try:
        async for _ in _ticks(request.scope):
            pass
    finally:
        await _clean_up_under_shield(request.scope)
    return Response()


# In a stream


async def _body(scope: Any) -> AsyncIterator[str]:
    """The client leaves during the await."""
    yield "begun"
    with _telling_when_over(scope):
        match _kind(scope):
            case "none":
                await _leave_it(scope)
            case "client":
                async with connection(scope).shield():
                    await _leave_it(scope)
            case "anyio":
                with anyio.CancelScope(shield=True):
                    await _leave_it(scope)
    for _ in range(TICKS):
        await asyncio.sleep(SECONDS_PER_TICK)
        yield "tick"


async def _finally(scope: Any) -> AsyncIterator[str]:
    """The shield is in the generator's own frame."""
    try:
        async for tick in _ticks(scope):
            yield tick
    finally:
        with _telling_when_over(scope):
            match _kind(scope):
                case "none":
                    await _clean_up(scope)
                case "client":
                    async with connection(scope).shield():
                        await _clean_up(scope)
                case "anyio":
                    with anyio.CancelScope(shield=True):
                        await _clean_up(scope)


async def _finally_in_a_coroutine(scope: Any) -> AsyncIterator[str]:
    try:
        async for tick in _ticks(scope):
            yield tick
    finally:
        await _clean_up_under_shield(scope)


async def body(request: Request) -> Response:
    return StreamingResponse(_body(request.scope))


async def stream_finally(request: Request) -> Response:
    return StreamingResponse(_finally(request.scope))


async def coroutine_finally(request: Request) -> Response:
    return StreamingResponse(_finally_in_a_coroutine(request.scope))


# In a dependency, in server-sent events

api = FastAPI()


async def _resource(request: Request) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await _clean_up_under_shield(request.scope)


@api.get("/dependency/{variant}/{run}", dependencies=[Depends(_resource)])
async def dependency(request: Request) -> None:
    async for _ in _ticks(request.scope):
        pass


@api.get("/stream_dependency/{variant}/{run}")
async def stream_dependency(request: Request, resource: Annotated[None, Depends(_resource)]) -> StreamingResponse:
    return StreamingResponse(_ticks(request.scope))


@api.get("/events_finally/{variant}/{run}", response_class=EventSourceResponse)
async def events_finally(request: Request) -> AsyncIterator[str]:
    try:
        async for tick in _ticks(request.scope):
            yield tick
    finally:
        await _clean_up_under_shield(request.scope)


PLACES: dict[str, Any] = {
    **{
        endpoint.__name__: routed(endpoint)
        for endpoint in (handler, handler_finally, body, stream_finally, coroutine_finally)
    },
    **{endpoint.__name__: api for endpoint in (dependency, stream_dependency, events_finally)},
}

if importlib.util.find_spec("sse_starlette"):
    from sse_starlette.sse import EventSourceResponse as OtherEventSourceResponse

    async def sse_finally(request: Request) -> Response:
        return OtherEventSourceResponse(_finally(request.scope))

    async def sse_coroutine_finally(request: Request) -> Response:
        return OtherEventSourceResponse(_finally_in_a_coroutine(request.scope))

    PLACES |= {endpoint.__name__: routed(endpoint) for endpoint in (sse_finally, sse_coroutine_finally)}


def _install(options: dict[str, Any]) -> Any:
    return lambda app: DisconnectMiddleware(app, **options)


for (_place, _app), (_stack, _put), (_policy, _options), _guard in product(
    PLACES.items(), STACKS.items(), OPTIONS.items(), KINDS
):
    serve.APPS[_place, f"{_policy}-{_stack}-{_guard}"] = _put(_install(_options), _app)

gc.collect()
gc.freeze()  # the collection at each mark need not scan the frameworks
