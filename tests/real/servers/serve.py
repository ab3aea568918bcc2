"""Runs in the server's process: the app that it serves, which writes events as JSON lines to stdout.

The events are the server's log records, what the apps saw, and how each call ended, in the order in which they happen.
The first one has the version of the server.
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


def _emit_record(self: logging.Logger, record: logging.LogRecord) -> None:
    exception = record.exc_info[1] if record.exc_info else None
    emit(
        log=record.levelname,
        logger=record.name,
        text=record.getMessage(),
        exception=None if exception is None else named(exception),
        traceback="" if exception is None else "".join(traceback.format_exception(exception)),
    )


# Replaces all handlers, because each server sets up its own, some before the app is imported.
logging.Logger.callHandlers = _emit_record  # type: ignore[method-assign]
logging.getLogger().setLevel(logging.INFO)
logging.getLogger("disconnect_mw").setLevel(logging.INFO)
logging.captureWarnings(True)
if "twisted" in sys.modules:
    from twisted.logger import STDLibLogObserver, globalLogPublisher

    logging.getLogger("twisted").setLevel(logging.WARNING)  # below that is its access log
    globalLogPublisher.addObserver(STDLibLogObserver())  # type: ignore[arg-type]  # it is one


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Play an app for `/APP/VARIANT/RUN`; set an event of a run for `/signal/RUN/NAME`; emit a mark for `/mark/-/N`."""
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
                time.sleep(0.001)  # for a worker thread to release its exception
            gc.collect()  # a lost exception or an abandoned coroutine is reported when it is collected
            emit(mark=run)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
        return
    await _play(name, variant, run, scope, receive, send)


async def _play(name: str, variant: str, run: str, scope: Any, receive: Any, send: Any) -> None:
    play = scope["tests.play"] = Play(run, variant, scope["asgi"].get("spec_version"))

    async def watched_send(message: Any) -> Any:
        if play.known and not play.has_ended and (message.get("body") or message.get("text") or message.get("bytes")):
            play.line("PAYLOAD REACHED THE SERVER")
        return await send(message)

    try:
        result = await APPS[name, variant](scope, receive, watched_send)
    except BaseException as exception:
        emit(run=run, end=f"raised {named(exception)}")
        raise
    emit(run=run, end="returned" if result is None else f"returned {result!r}")


gc.collect()
gc.freeze()  # the collection at each mark need not scan the modules
emit(version=importlib.metadata.version(os.environ["TESTS_SERVER"]))
