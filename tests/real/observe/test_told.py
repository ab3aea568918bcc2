"""What is told of a departure, exactly once, and what is no departure, under each server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from .serving import COMMANDS, PLAYED, Process

APP = """
import asyncio, logging, sys
from starlette.applications import Starlette
from starlette.routing import Route

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="the app's own: %(message)s")

async def slow(request):
    print("a handler works", flush=True)
    await asyncio.sleep(3600)

async def report(request):
    try:
        {}["the real bug"]
    except KeyError:
        print("a bug is handled", flush=True)
        await request.body()  # to report it with
        raise

app = Starlette(routes=[Route("/slow", slow), Route("/report", report, methods=["POST"])])
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "served.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("server", PLAYED)
def test_a_departure_is_told_once_where_the_app_logs_to_the_same_place(home: Path, server: str, format: str) -> None:
    command = COMMANDS[server].format(port="{port}", workers=1, app="disconnect_mw.app:app")
    variables = {"DISCONNECT_MW_APP": "served:app", "DISCONNECT_MW_POLICY": "Cancel"}
    with Process(command, home, **variables, DISCONNECT_MW_LOG=f"info,{format}") as process:
        process.leave("/slow", "a handler works")
        process.until("client disconnected: GET /slow ")
        process.stop()
    (line,) = process.until("client disconnected: GET /slow ")
    if format == "json":
        assert json.loads(line)["exchange"]["disconnect"]["path"] == "/slow"
    elif server == "daphne":  # whose own handler is the root logger's, so that the app's is none
        assert re.match(r"\d{4}-.* INFO +client disconnected: ", line)
    else:
        assert line.startswith("the app's own: client disconnected: ")


@pytest.mark.parametrize(
    "server", [server for server in PLAYED if server != "daphne"]
)  # it calls no app for a cut body
def test_a_bug_that_is_being_handled_when_the_client_leaves_is_in_the_server_s_log(home: Path, server: str) -> None:
    """granian's has only the last exception of a chain."""
    command = COMMANDS[server].format(port="{port}", workers=1, app="disconnect_mw.app:app")
    with Process(command, home, DISCONNECT_MW_APP="served:app") as process:
        with process.connect() as connection:
            connection.sendall(b"POST /report HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nbegun")
            process.until("^a bug is handled$")
        process.until("^(starlette.requests.)?ClientDisconnect")
        if server != "granian":
            process.until("^KeyError: 'the real bug'$")
