"""A client that vanishes without FIN or RST, as a phone in a tunnel does: nobody tells the server.

The server and its client are in a network of their own, where the client's packets can be dropped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import TypeVar

import pytest

from ..servers.clients import WebSocketClient
from ..servers.server import Server
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not
from .test_stalled import BLOCKED, PHASES, SEEN, TO_THE_END

SETUP = Setup("uvicorn", INSTALLED, "asyncio", "httptools", "wsproto")

CHUNK = 65536
"""What a client gets before it vanishes, and a little more than which it must not get."""

CLONE_NEWNET = 0x40000000  # sched.h

Result = TypeVar("Result")


def in_own_network(run: Callable[[], Result]) -> Result:
    """Run in a thread that is alone in a new network, with all the processes that it starts. It goes with them."""

    def run_there() -> Result:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return run()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run_there).result()


def why_no_network() -> str | None:
    if sys.platform != "linux" or os.geteuid():
        return "it takes root on Linux"
    missing = [command for command in ("ip", "iptables") if shutil.which(command) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    try:
        in_own_network(lambda: None)
    except OSError as error:
        return str(error)
    return why_not(SETUP)


class Client(WebSocketClient):
    def arrived(self) -> int:
        """How many bytes are there to read? It takes them."""
        self._socket.setblocking(False)
        number = 0
        with contextlib.suppress(BlockingIOError):
            while part := self._socket.recv(65536):
                number += len(part)
        return number

    @contextlib.contextmanager
    def vanished(self) -> Iterator[None]:
        """Nothing of its connection arrives any more, at neither end."""
        port = str(self._socket.getsockname()[1])
        rules = [["INPUT", "--protocol", "tcp", side, port, "--jump", "DROP"] for side in ("--sport", "--dport")]
        for rule in rules:
            subprocess.run(["iptables", "--wait", "--append", *rule], check=True)
        try:
            yield
        finally:
            for rule in rules:
                subprocess.run(["iptables", "--wait", "--delete", *rule], check=True)


FLOODED = ("bare", "cancel", "mute-timeout", "raise-timeout", "cancel-timeout")
CLIENTS = [*product(PHASES, ["flood"], FLOODED), *product(PHASES, ["stream"], ["cancel-timeout"])]


def play() -> dict[tuple[str, str, str], Future[tuple[str, ...]]]:
    """What became of each handler. In the end its client is back, and leaves so that the server notices."""

    def vanish(protocol: str, app: str, variant: str) -> tuple[str, ...]:
        visit = server.visit(app, variant)
        outcome = None
        with Client(server.port) as client:
            (client.request if protocol == "http" else client.ask)(visit.path)
            visit.until("working")
            with client.vanished():
                visit.cue("flood" if app == "flood" else "left")
                if "timeout" in variant:
                    outcome = visit.outcome()
                else:
                    visit.until("blocked")
                assert client.arrived() < 2 * CHUNK, "it has not vanished"
            client.leave("rst")
        return (outcome or visit.outcome()).seen

    with Server(sys.executable, SETUP, "clients.apps:app", (Path(__file__).parent,)) as server:
        with ThreadPoolExecutor(len(CLIENTS)) as threads:
            return {client: threads.submit(vanish, *client) for client in CLIENTS}


@pytest.fixture(scope="module")
def seen() -> dict[tuple[str, str, str], Future[tuple[str, ...]]]:
    why = why_no_network()
    if why is not None:
        pytest.skip(f"NOT tested here: clients that vanish: {why}")
    return in_own_network(play)


Seen = dict[tuple[str, str, str], Future[tuple[str, ...]]]


@pytest.mark.parametrize("variant", ["bare", "cancel"])
@pytest.mark.parametrize("protocol", PHASES)
def test_without_send_timeout_the_handler_waits_for_a_client_that_has_vanished(
    seen: Seen, protocol: str, variant: str
) -> None:
    assert seen[protocol, "flood", variant].result()[0] == BLOCKED


@pytest.mark.parametrize("variant", SEEN)
@pytest.mark.parametrize("protocol", PHASES)
def test_with_send_timeout_a_client_that_has_vanished_has_gone(seen: Seen, protocol: str, variant: str) -> None:
    assert seen[protocol, "flood", variant].result() == (PHASES[protocol], *SEEN[variant])


@pytest.mark.parametrize("protocol", PHASES)
def test_small_messages_go_on_as_long_as_the_buffers_take_them(seen: Seen, protocol: str) -> None:
    assert seen[protocol, "stream", "cancel-timeout"].result() == (TO_THE_END,)
