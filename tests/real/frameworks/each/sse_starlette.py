"""sse-starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .work import Work, app, play, ran

__all__ = ["app"]


async def _background() -> None:
    ran("background task")


async def _ticks() -> AsyncIterator[str]:
    async with Work() as tick:
        while await tick():
            yield "tick"


async def events(request: Request) -> Response:
    return EventSourceResponse(_ticks(), background=BackgroundTask(_background))


play(
    Starlette(routes=[Route(f"/{name}/{{variant}}/{{run}}", events) for name in ("events", "bug_stream")]),
    "events",
    "bug_stream",
    lifespan=True,
)
