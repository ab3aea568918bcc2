"""Run in the server's process: uvicorn with the apps of `apps`, every event of interest a JSON line on stdout.

The lines are the server's log records, what the apps saw, and how each call ended, all in one order.
"""

from __future__ import annotations

import argparse
import gc
import logging
import socket
import traceback
from typing import Any

import uvicorn

from .apps import APPS
from .play import Play, emit, named, signal


class _Told(logging.Handler):
    """Every log record of the process, as an event."""

    def emit(self, record: logging.LogRecord) -> None:
        exception = record.exc_info[1] if record.exc_info else None
        emit(
            log=record.levelname,
            logger=record.name,
            text=record.getMessage(),
            exception=None if exception is None else named(exception),
            traceback="" if exception is None else "".join(traceback.format_exception(exception)),
        )


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`/APP/VARIANT/RUN` plays an app; `/signal/RUN/NAME` tells a run to go on; `/mark/N` says that N was reached."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    _, name, variant, run = scope["path"].split("/")
    if name in ("signal", "mark"):
        if name == "signal":
            signal(variant, run).set()
        else:
            gc.collect()  # a lost exception or an abandoned coroutine is reported when it is collected
            emit(mark=run)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await _play(name, variant, run, scope, receive, send)


async def _play(name: str, variant: str, run: str, scope: Any, receive: Any, send: Any) -> None:
    play = scope["tests.play"] = Play(run)

    async def watched_send(message: Any) -> Any:
        if play.known and (message.get("body") or message.get("text") or message.get("bytes")):
            play.line("PAYLOAD REACHED THE SERVER")
        return await send(message)

    try:
        result = await APPS[name, variant](scope, receive, watched_send)
    except BaseException as exception:
        emit(run=run, end=f"raised {named(exception)}")
        raise
    emit(run=run, end="returned" if result is None else f"returned {result!r}")


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("--http", "--ws", "--loop"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, handlers=[_Told()])
    logging.captureWarnings(True)
    config = uvicorn.Config(app, http=options.http, ws=options.ws, loop=options.loop, log_config=None, lifespan="on")
    gc.collect()
    gc.freeze()  # what the modules are made of need not be looked through at every mark
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    emit(port=listening.getsockname()[1], version=uvicorn.__version__)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
