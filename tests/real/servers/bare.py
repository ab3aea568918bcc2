"""Runs in the server's process: the bare app that plays the scripts, beside the apps of `serve`."""

from __future__ import annotations

import sys
from typing import Any

from . import serve
from .play import emit, signal
from .scripts import SCRIPTS, Performance


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Play a script for `/script/NUMBER,PATIENCE,LINGERS/RUN`; pass other paths to `serve`."""
    if scope["type"] == "lifespan" or not scope["path"].startswith("/script/"):
        await serve.app(scope, receive, send)
        return
    _, _, options, run = scope["path"].split("/")
    emit(run=run, called=True)
    number, patience, lingers = options.split(",")

    async def leave(way: str) -> None:
        emit(run=run, ready="left")
        await signal(run, "gone").wait()

    performance = Performance(SCRIPTS[int(number)], leave, float(patience), float(lingers))
    try:
        await performance(scope, receive, send)
    finally:
        emit(run=run, script=performance.lines)


emit(python=sys.version_info[:3])
