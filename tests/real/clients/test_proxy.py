"""nginx in front of the server: what it passes on of a client that leaves or stalls, and what it keeps to itself."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..servers.clients import PATIENCE, WebSocketClient
from ..servers.server import Outcome, Server
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not
from .test_stalled import PHASES, SEEN, TO_THE_END

SETUP = Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets")

PASSES_ON = "proxy_buffering off;"
IGNORES_ABORT = "proxy_buffering off; proxy_ignore_client_abort on;"
BUFFERS = "proxy_buffering on;"

CONFIGURATION = """
daemon off;
master_process off;
pid {home}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {home}/client_body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    {servers}
}}
"""

SERVER = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; {options} }} }}"

GONE = {
    "work": Outcome(("on_disconnect: before the response", "was cancelled")),
    "stream": Outcome((PHASES["http"], "was cancelled")),
    "websocket": Outcome((PHASES["websocket"], "was cancelled")),
}
STILL_THERE = Outcome((TO_THE_END,), info_lines=0)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        bound = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in bound]


@contextlib.contextmanager
def nginx(upstream: int, *options: str) -> Iterator[dict[str, int]]:
    """nginx for as long as the context lives: the port that has these options of a location, for each."""
    ports = dict(zip(options, free_ports(len(options)), strict=True))
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as home, open(f"{home}/stderr", "wb") as stderr:
        servers = [SERVER.format(port=port, upstream=upstream, options=one) for one, port in ports.items()]
        file = Path(home, "nginx.conf")
        file.write_text(CONFIGURATION.format(home=home, servers="\n".join(servers)))
        process = subprocess.Popen(["nginx", "-e", "stderr", "-p", home, "-c", str(file)], stderr=stderr)
        try:
            deadline = time.monotonic() + PATIENCE
            for port in ports.values():
                while not is_listening(port):
                    assert process.poll() is None and time.monotonic() < deadline, Path(home, "stderr").read_text()
                    time.sleep(0.02)  # it does not say when it is ready
            yield ports
        finally:
            process.terminate()
            process.wait(PATIENCE)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    why = why_not(SETUP) if shutil.which("nginx") else "there is no nginx"
    if why is not None:
        pytest.skip(f"NOT tested here: clients behind nginx: {why}")
    with Server(sys.executable, SETUP, "clients.apps:app", (Path(__file__).parent,)) as server:
        yield server


@pytest.fixture(scope="module")
def ports(server: Server) -> Iterator[dict[str, int]]:
    with nginx(server.port, PASSES_ON, IGNORES_ABORT, BUFFERS) as ports:
        yield ports


def play(server: Server, port: int, app: str, policy: str, way: str, goes_on: bool = False) -> Outcome:
    """What becomes of the handler of a client that leaves. If it `goes_on`, it ends by itself a while later."""
    visit = server.visit("work" if app == "work" else "stream", policy)
    with WebSocketClient(port) as client:
        (client.ask if app == "websocket" else client.request)(visit.path)
        visit.until("working")
        client.leave(way)
    if goes_on:
        visit.cue("left")
    return visit.outcome()


on_each_way = pytest.mark.parametrize("way", ["fin", "rst"])


@on_each_way
@pytest.mark.parametrize("options", [PASSES_ON, BUFFERS])
@pytest.mark.parametrize("app", GONE)
def test_a_client_that_leaves_ends_its_handler(
    server: Server, ports: dict[str, int], app: str, options: str, way: str
) -> None:
    assert play(server, ports[options], app, "cancel", way) == GONE[app]


@on_each_way
@pytest.mark.parametrize("app", ["work", "stream"])
def test_without_the_middleware_the_handler_goes_on_for_nobody(
    server: Server, ports: dict[str, int], app: str, way: str
) -> None:
    assert play(server, ports[PASSES_ON], app, "bare", way, goes_on=True) == STILL_THERE


@on_each_way
def test_proxy_ignore_client_abort_keeps_the_departure_from_the_server_until_the_response(
    server: Server, ports: dict[str, int], way: str
) -> None:
    assert play(server, ports[IGNORES_ABORT], "work", "cancel", way, goes_on=True) == STILL_THERE


@on_each_way
@pytest.mark.parametrize("app", ["stream", "websocket"])
def test_proxy_ignore_client_abort_passes_it_on_when_a_message_cannot_be_delivered(
    server: Server, ports: dict[str, int], app: str, way: str
) -> None:
    assert play(server, ports[IGNORES_ABORT], app, "cancel", way) == GONE[app]


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (PASSES_ON, (PHASES["http"], *SEEN["cancel-timeout"])),
        (BUFFERS, ("no send is blocked", TO_THE_END)),
    ],
)
def test_a_client_that_stalls_is_seen_unless_nginx_buffers(
    server: Server, ports: dict[str, int], options: str, seen: tuple[str, ...]
) -> None:
    visit = server.visit("flood", "cancel-timeout")
    with WebSocketClient(ports[options]) as client:
        client.request(visit.path)
        visit.until("working")
        visit.cue("flood")
        assert visit.outcome().seen == seen
        client.leave("rst")
