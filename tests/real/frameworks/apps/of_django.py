"""Django: an async view, and an async stream."""

from __future__ import annotations

import sys
from typing import Any

import django  # type: ignore[import-untyped]  # it has no types
from django.conf import settings  # type: ignore[import-untyped]  # it has no types

settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, ROOT_URLCONF=sys.modules[__name__], SECRET_KEY="tests")
django.setup()

from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]  # noqa: E402  # after the settings
from django.http import HttpResponse, StreamingHttpResponse  # type: ignore[import-untyped]  # noqa: E402
from django.urls import path  # type: ignore[import-untyped]  # noqa: E402

from .work import install, steps  # noqa: E402


async def view(request: Any, **names: str) -> Any:
    async for _ in steps(request.scope):
        pass
    return HttpResponse("done")


async def stream(request: Any, **names: str) -> Any:
    return StreamingHttpResponse(steps(request.scope))


urlpatterns = [path(f"django-{name.__name__}/<variant>/<run>", name) for name in (view, stream)]

for _name in ("django-view", "django-stream"):
    install(_name, ASGIHandler())
