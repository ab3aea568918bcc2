"""WSGI in a thread, a middleware that cancels by itself, a gateway that awaits its first token, and orphans."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import time
from collections.abc import Iterator
from typing import Any

from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from disconnect_mw import DisconnectMiddleware, connection

from .stacks import routed
from .work import app, clean_up, hook, install, run_of, word_for

__all__ = ["app"]

# A recipe that many use: it polls, and cancels


class Recipe(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        calling: Any = call_next(request)
        task: asyncio.Task[Response] = asyncio.create_task(calling)
        while not task.done():
            if await request.is_disconnected():
                task.cancel()
                return PlainTextResponse("gone", 499)
            await asyncio.sleep(0.05)
        return await task


async def _slow(request: Request) -> Response:
    await asyncio.sleep(0.12)  # so that the middleware has polled twice: the first time it got the request
    request.scope["tests.play"].ready("working")
    try:
        await asyncio.sleep(0.6)
    finally:
        serve.emit(run=run_of(request.url.path), over=True)
    return PlainTextResponse("done")


install("recipe", Recipe(routed(_slow)))


# Orphans


async def orphan(scope: Any, receive: Any, send: Any) -> None:
    """Go on for nobody, until the cue "enough"; under shield where its path says so."""
    play = scope["tests.play"]
    try:
        play.ready("working")
        if play.variant.startswith("shielded"):
            async with connection(scope).shield():
                await play.cue("enough")
        else:
            await play.cue("enough")
        play.line("went on to its end")
    except BaseException as exception:
        play.line(word_for(exception))
        raise
    finally:
        await clean_up(scope)


_bounded = DisconnectMiddleware(orphan, policy="finish", max_orphans=2, on_disconnect=hook)
serve.APPS["orphan", "finish"] = serve.APPS["orphan", "shielded"] = _bounded


# WSGI

if importlib.util.find_spec("a2wsgi"):
    from a2wsgi import WSGIMiddleware

    THREADS = 2

    class _Report:
        """An iterable that is long, and to be closed."""

        def __init__(self, run: str) -> None:
            self._lines = iter(range(60))
            self._run = run

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if next(self._lines) == 10:
                serve.emit(run=self._run, ready="working")
            time.sleep(0.02)
            return b"x" * 50

        def close(self) -> None:
            serve.emit(run=self._run, over=True)

    def _wsgi(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        run = run_of(environ["PATH_INFO"])
        return _Report(run) if environ["PATH_INFO"].startswith("/wsgi/") else [b"alive"]

    _served = WSGIMiddleware(_wsgi, workers=THREADS)
    for _name in ("wsgi", "wsgi-alive"):
        install(_name, _served)

gc.collect()
gc.freeze()  # the collection at each mark need not scan the frameworks
