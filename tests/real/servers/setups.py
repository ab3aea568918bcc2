"""The servers, their versions, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .pins import pins

INSTALLED = "installed"
"""The version of a server that is installed beside the tests: the pinned one, where the extra `test` is."""

NEWEST = "newest"
"""The newest version on the package index, with the newest of all that it is run with."""

APP = "servers.serve:app"
"""The app that a server serves by default."""


@dataclass(frozen=True)
class Setup:
    """A server with its options."""

    server: str  # its name on the package index
    version: str  # on the package index, or INSTALLED, or NEWEST
    loop: str = "asyncio"  # or "uvloop", "rloop", "trio"
    http: str = ""  # the implementation, where there is a choice
    ws: str = ""
    worker: str = ""  # gunicorn's worker class, granian's runtime mode
    is_impatient: bool = False  # cancels the app a second after the disconnect
    is_patient: bool = False  # cancels it after a minute: gunicorn's own 3 s are over before many a step has hung

    def __str__(self) -> str:
        return "-".join(filter(None, (self.server, self.kind)))

    @property
    def kind(self) -> str:
        """The options, which tell it from other set-ups of that server and version."""
        worker = self.worker.partition(".")[0]
        return "-".join(filter(None, (worker, self.http, self.ws, self.loop, "impatient" if self.is_impatient else "")))

    @property
    def speaks_http2(self) -> bool:
        """Whether it speaks HTTP/2 in clear text, with prior knowledge."""
        return self.server in ("anycorn", "hypercorn")

    @property
    def takes_socket(self) -> bool:
        """Whether it takes a socket that listens already. (uvicorn's --fd takes that for a Unix domain socket.)"""
        return self.server in ("anycorn", "daphne", "gunicorn", "hypercorn") and sys.platform != "win32"

    @property
    def runs_here(self) -> bool:
        """Whether it runs on this platform."""
        if sys.platform == "win32":
            return self.server != "gunicorn" and self.loop not in ("uvloop", "rloop")
        return self.loop not in ("uvloop", "rloop") or sys.implementation.name == "cpython"

    def command(self, where: int, app: str = APP) -> list[str]:
        """Return the arguments for Python. `where` is a listening socket's descriptor if it takes one, or a port."""
        if self.server == "caddysnake":
            main = "import sys, caddysnake_cli as cli; sys.argv += ['--python-path', sys.executable]; cli.main()"
            return ["-c", main, *map(str, _OPTIONS[self.server](self, where)), "--app", app]
        return ["-m", self.server, *map(str, _OPTIONS[self.server](self, where)), app]

    def requirements(self) -> list[str]:
        """Return what to install for it: all else is pinned, but for what an old server needs."""
        others = *_RUN_WITH[self.server], "anyio", "asgiref", "starlette"
        if self.version == NEWEST:
            return [self.server, *others]
        is_old = self.version != (VERSIONS | RARE)[self.server][-1]
        versions = {**pins(), **(_IN_ITS_DAY.get(self.server, {}) if is_old else {})}
        return [f"{self.server}=={self.version}", *(f"{other}=={versions[other]}" for other in others)]


_RUN_WITH = {
    "uvicorn": ("h11", "httptools", "uvloop", "websockets", "wsproto"),
    "hypercorn": ("h11", "h2", "trio", "uvloop", "wsproto"),
    "anycorn": ("h11", "h2", "trio", "wsproto"),
    "daphne": ("autobahn", "twisted"),
    "granian": ("rloop", "uvloop"),
    "h2corn": (),
    "caddysnake": (),
    "gunicorn": ("h11", "httptools", "uvicorn", "uvicorn-worker", "uvloop", "websockets", "wsproto"),
}

# uvicorn's `websockets` implementation uses that library's old API. Up to 0.35 or so uvicorn sets a policy
# for uvloop and asks for a loop where none is running, which uvloop 0.22 refuses.
_IN_ITS_DAY = {"uvicorn": {"uvloop": "0.21.0", "websockets": "13.1"}}


def _uvicorn(setup: Setup, port: int) -> Sequence[object]:
    choices = ("--http", setup.http, "--ws", setup.ws, "--loop", setup.loop)
    return "--host", "127.0.0.1", "--port", port, *choices, "--lifespan", "on"


def _hypercorn(setup: Setup, where: int) -> Sequence[object]:
    address = f"fd://{where}" if setup.takes_socket else f"127.0.0.1:{where}"
    return "--bind", address, "--worker-class", setup.loop, "--graceful-timeout", 1


def _anycorn(setup: Setup, where: int) -> Sequence[object]:
    # It leaves the connection of a half-closed client open for that time, of its own 5 s.
    return *_hypercorn(setup, where), "--keep-alive", 2


def _h2corn(setup: Setup, port: int) -> Sequence[object]:
    return "--host", "127.0.0.1", "--port", port, "--loop", setup.loop, "--lifespan", "on", "--no-access-log"


def _caddysnake(setup: Setup, port: int) -> Sequence[object]:
    address = "--listen", f"127.0.0.1:{port}"
    return "--server-type", "asgi", *address, "--workers", 1, "--lifespan", "on", "--runtime", "native"


def _daphne(setup: Setup, where: int) -> Sequence[object]:
    address = ("--fd", where) if setup.takes_socket else ("--bind", "127.0.0.1", "--port", where)
    return (
        *address,
        "--verbosity",
        0,
        *_patience(setup, "--application-close-timeout"),
    )  # from 1 on its access log goes to stdout


def _granian(setup: Setup, port: int) -> Sequence[object]:
    runtime = ("--runtime-mode", setup.worker) if setup.worker else ()
    address = "--host", "127.0.0.1", "--port", port
    return "--interface", "asgi", *address, "--workers", 1, "--loop", setup.loop, *runtime


def _gunicorn(setup: Setup, where: int) -> Sequence[object]:
    common = ("--bind", f"fd://{where}", "--worker-class", setup.worker, "--graceful-timeout", 1)
    if setup.worker != "asgi":
        return common
    return *common, "--asgi-loop", setup.loop, *_patience(setup, "--asgi-disconnect-grace-period")


def _patience(setup: Setup, option: str) -> Sequence[object]:
    if setup.is_impatient or setup.is_patient:
        return option, 1 if setup.is_impatient else 60
    return ()


_OPTIONS: dict[str, Callable[[Setup, int], Sequence[object]]] = {
    "uvicorn": _uvicorn,
    "hypercorn": _hypercorn,
    "anycorn": _anycorn,
    "daphne": _daphne,
    "granian": _granian,
    "gunicorn": _gunicorn,
    "h2corn": _h2corn,
    "caddysnake": _caddysnake,
}

VERSIONS = {
    "uvicorn": ("0.13.4", "0.20.0", "0.27.0", "0.28.0", "0.28.1", "0.30.6", "0.34.3", "0.54.0"),
    "hypercorn": ("0.14.4", "0.16.0", "0.18.0"),
    "anycorn": ("0.20.1",),
    "daphne": ("3.0.2", "4.2.3"),
    "granian": ("1.7.6", "2.8.7"),
    "gunicorn": ("27.0.1",),
}
"""All that are played. The last of each is the one that the extra `test` pins."""

RARE = {"h2corn": ("2.0.0",), "caddysnake": ("0.6.4",)}
"""Played by `python -m tests.real.servers` alone, where they can be installed; a few scenarios each."""

PYTHON_OF = {"caddysnake": "3.12"}
"""The version of Python of servers that are not made for the one that runs all others."""


def setups_of(server: str, version: str = INSTALLED) -> list[Setup]:
    """Return the set-ups in which this version of the server is played."""
    if server == "uvicorn":
        found = [
            Setup(server, version, "asyncio", "h11", "websockets"),
            Setup(server, version, "uvloop", "httptools", "wsproto"),
        ]
        if version in (INSTALLED, NEWEST, VERSIONS[server][-1]):  # the older ones do not have it
            found.append(Setup(server, version, "asyncio", "h11", "websockets-sansio"))
        return found
    if server == "hypercorn":
        return [Setup(server, version, loop) for loop in ("asyncio", "uvloop", "trio")]
    if server == "anycorn":
        return [Setup(server, version, loop) for loop in ("asyncio", "trio")]
    if server in RARE:
        return [Setup(server, version)]
    if server == "daphne":
        return [Setup(server, version), Setup(server, version, is_impatient=True)]
    if server == "granian":
        found = [Setup(server, version, loop) for loop in ("asyncio", "uvloop")]
        if version in (INSTALLED, NEWEST, VERSIONS[server][-1]):
            found += [Setup(server, version, "asyncio", worker="mt"), Setup(server, version, "rloop")]
        return found
    return [
        Setup(server, version, "asyncio", worker="asgi"),
        Setup(server, version, "uvloop", worker="asgi"),
        Setup(server, version, "asyncio", worker="asgi", is_impatient=True),
        Setup(server, version, "uvloop", worker="uvicorn_worker.UvicornWorker"),
    ]
