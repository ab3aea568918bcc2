"""The recipes in `examples/`, each started as its users start it: it serves, and a client that leaves is no error."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .. import IS_FULL, free_port
from ..servers.clients import PATIENCE, Client, WebSocketClient
from .beginnings import call_tool, graphql, socketio
from .playing import is_installed

EXAMPLES = Path(__file__).parents[3] / "examples"

TICK, STOPPED = "tick", "the stream has stopped"
BEGUN = TICK.encode()

TELLS = """
import logging
logger = logging.getLogger("disconnect_mw")
logger.setLevel(logging.INFO)
logger.addHandler(logging.StreamHandler())
"""
"""Has the middleware tell of each client that left: that it is there at all."""

SECONDS_TO_START = 3 * PATIENCE

SUSPICIOUS = re.compile("Traceback|ERROR|Exception|never awaited|never retrieved")


def _stream(client: Client) -> None:
    client.request("/stream")
    client.hear(BEGUN)


def _page(client: Client) -> None:
    client.request("/page")
    client.hear(BEGUN)


def _subscription(client: Client) -> None:
    assert isinstance(client, WebSocketClient)
    graphql(client, "/")
    client.hear(BEGUN)


def _event(client: Client) -> None:
    assert isinstance(client, WebSocketClient)
    socketio(client, "/socket.io/?EIO=4&transport=websocket")
    client.hear(BEGUN)


def _tool(client: Client) -> None:
    call_tool(client, "/mcp", "work")


@dataclass(frozen=True)
class Recipe:
    command: str  # PORT stands for the port
    needs: tuple[str, ...]
    directory: str = "."
    upload: str = "/upload"
    begin: Callable[[Client], None] = _stream
    protocol: type[Client] = Client
    stops: bool = True  # something of it, when its client leaves
    prints: bool = False  # that it has begun

    def __str__(self) -> str:
        return self.command.partition(" --port")[0]

    @property
    def path(self) -> Path:
        found = re.search(r"\w+_app|manage", self.command)
        assert found is not None
        return EXAMPLES / self.directory / f"{found[0]}.py"


RECIPES = {
    "fastapi": Recipe("fastapi run fastapi_app.py --host 127.0.0.1 --port PORT", ("fastapi", "fastapi_cli")),
    "starlette": Recipe("uvicorn starlette_app:app --port PORT", ("starlette", "uvicorn")),
    "sse_starlette": Recipe(
        "hypercorn sse_starlette_app:app --bind 127.0.0.1:PORT", ("sse_starlette", "hypercorn"), upload=""
    ),
    "litestar": Recipe("litestar --app litestar_app:app run --port PORT", ("litestar", "uvicorn")),
    "quart": Recipe("quart --app quart_app run --port PORT", ("quart",)),
    "django": Recipe("python manage.py runserver 127.0.0.1:PORT", ("django", "daphne"), "django_project"),
    "channels": Recipe("daphne -b 127.0.0.1 -p PORT channels_app:application", ("channels", "daphne")),
    "falcon": Recipe("gunicorn --worker-class asgi -b 127.0.0.1:PORT falcon_app:app", ("falcon", "gunicorn")),
    "blacksheep": Recipe("granian --interface asgi --port PORT blacksheep_app:app", ("blacksheep", "granian")),
    "flask": Recipe("uvicorn flask_app:app --port PORT", ("flask", "a2wsgi", "uvicorn")),
    "socketio": Recipe(
        "uvicorn socketio_app:app --port PORT", ("socketio",), upload="", begin=_event, protocol=WebSocketClient
    ),
    "mcp": Recipe("uvicorn mcp_app:app --port PORT", ("mcp",), upload="/mcp", begin=_tool, prints=True),
    "fastmcp": Recipe("uvicorn fastmcp_app:app --port PORT", ("fastmcp",), upload="/mcp", begin=_tool, prints=True),
    "strawberry": Recipe(
        "uvicorn strawberry_app:app --port PORT",
        ("strawberry",),
        upload="",
        begin=_subscription,
        protocol=WebSocketClient,
    ),
    "ariadne": Recipe(
        "uvicorn ariadne_app:app --port PORT", ("ariadne",), upload="", begin=_subscription, protocol=WebSocketClient
    ),
    "nicegui": Recipe("uvicorn nicegui_app:app --port PORT", ("nicegui",), upload="", begin=_page, stops=False),
}

DRAWN = ("quart",)
"""Played where not all of them are."""


class Running:
    """A recipe that runs; `log` is what it has written."""

    def __init__(self, recipe: Recipe, home: Path) -> None:
        self._path = home / "log"
        (home / "sitecustomize.py").write_text(TELLS)
        self.port = free_port()
        program, *arguments = recipe.command.replace("PORT", str(self.port)).split()
        with open(self._path, "wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name(program)), *arguments],
                cwd=EXAMPLES / recipe.directory,
                env={
                    **os.environ,
                    "PYTHONPATH": str(home),
                    "PYTHONUNBUFFERED": "1",
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._path.read_text(encoding="utf-8", errors="replace")

    def wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(ConnectionError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise AssertionError(f"it does not serve:\n{self.log}")

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.log.count(text) < times:
            assert time.monotonic() < deadline, f"HANG: no {text!r} in {PATIENCE} s:\n{self.log}"
            time.sleep(0.02)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    name = request.getfixturevalue("name")
    missing = [module for module in RECIPES[name].needs if not is_installed(module)]
    if missing or sys.platform == "win32":
        pytest.skip(f"NOT tested here: the recipe of {name}: {', '.join(missing) or 'no process groups'}")
    running = Running(RECIPES[name], tmp_path)
    try:
        running.wait_until_it_serves()
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("name", RECIPES if IS_FULL else DRAWN)
def test_a_recipe_serves_and_a_client_that_leaves_is_no_error(name: str, running: Running) -> None:
    """Its stream stops, and a cut upload is not logged."""
    recipe = RECIPES[name]
    if recipe.upload:
        with Client(running.port) as client:
            client.request(recipe.upload, b"12345")
            client.hear(b"5" if recipe.upload == "/upload" else b" 400 ")
        with Client(running.port) as client:
            client.request(recipe.upload, b"12345", length=90_000)
            time.sleep(0.2)  # the app reads, which nothing tells
            client.leave("rst")
    for times, way in enumerate(("fin", "rst"), 1):
        with recipe.protocol(running.port) as client:
            begun = running.log.count(TICK)
            recipe.begin(client)
            if recipe.prints:
                running.wait_for(TICK, begun + 1)
            client.leave(way)
        if recipe.stops:
            running.wait_for(STOPPED, times)
            running.wait_for("client disconnected: ", times)
    assert not SUSPICIOUS.search(running.log), running.log


def test_each_recipe_is_run() -> None:
    with_one = {path for path in EXAMPLES.rglob("*_app.py") if "from endpoints." in path.read_text(encoding="utf-8")}
    assert with_one == {recipe.path for recipe in RECIPES.values() if recipe.directory == "."}


INSTALLS = [recipe.path for recipe in RECIPES.values() if recipe.directory == "."]
INSTALLS.append(EXAMPLES / "django_project" / "asgi.py")


@pytest.mark.parametrize("path", INSTALLS, ids=lambda path: path.stem)
def test_a_recipe_has_at_most_ten_lines(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    docstring, *rest = ast.parse(source).body
    assert isinstance(docstring, ast.Expr)
    assert rest
    lines = source.splitlines()[docstring.end_lineno :]
    assert sum(bool(line.strip()) for line in lines) <= 10


@pytest.mark.parametrize("name", RECIPES if IS_FULL else DRAWN)
def test_a_missing_framework_ends_the_recipe_in_one_sentence(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    (tmp_path / f"{recipe.needs[0]}.py").write_text("raise ImportError\n")
    ended = subprocess.run(
        [sys.executable, str(recipe.path)],
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_START,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ended.returncode == 1
    assert re.fullmatch(r"This example needs [\w ,-]+: pip install .+\n", ended.stderr), ended.stderr
