"""Apps that answer while a request body still comes, behind middleware that replays it, or without reading it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from disconnect_mw import DisconnectMiddleware, connection

from .stacks import Wrap, behind, behind_two, routed
from .work import POLICIES, app, clean_up, hook, steps, word_for

__all__ = ["app"]

TICKS = 400
"""Until an endless stream stops by itself, after 8 s."""


def claiming(app: Any) -> Any:
    """The server claims 2.4, and its `send` is silent all the same: gunicorn's, uvicorn's 0.28.1 to 0.32.0.

    Unlike `Replaying` it stands outside of us.
    """

    async def claimed(scope: Any, receive: Any, send: Any) -> None:
        scope["asgi"] = {**scope["asgi"], "spec_version": "2.4"}
        await app(scope, receive, send)

    return claimed


class Replaying:
    """The widespread middleware that reads the body, and answers it on every `receive` from then on."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)

        async def receive_again() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_again, send)


def _copying(app: Any) -> Any:
    """Middleware that hands on a copy of the scope."""

    async def copied(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "asgi": dict(scope["asgi"])}, receive, send)

    return copied


def _installing(policy: str) -> Wrap:
    return lambda app: DisconnectMiddleware(app, **POLICIES[policy], on_disconnect=hook)


def _install(name: str, app: Any) -> None:
    for policy in ("mute", "raise", "cancel", "finish"):
        install = _installing(policy)
        stacks = {
            "alone": install(app),
            "behind-two": install(behind_two(app)),
            "nested": install(install(app)),
            "copied": install(_copying(app)),
        }
        for stack, stacked in stacks.items():
            serve.APPS[name, f"{policy}-{stack}"] = stacked
            serve.APPS[name, f"{policy}-{stack}-claimed"] = claiming(stacked)
    serve.APPS[name, "bare"] = app
    serve.APPS[name, "bare-claimed"] = claiming(app)


async def echo(request: Request) -> Response:
    return StreamingResponse(request.stream())


async def after_body(request: Request) -> Response:
    await request.body()

    async def chunks() -> Any:
        for _ in range(3):
            yield b"chunk "

    return StreamingResponse(chunks())


async def alive(request: Request) -> Response:
    return PlainTextResponse("ok")


async def unread(request: Request) -> Response:
    """Stream without an end, and read nothing of the body."""
    play = request.scope["tests.play"]

    async def ticks() -> Any:
        try:
            for number in range(TICKS):
                yield b"tick"
                await asyncio.sleep(0.02)
                if number == 4:
                    play.ready("working")
            play.line("went on to its end")
        except BaseException as exception:
            play.line(word_for(exception))
            raise
        finally:
            await clean_up(request.scope)

    return StreamingResponse(ticks())


async def raw_upload(scope: Any, receive: Any, send: Any) -> None:
    """Read a body that is cut, and clean up."""
    scope["tests.play"].ready("working")
    try:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        scope["tests.play"].line(message["type"])
        raise ConnectionError("as a framework says it")
    except ConnectionError:
        pass
    except BaseException as exception:
        scope["tests.play"].line(word_for(exception))
        raise
    finally:
        await clean_up(scope)


async def upload(request: Request) -> Response:
    request.scope["tests.play"].ready("working")
    try:
        await request.body()
    except BaseException as exception:
        request.scope["tests.play"].line(word_for(exception))
        raise
    finally:
        await clean_up(request.scope)
    return Response()


async def after_upload(request: Request) -> Response:
    """Read the whole body, and then work."""
    await request.body()
    async for _ in steps(request.scope):
        pass
    return Response()


async def late(scope: Any, receive: Any, send: Any) -> None:
    """Answer first, and read the body later: what has no listener may."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
    await asyncio.sleep(0.3)
    size, message = 0, {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        size += len(message.get("body", b""))
    await send({"type": "http.response.body", "body": b"read %d" % size})


async def begun(scope: Any, receive: Any, send: Any) -> None:
    """Begin an answer, and give its only piece when the client has left."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
    scope["tests.play"].ready("working")
    await connection(scope).wait_disconnected()
    await send({"type": "http.response.body", "body": b"payload"})
    scope["tests.play"].ready("answered")


_install("late", late)
for _policy in ("mute", "finish"):
    serve.APPS["begun", _policy] = _installing(_policy)(begun)
    serve.APPS["begun", f"{_policy}-behind"] = behind(_installing(_policy)(begun))
_install("echo", routed(echo, methods=["POST"]))
_install("replayed", Replaying(routed(after_body, methods=["POST"])))
_install("alive", routed(alive))
_install("unread", routed(unread, methods=["POST"]))
_install("raw_upload", raw_upload)
_install("upload", routed(upload, methods=["POST"]))
_install("after_upload", routed(after_upload, methods=["POST"]))

gc.collect()
gc.freeze()  # the collection at each mark need not scan the frameworks
