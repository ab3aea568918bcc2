"""Django: async views and streams, and what runs at the end of a request."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import django  # type: ignore[import-untyped]  # it has no types
from asgiref.sync import sync_to_async
from django.conf import settings  # type: ignore[import-untyped]  # it has no types

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django.sqlite3"}},
    LOGGING_CONFIG=None,
    ROOT_URLCONF=sys.modules[__name__],
    SECRET_KEY="tests",
)
django.setup()

from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]  # noqa: E402  # after the settings
from django.core.signals import request_finished  # type: ignore[import-untyped]  # noqa: E402
from django.db import connection  # type: ignore[import-untyped]  # noqa: E402
from django.http import HttpResponse, StreamingHttpResponse  # type: ignore[import-untyped]  # noqa: E402
from django.urls import path  # type: ignore[import-untyped]  # noqa: E402

from .work import Reading, Work, app, play, ran  # noqa: E402

__all__ = ["app"]


def _finished(**names: Any) -> None:
    ran("request_finished")
    if connection.connection is None:  # as after each request whose `request_finished` runs in its thread
        ran("connection closed")


def _query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


request_finished.connect(_finished)


async def before(request: Any, **names: str) -> Any:
    await sync_to_async(_query)()
    async with Work() as tick:
        while await tick():
            pass
    return HttpResponse("done")


async def _ticks() -> AsyncIterator[bytes]:
    async with Work() as tick:
        while await tick():
            yield b"tick\n"


async def stream(request: Any, **names: str) -> Any:
    await sync_to_async(_query)()
    return StreamingHttpResponse(_ticks())


async def upload(request: Any, **names: str) -> Any:
    async with Reading():
        request.read()
    return HttpResponse("done")


async def form(request: Any, **names: str) -> Any:
    async with Reading():
        request.FILES["file"].read()
    return HttpResponse("done")


_VIEWS = {"before": before, "bug": before, "stream": stream, "bug_stream": stream, "upload": upload, "form": form}
urlpatterns = [path(f"{situation}/<variant>/<run>", view) for situation, view in _VIEWS.items()]

play(ASGIHandler(), *_VIEWS)
