"""Run in the server's process: the app that it serves, and every event of interest as a JSON line on stdout.

The lines are the server's log records, what the apps saw, and how each call ended, all in one order. The first one says
which version of the server it is.
"""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import sys
import threading
import time
import traceback
from typing import Any

from .apps import APPS
from .play import Play, emit, named, signal


def _tell(self: logging.Logger, record: logging.LogRecord) -> None:
    exception = record.exc_info[1] if record.exc_info else None
    emit(
        log=record.levelname,
        logger=record.name,
        text=record.getMessage(),
        exception=None if exception is None else named(exception),
        traceback="" if exception is None else "".join(traceback.format_exception(exception)),
    )


# In place of all handlers, since each server sets its own up, and some when the app is imported already.
logging.Logger.callHandlers = _tell  # type: ignore[method-assign]
logging.getLogger().setLevel(logging.INFO)
logging.getLogger("disconnect_mw").setLevel(logging.INFO)
logging.captureWarnings(True)
if "twisted" in sys.modules:
    from twisted.logger import STDLibLogObserver, globalLogPublisher

    logging.getLogger("twisted").setLevel(logging.WARNING)  # the access log is there as well
    globalLogPublisher.addObserver(STDLibLogObserver())  # type: ignore[arg-type]  # it is one


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`/APP/VARIANT/RUN` plays an app; `/signal/RUN/NAME` tells a run to go on; `/mark/-/N` says that N was reached."""
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
            if threading.active_count() > 1:
                time.sleep(0.001)  # for a worker thread to let go of what it has raised
            gc.collect()  # a lost exception or an abandoned coroutine is reported when it is collected
            emit(mark=run)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await _play(name, variant, run, scope, receive, send)


async def _play(name: str, variant: str, run: str, scope: Any, receive: Any, send: Any) -> None:
    play = scope["tests.play"] = Play(run, variant)

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


gc.collect()
gc.freeze()  # what the modules are made of need not be looked through at every mark
emit(version=importlib.metadata.version(os.environ["TESTS_SERVER"]))
