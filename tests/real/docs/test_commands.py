"""The commands that start a server, of README.rst and of the pages, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ...support.pages import TOP, blocks, read
from .. import IS_FULL
from ..observe.serving import Process

APP = """
import asyncio
from fastapi import FastAPI
from disconnect_mw import DisconnectMiddleware

app = FastAPI()
app.add_middleware(DisconnectMiddleware)

@app.get("/slow")
async def slow():
    print("a handler works", flush=True)
    await asyncio.sleep(1)
"""

LINE = r"client disconnected: GET /slow from 127\.0\.0\.1:\d+, before the response: .* and returned$"

COMMANDS = [*dict.fromkeys(re.findall(r"DISCONNECT_MW_LOG=info [^`\n]* myapp:app", read("howto/servers")))]

PORTS = {"gunicorn": "-b 127.0.0.1:{port}", "hypercorn": "-b 127.0.0.1:{port}", "daphne": "-p {port}"}
"""Where the port goes that is not the default; elsewhere it is `--port`."""


def test_the_readme_and_the_pages_show_the_same_command() -> None:
    (shown,) = [one for one in COMMANDS if " uvicorn " in one]
    assert shown in (TOP / "README.rst").read_text(encoding="utf-8")
    assert shown in read("howto/see") and shown in read("tutorial")
    assert len(COMMANDS) == 6


@pytest.mark.parametrize("command", COMMANDS if IS_FULL else COMMANDS[:1])
def test_the_command_shows_the_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "myapp.py").write_text(APP)
    variable, server, *arguments = command.split()
    port = PORTS.get(server, "--port {port}")
    name, value = variable.split("=")
    with Process(" ".join((server, port, *arguments)), tmp_path, **{name: value}) as process:
        process.leave("/slow", "a handler works")
        process.until(LINE)
        assert "Traceback" not in process.output


VIEWS = """
import asyncio
from django.http import HttpResponse
from django.urls import path

async def run(request):
    print("an agent works", flush=True)
    await asyncio.sleep(1)
    print("saved", flush=True)
    return HttpResponse("done")

urlpatterns = [path("agents/run", run), path("other", run)]
"""
SETTINGS = 'SECRET_KEY = "x"\nALLOWED_HOSTS = ["*"]\nROOT_URLCONF = "views"\n'


@pytest.mark.parametrize(("path", "is_saved"), [("/agents/run", True), ("/other", False)])
def test_an_agent_under_django_is_finished(path: str, is_saved: bool, tmp_path: Path) -> None:
    code = blocks(read("howto/finish"), "python")["finish under Django"]
    for name, text in {"asgi": code, "views": VIEWS, "settings": SETTINGS}.items():
        (tmp_path / f"{name}.py").write_text(text)
    with Process("uvicorn --port {port} asgi:application", tmp_path, DISCONNECT_MW_LOG="info") as process:
        process.leave(path, "an agent works")
        (line,) = process.until(f"client disconnected: GET {path}")
        assert ("saved" in process.output.splitlines()) is is_saved, line


BARE = """
from fastapi import FastAPI, Request

app = FastAPI()

@app.post("/upload")
async def upload(request: Request):
    return {"bytes": len(await request.body())}
"""
WRAPPED = BARE + "\nfrom disconnect_mw import DisconnectMiddleware\napp.add_middleware(DisconnectMiddleware)\n"

CUT_UPLOAD = b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n" + 70_000 * b"x"


def log_of(app: str, until: str, home: Path) -> list[str]:
    """What uvicorn logs of an upload that is cut, without the paths of this machine."""
    (home / "myapp.py").write_text(app)
    with Process("uvicorn --port {port} myapp:app", home, DISCONNECT_MW_LOG="info") as process:
        with process.connect() as connection:
            connection.sendall(CUT_UPLOAD)
        process.until(until)
        lines = process.output.splitlines()
    return [re.sub(r'(File ").*?((?:starlette/)?\w+\.py")', r"\1\2", line) for line in lines]


def test_the_log_before_and_after_is_as_the_readme_has_it(tmp_path: Path) -> None:
    readme = (TOP / "README.rst").read_text(encoding="utf-8")
    before, after = re.findall(r"^(?:Before|After).*::\n\n((?:    .*\n)+)", readme, re.MULTILINE)
    shown = [line[4:] for line in before.splitlines() if line.strip() != "..."]
    lines = log_of(BARE, "^starlette.requests.ClientDisconnect$", tmp_path)
    places = [lines.index(line) for line in shown]
    assert places == sorted(places) and places[-1] - places[0] > 50
    lines = log_of(WRAPPED, "client disconnected", tmp_path)
    (line,) = [line for line in lines if "client disconnected" in line]
    assert no_numbers(line) == no_numbers(after.strip())
    assert "Traceback" not in "\n".join(lines)


def no_numbers(line: str) -> str:
    return re.sub(r":\d+|\d+\.\d{3}", "", line)
