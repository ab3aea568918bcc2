"""The probes with a bug of the app's own."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from ..play import Stage
from .probes import probe
from .steps import begin, disconnected, greet


def free_port() -> int:
    """Return a port on which no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def bug_value() -> None:
    raise ValueError("a bug of the app's own")


async def bug_file() -> None:
    Path("/nowhere/no-such-file").read_bytes()


async def bug_outbound() -> None:
    socket.create_connection(("127.0.0.1", free_port()))


async def bug_timeout() -> None:
    raise TimeoutError("the app's database did not answer")


def install_bugs() -> None:
    for bug in (bug_value, bug_file, bug_outbound, bug_timeout):

        async def http(stage: Stage, bug: Callable[[], Awaitable[None]] = bug) -> None:
            await begin(stage)
            stage.play.ready("streaming")
            await disconnected(stage)
            await bug()

        async def websocket(stage: Stage, bug: Callable[[], Awaitable[None]] = bug) -> None:
            await greet(stage)
            stage.play.ready("open")
            await disconnected(stage)
            await bug()

        http.__name__ = bug.__name__
        websocket.__name__ = f"ws_{bug.__name__}"
        probe(http)
        probe(websocket)


install_bugs()
