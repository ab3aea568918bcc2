"""No code at all: every option from the environment, under each server, with several workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from .serving import COMMANDS, PLAYED, Process

APP = """
import asyncio, os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def slow(request):
    print("a handler works", flush=True)
    await asyncio.sleep(3600)

async def brief(request):
    print("a handler works", flush=True)
    await asyncio.sleep(2)
    return PlainTextResponse("done")

app = Starlette(routes=[Route("/slow", slow), Route("/brief", brief)])

def create():
    return app
"""

EXAMPLES = Path(__file__).parents[3] / "examples"

LINE = r"client disconnected: GET /slow from 127\.0\.0\.1:\d+, before the response: .* and was cancelled"

VARIABLES = {
    "DISCONNECT_MW_APP": "served:app",
    "DISCONNECT_MW_POLICY": "cancel",
    "DISCONNECT_MW_LOG": "info",
}

LOOKS = {
    "uvicorn": r"^INFO:     ",
    "gunicorn": r"^\[\d{4}-.*\] \[\d+\] \[INFO\] ",
    "gunicorn with uvicorn's worker": r"^\[\d{4}-.*\] \[\d+\] \[INFO\] ",
    "hypercorn": r"^\[\d{4}-.*\] \[\d+\] \[INFO\] ",
    "granian": r"^\[INFO\] ",
    "daphne": r"^\d{4}-\d\d-\d\d [\d:,]+ INFO +",
}
"""How each server's own lines begin."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("server", PLAYED)
def test_a_departure_is_acted_on_and_told_without_code(home: Path, server: str) -> None:
    command = COMMANDS[server].format(port="{port}", workers=2, app="disconnect_mw.app:app")
    with Process(command, home, **VARIABLES) as process:
        process.leave("/slow", "a handler works")
        (line,) = process.until(LINE)
        process.stop()
    assert len(process.until(LINE)) == 1
    shown = [one for one in process.output.splitlines() if LINE[:20] in one]
    assert shown == [line]
    pattern = LOOKS[server] + LINE
    assert process.until(pattern) == [line]


def test_a_factory_is_called_in_each_worker(home: Path) -> None:
    command = COMMANDS["uvicorn"].format(port="{port}", workers=2, app="disconnect_mw.app:app")
    with Process(command, home, **{**VARIABLES, "DISCONNECT_MW_APP": "served:create"}) as process:
        process.leave("/slow", "a handler works")
        process.until(LINE)


@pytest.mark.parametrize("server", PLAYED)
def test_the_line_comes_under_mute_too_where_the_app_does_not_listen(home: Path, server: str) -> None:
    command = COMMANDS[server].format(port="{port}", workers=1, app="disconnect_mw.app:app")
    with Process(command, home, DISCONNECT_MW_APP="served:app", DISCONNECT_MW_LOG="info") as process:
        process.leave("/brief", "a handler works")
        process.until(r"client disconnected: GET /brief .*, before the response: .* and returned")


@pytest.mark.parametrize("server", PLAYED)
def test_a_wrong_value_is_told_at_start_up(home: Path, server: str) -> None:
    command = COMMANDS[server].format(port="{port}", workers=1, app="disconnect_mw.app:app")
    with Process(command, home, **{**VARIABLES, "DISCONNECT_MW_GRACE": "5 s"}) as process:
        process.until("DISCONNECT_MW_GRACE must be zero or more seconds, or 'inf' for no limit at all, not '5 s'")


def test_a_wrong_value_is_told_at_start_up_where_the_framework_installs_it(home: Path) -> None:
    """In the lifespan, whose exceptions uvicorn takes for "not supported": so it is logged as well."""
    (home / "adds.py").write_text(
        "from disconnect_mw import DisconnectMiddleware\n"
        "from served import app\n"
        "app.add_middleware(DisconnectMiddleware)\n"
    )
    with Process("uvicorn --host 127.0.0.1 --port {port} adds:app", home, DISCONNECT_MW_GRACE="5 s") as process:
        process.until("^DISCONNECT_MW_GRACE must be zero or more seconds, or 'inf' for no limit at all, not '5 s'$")


def test_an_app_that_is_not_there_is_told_at_start_up(home: Path) -> None:
    command = COMMANDS["uvicorn"].format(port="{port}", workers=1, app="disconnect_mw.app:app")
    with Process(command, home, DISCONNECT_MW_APP="serve:app") as process:
        process.until("DISCONNECT_MW_APP is 'serve:app', but there is no module 'serve': look at sys.path")


def test_the_log_config_for_uvicorn_shows_the_line(home: Path) -> None:
    command = f"uvicorn --host 127.0.0.1 --port {{port}} --log-config {EXAMPLES}/uvicorn-log-config.json "
    variables = {name: VARIABLES[name] for name in ("DISCONNECT_MW_APP", "DISCONNECT_MW_POLICY")}
    with Process(command + "disconnect_mw.app:app", home, **variables) as process:
        process.leave("/slow", "a handler works")
        (line,) = process.until(LINE)
    assert line.startswith("INFO:     client disconnected")


def test_the_configuration_of_gunicorn_shows_the_line(home: Path) -> None:
    command = f"gunicorn -c {EXAMPLES}/gunicorn_conf.py -b 127.0.0.1:{{port}} disconnect_mw.app:app"
    variables = {name: VARIABLES[name] for name in ("DISCONNECT_MW_APP", "DISCONNECT_MW_POLICY")}
    with Process(command, home, **variables) as process:
        process.leave("/slow", "a handler works")
        process.until(LOOKS["gunicorn"] + LINE)
