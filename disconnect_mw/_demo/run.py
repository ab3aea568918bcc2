"""The demo's run: two servers, clients that leave both, and the report."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from .. import __version__
from .environment import require, this_environment, throw_away_environment
from .scenes import SCENES, WAYS_TO_LEAVE, Evidence, Scene
from .server import DemoError, Server

__all__ = ["DemoError", "run"]

# Enough for a slow machine. An app that goes on for longer never learns that its client has left.
_SECONDS_TO_THE_MIDDLE = 2.0
_SECONDS_TO_END = 2.0
_SECONDS_BETWEEN_CHECKS = 0.02


def run(uvicorn: str | None, output: TextIO) -> int:
    """Run the demo with that version of uvicorn, or with this environment's; return the exit status.

    0: the server with the middleware behaved as promised. 1: it did not. Raises `DemoError` if the demo cannot run.
    """
    require("rich")
    from .report import Report, make_console

    console = make_console(output)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="disconnect-mw-")))
        if uvicorn is None:
            environment = this_environment()
        else:
            environment = throw_away_environment(uvicorn, directory, console)
        bare, wrapped = (
            stack.enter_context(
                contextlib.closing(
                    Server(environment.python, environment.import_path, directory, is_wrapped=is_wrapped)
                )
            )
            for is_wrapped in (False, True)
        )
        for server in (bare, wrapped):
            server.wait_started()
        report = Report(console)
        report.begin(__version__, wrapped.versions)
        for scene in SCENES:
            report.add(scene, *play(scene, [bare, wrapped]))
        return 0 if report.end() else 1


def play(scene: Scene, servers: list[Server]) -> list[Evidence]:
    """Have clients leave each of the servers in the middle of `scene`."""

    def are_in_the_middle() -> bool:
        exchanges = [exchange for server in servers for exchange in server.exchanges(scene.path)]
        return len(exchanges) == len(clients) and all(map(scene.is_in_the_middle, exchanges))

    def have_ended() -> bool:
        return not any(exchange["is_running"] for server in servers for exchange in server.exchanges(scene.path))

    with contextlib.ExitStack() as stack:
        clients = [(_ask(server.port, scene, way, stack), way) for server in servers for way in WAYS_TO_LEAVE]
        _wait(are_in_the_middle, _SECONDS_TO_THE_MIDDLE)
        for client, way in clients:
            _leave(client, way)
    left_at = time.time()
    _wait(have_ended, _SECONDS_TO_END)
    return [Evidence(server.exchanges(scene.path), left_at, server.new_log()) for server in servers]


def _ask(port: int, scene: Scene, way: str, stack: contextlib.ExitStack) -> socket.socket:
    try:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=_SECONDS_TO_THE_MIDDLE))
        client.sendall(scene.request.format(target=f"{scene.path}?{way}").encode())
    except OSError as error:
        raise DemoError(f"the server does not accept a request: {error}") from error
    return client


def _leave(client: socket.socket, way: str) -> None:
    if way == "RST":
        # Lingering for no time makes the kernel drop what is unsent and send an RST.
        numbers = "hh" if sys.platform == "win32" else "ii"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(numbers, 1, 0))
    else:
        # Without a shutdown, close sends an RST where data has come in unread.
        with contextlib.suppress(OSError):  # the server may have closed first
            client.shutdown(socket.SHUT_RDWR)
    client.close()


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(_SECONDS_BETWEEN_CHECKS)
