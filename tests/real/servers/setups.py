"""Which servers there are, in which versions, and how each one is started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NEWEST = "newest"

APP = "servers.serve:app"
"""What a server serves, unless it is told otherwise."""


@dataclass(frozen=True)
class Setup:
    """One server as somebody runs it."""

    server: str  # its name on the package index
    version: str  # there, or NEWEST
    loop: str = "asyncio"  # or "uvloop", "trio"
    http: str = ""  # the implementation, where there is a choice
    ws: str = ""
    worker: str = ""  # gunicorn's worker class
    is_impatient: bool = False  # cancels an app that goes on without its client for a second

    def __str__(self) -> str:
        return "-".join(filter(None, (self.server, self.kind)))

    @property
    def kind(self) -> str:
        """What tells it from others of that server and version."""
        worker = self.worker.partition(".")[0]
        return "-".join(filter(None, (worker, self.http, self.ws, self.loop, "impatient" if self.is_impatient else "")))

    @property
    def speaks_http2(self) -> bool:
        """In clear text, to a client that knows beforehand."""
        return self.server == "hypercorn"

    @property
    def takes_socket(self) -> bool:
        """Can it be given a socket that listens already? (uvicorn's --fd takes it for a Unix domain socket.)"""
        return self.server in ("daphne", "gunicorn", "hypercorn") and sys.platform != "win32"

    @property
    def runs_here(self) -> bool:
        """Can it run on this platform?"""
        if sys.platform == "win32":
            return self.server != "gunicorn" and self.loop != "uvloop"
        return self.loop != "uvloop" or sys.implementation.name == "cpython"

    def command(self, where: int, app: str = APP) -> list[str]:
        """The arguments for the interpreter; `where` is a listening socket's descriptor if it takes one, or a port."""
        return ["-m", self.server, *map(str, _OPTIONS[self.server](self, where)), app]

    def requirements(self) -> list[str]:
        """What is to be installed for it, as it was in its day."""
        server = _REQUIRED[self.server][0]
        wanted = [server if self.version == NEWEST else f"{server}=={self.version}", *_REQUIRED[self.server][1:]]
        if self.server == "uvicorn" and self.version != NEWEST:
            # uvicorn's `websockets` implementation is that library's old one, and up to 0.35 or so it sets a policy for
            # uvloop and asks for a loop where none is running, which uvloop 0.22 refuses.
            wanted += ["websockets<14", "uvloop<0.22"]
        return [*wanted, "asgiref>=3.5", "starlette>=0.40"]


_REQUIRED = {
    "uvicorn": ("uvicorn", "h11", "httptools", "uvloop", "websockets", "wsproto"),
    "hypercorn": ("hypercorn[trio,uvloop]",),
    "daphne": ("daphne",),
    "granian": ("granian", "uvloop"),
    "gunicorn": ("gunicorn", "uvicorn", "uvicorn-worker", "h11", "httptools", "uvloop", "websockets", "wsproto"),
}


def _uvicorn(setup: Setup, port: int) -> Sequence[object]:
    choices = ("--http", setup.http, "--ws", setup.ws, "--loop", setup.loop)
    return "--host", "127.0.0.1", "--port", port, *choices, "--lifespan", "on"


def _hypercorn(setup: Setup, where: int) -> Sequence[object]:
    address = f"fd://{where}" if setup.takes_socket else f"127.0.0.1:{where}"
    return "--bind", address, "--worker-class", setup.loop, "--graceful-timeout", 1


def _daphne(setup: Setup, where: int) -> Sequence[object]:
    address = ("--fd", where) if setup.takes_socket else ("--bind", "127.0.0.1", "--port", where)
    patience = ("--application-close-timeout", 1) if setup.is_impatient else ()
    return *address, "--verbosity", 0, *patience  # from 1 on its access log goes to stdout


def _granian(setup: Setup, port: int) -> Sequence[object]:
    return "--interface", "asgi", "--host", "127.0.0.1", "--port", port, "--workers", 1, "--loop", setup.loop


def _gunicorn(setup: Setup, where: int) -> Sequence[object]:
    common = ("--bind", f"fd://{where}", "--worker-class", setup.worker, "--graceful-timeout", 1)
    if setup.worker != "asgi":
        return common
    patience = ("--asgi-disconnect-grace-period", 1) if setup.is_impatient else ()
    return *common, "--asgi-loop", setup.loop, *patience


_OPTIONS: dict[str, Callable[[Setup, int], Sequence[object]]] = {
    "uvicorn": _uvicorn,
    "hypercorn": _hypercorn,
    "daphne": _daphne,
    "granian": _granian,
    "gunicorn": _gunicorn,
}

VERSIONS = {
    "uvicorn": ("0.13.4", "0.20.0", "0.27.0", "0.28.0", "0.28.1", "0.30.6", "0.34.3", NEWEST),
    "hypercorn": ("0.14.4", "0.16.0", "0.18.0", NEWEST),
    "daphne": ("3.0.2", "4.2.3", NEWEST),
    "granian": ("1.7.6", "2.8.7", NEWEST),
    "gunicorn": ("27.0.1", NEWEST),
}


def setups_of(server: str, version: str = NEWEST) -> list[Setup]:
    """All that this version of the server is played with."""
    if server == "uvicorn":
        found = [
            Setup(server, version, "asyncio", "h11", "websockets"),
            Setup(server, version, "uvloop", "httptools", "wsproto"),
        ]
        if version == NEWEST:  # newer than the versions that are named here
            found.append(Setup(server, version, "asyncio", "h11", "websockets-sansio"))
        return found
    if server == "hypercorn":
        return [Setup(server, version, loop) for loop in ("asyncio", "uvloop", "trio")]
    if server == "daphne":
        return [Setup(server, version), Setup(server, version, is_impatient=True)]
    if server == "granian":
        return [Setup(server, version, loop) for loop in ("asyncio", "uvloop")]
    return [
        Setup(server, version, "asyncio", worker="asgi"),
        Setup(server, version, "uvloop", worker="asgi"),
        Setup(server, version, "asyncio", worker="asgi", is_impatient=True),
        Setup(server, version, "uvloop", worker="uvicorn_worker.UvicornWorker"),
    ]
