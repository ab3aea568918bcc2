"""Run in the server's process: apps that take their time to read what is uploaded.

`/APP/VARIANT/RUN` as in `servers.serve`; a variant is one of `VARIANTS`.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

import anyio
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, connection

LONGER_THAN_A_LOOK = 0.3
"""Somebody looks after 50 ms."""

MEGABYTES_BETWEEN_PAUSES = 64

MEGABYTES_FOR_ALL_BUFFERS = 48
"""That the process may grow by, whatever is uploaded."""

VARIANTS: dict[str, dict[str, Any]] = {
    "mute": {},
    "raise": {"policy": "raise"},
    "cancel": {"policy": "cancel", "on_disconnect": lambda disconnect: serve.emit(told=disconnect.phase)},
    "grace": {"grace": 60},
    "asked": {},  # by the app
}


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """Do not read for a while; on the cue "read" read everything, with pauses."""
    play = scope["tests.play"]
    if play.variant == "asked":
        assert connection(scope).connected
    await anyio.sleep(LONGER_THAN_A_LOOK)
    play.ready("waiting")
    await play.cue("read")
    before = _megabytes()
    total, more = 0, True
    while more:
        message = await receive()
        body = message.get("body", b"")
        if total // (MEGABYTES_BETWEEN_PAUSES << 20) < (total + len(body)) // (MEGABYTES_BETWEEN_PAUSES << 20):
            await anyio.sleep(0.1)
        total += len(body)
        more = message.get("more_body", False)
    grown = _megabytes() - before
    play.line(f"{total} bytes")
    play.line("memory stays flat" if grown < MEGABYTES_FOR_ALL_BUFFERS else f"memory grows by {grown} MiB")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def late(scope: Any, receive: Any, send: Any) -> None:
    """Do not read for a while, then read to the end, then work until the client has gone."""
    play = scope["tests.play"]
    await anyio.sleep(LONGER_THAN_A_LOOK)
    play.ready("waiting")
    await play.cue("read")
    while (await receive()).get("more_body"):
        pass
    play.ready("working")
    try:
        await anyio.sleep(5)
        play.line("nobody told it")
    except anyio.get_cancelled_exc_class():
        play.line("was cancelled")
        raise


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """Answer and read nothing."""
    play = scope["tests.play"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    await anyio.sleep(LONGER_THAN_A_LOOK)
    await send({"type": "http.response.body", "body": b"ended", "more_body": True})
    play.ready("answering")
    with anyio.move_on_after(5):
        try:
            while True:
                await send({"type": "http.response.body", "body": b"more", "more_body": True})
                await anyio.sleep(0.01)
        except (ClientDisconnected, anyio.get_cancelled_exc_class()) as exception:
            play.line(f"stopped by {type(exception).__name__}")
            raise
    play.line("nobody told it")


def _megabytes() -> int:
    """The most that the process has ever held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most >> (20 if sys.platform == "darwin" else 10)


serve.APPS.update(
    {
        (app.__name__, variant): DisconnectMiddleware(app, **options)
        for app in (slow, late, answers)
        for variant, options in VARIANTS.items()
    }
)
app = serve.app
