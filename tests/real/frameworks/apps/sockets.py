"""WebSockets: consumers of Channels, sockets of Quart, and apps without a framework, which send, read, or both."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
from typing import Any

from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process

from disconnect_mw import ClientDisconnected, DisconnectMiddleware

from .work import app, clean_up, hook, run_of, word_for

__all__ = ["app"]

SECONDS_BETWEEN = 0.02
MESSAGES = 12
"""Of a consumer that answers one; its client leaves after some of them."""

ENOUGH = 500
"""Messages of an app that only sends: it would stop by itself after 10 s."""

POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "mute": {"websocket_policy": "mute"},
    "cancel": {"websocket_policy": "cancel"},
    "finish": {"websocket_policy": "finish"},
}


def _install(name: str, app: Any) -> None:
    serve.APPS[name, "bare"] = app
    for variant, options in POLICIES.items():
        serve.APPS[name, variant] = DisconnectMiddleware(app, **options, on_disconnect=hook)


async def _accept(receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})


async def read_late(scope: Any, receive: Any, send: Any) -> None:
    """Send to a client that has said something and left, and read only then."""
    play = scope["tests.play"]
    await _accept(receive, send)
    play.ready("working")
    await play.cue("left")
    message: Any = {"type": ""}
    try:
        with contextlib.suppress(Exception):  # bare
            for _ in range(3):
                await send({"type": "websocket.send", "text": "to nobody"})
                await asyncio.sleep(SECONDS_BETWEEN)
        while message["type"] != "websocket.disconnect":
            message = await receive()
            play.line(message.get("text") or message["type"])
    finally:
        serve.emit(run=run_of(scope["path"]), over=True)


async def _send_on(scope: Any, send: Any) -> None:
    play = scope["tests.play"]
    play.ready("working")
    try:
        for _ in range(ENOUGH):
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(SECONDS_BETWEEN)
        play.line("went on to its end")
    except BaseException as exception:
        is_ours = isinstance(exception, ClientDisconnected)
        play.line("raised ClientDisconnected" if is_ours else word_for(exception))
        raise
    finally:
        await clean_up(scope)


async def only_sends(scope: Any, receive: Any, send: Any) -> None:
    await _accept(receive, send)
    await _send_on(scope, send)


async def reads_once(scope: Any, receive: Any, send: Any) -> None:
    """Read one message, and then only send."""
    await _accept(receive, send)
    await receive()
    await _send_on(scope, send)


async def listens(scope: Any, receive: Any, send: Any) -> None:
    """Read in the task itself, which cleans up when it is told."""
    await _accept(receive, send)
    scope["tests.play"].ready("working")
    try:
        while (await receive())["type"] != "websocket.disconnect":
            pass
        scope["tests.play"].line("was told")
    except BaseException as exception:
        scope["tests.play"].line(word_for(exception))
        raise
    finally:
        await clean_up(scope)


for _app in (read_late, only_sends, reads_once, listens):
    _install(_app.__name__, _app)


if importlib.util.find_spec("channels"):
    from django.conf import settings  # type: ignore[import-untyped]  # it has no types

    settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, SECRET_KEY="tests")

    from channels.generic.websocket import AsyncWebsocketConsumer  # type: ignore[import-untyped]  # it has no types

    class Feed(AsyncWebsocketConsumer):  # type: ignore[misc]  # it has no types
        """Answers a message by many; its client leaves meanwhile."""

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            play = self.scope["tests.play"]
            play.ready("working")
            for number in range(MESSAGES):
                await self.send(text_data=str(number))
                await asyncio.sleep(SECONDS_BETWEEN)
            play.line("answered to the end")

        async def disconnect(self, code: int) -> None:
            self.scope["tests.play"].line("disconnect() was called")
            await clean_up(self.scope)

    _install("channels", Feed.as_asgi())


if importlib.util.find_spec("quart"):
    from quart import Quart, websocket

    quart = Quart(__name__)

    async def _both(scope: Any) -> None:
        """Two tasks, of which one reads and one sends."""

        async def reads() -> None:
            while True:
                await websocket.receive()

        async def sends() -> None:
            await websocket.send("first")
            scope["tests.play"].ready("working")
            while True:
                await websocket.send("tick")
                await asyncio.sleep(0.001)

        await asyncio.gather(reads(), sends())

    @quart.websocket("/quart-both/<variant>/<run>")
    async def both(variant: str, run: str) -> None:
        try:
            await _both(websocket.scope)
        except BaseException as exception:
            scope: Any = websocket.scope
            scope["tests.play"].line(word_for(exception))
            raise
        finally:
            await clean_up(websocket.scope)

    @quart.websocket("/quart-sends/<variant>/<run>")
    async def sends(variant: str, run: str) -> None:
        async def send(message: Any) -> None:
            await websocket.send(message["text"])

        await websocket.accept()
        await _send_on(websocket.scope, send)

    for _name in ("quart-both", "quart-sends"):
        _install(_name, quart)

gc.collect()
gc.freeze()  # the collection at each mark need not scan the frameworks
