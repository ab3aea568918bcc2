"""A client that stops reading: with `send_timeout` it counts as gone, on every server that waits for its client.

The servers are played side by side in threads, and so are the clients of each.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from .. import IS_FULL
from ..servers.clients import WebSocketClient
from ..servers.server import Outcome, Server
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not

SERVERS_AT_ONCE = 8

SETUPS = [
    Setup("uvicorn", INSTALLED, "asyncio", "h11", "websockets"),
    Setup("hypercorn", INSTALLED, "trio"),
    Setup("granian", INSTALLED, "asyncio"),
    Setup("gunicorn", INSTALLED, "uvloop", worker="asgi"),
]
"""gunicorn on uvloop: asyncio's own transport.writelines(), by which gunicorn answers over HTTP, makes nobody wait in
CPython 3.12.0 to 3.12.8 and 3.13.0 to 3.13.1 (python/cpython#127655)."""
if IS_FULL:
    SETUPS += [
        Setup("uvicorn", INSTALLED, "uvloop", "httptools", "wsproto"),
        Setup("uvicorn", INSTALLED, "asyncio", "h11", "websockets-sansio"),
        Setup("hypercorn", INSTALLED, "asyncio"),
    ]

NEVER_WAITS = Setup("daphne", INSTALLED)
"""It buffers whatever the app sends."""

COMPLAINTS = {
    "uvicorn": ["ASGI callable returned without completing response."],
    "gunicorn": ["ASGI application returned without completing the response; closing the connection"],
}
"""What the servers log of a response that is cut. Only the message that completes it would keep them from that, which
would be a lie, and which uvicorn does not take before the client has read."""

BLOCKED = "a send is blocked for longer than send_timeout"
TO_THE_END = "went on to its end"
PHASES = {"http": "on_disconnect: during the response", "websocket": "on_disconnect: while open"}
SEEN = {
    "mute-timeout": ("send returns, and the client has gone", TO_THE_END),
    "raise-timeout": ("send raises ClientDisconnected", TO_THE_END),
    "cancel-timeout": ("send returns, and the client has gone", "was cancelled"),
}
LAST_CHUNK = b"\r\n0\r\n\r\n"
NORMAL_CLOSURE = b"\x88\x02\x03\xe8"


class Client(WebSocketClient):
    def read_on(self) -> bytes:
        """Read to the server's last word, or to the end of the connection. The last bytes of that."""
        tail = b""
        while not tail.endswith((LAST_CHUNK, NORMAL_CLOSURE)):
            part = self._read("the rest")
            if not part:
                break
            tail = (tail + part)[-16:]
        return tail


@dataclass
class Stalls:
    """What became of the clients of a server, by protocol and variant: the outcome, and the last bytes that came."""

    clients: dict[tuple[str, str], Future[tuple[Outcome, bytes]]]
    told: int = 0
    errors: tuple[str, ...] = ()

    def outcome(self, protocol: str, variant: str) -> Outcome:
        return self.clients[protocol, variant].result()[0]

    def seen(self, protocol: str) -> dict[str, tuple[str, ...]]:
        """By the handlers with `send_timeout`."""
        return {variant: self.outcome(protocol, variant).seen for variant in SEEN}


def play(setup: Setup) -> Stalls:
    def stall(protocol: str, variant: str) -> tuple[Outcome, bytes]:
        visit = server.visit("flood", variant)
        outcome = None
        with Client(server.port) as client:
            (client.request if protocol == "http" else client.ask)(visit.path)
            visit.until("working")
            visit.cue("flood")
            if variant in SEEN and setup in SETUPS:
                outcome = visit.outcome()
            elif setup is not NEVER_WAITS:
                visit.until("blocked")
            tail = client.read_on()
            if protocol == "websocket":
                with contextlib.suppress(ConnectionError):  # the server may not wait for it
                    client.close_frame(1000)
        return outcome or visit.outcome(), tail

    with Server(sys.executable, setup, "clients.apps:app", (Path(__file__).parent,)) as server:
        with ThreadPoolExecutor(10) as threads:
            pairs = product(PHASES, ("bare", "cancel", *SEEN))
            stalls = Stalls({pair: threads.submit(stall, *pair) for pair in pairs})
    assert server.complaints() == [], server.stderr
    for event in server.events():
        stalls.told += event.get("logger") == "disconnect_mw" and event["log"] == "INFO"
        if event.get("log") in ("ERROR", "CRITICAL"):
            stalls.errors += (event["text"],)
    return stalls


Played = dict[Setup, Future[Stalls]]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[Played]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    setups = [params["stalling"] for params in chosen if "stalling" in params]
    with ThreadPoolExecutor(SERVERS_AT_ONCE) as threads:
        yield {setup: threads.submit(play, setup) for setup in dict.fromkeys(setups) if why_not(setup) is None}


@pytest.fixture
def stalls(played: Played, stalling: Setup) -> Stalls:
    if stalling not in played:
        pytest.skip(f"NOT tested here: {stalling}: {why_not(stalling)}")
    return played[stalling].result()


on_each = pytest.mark.parametrize("stalling", SETUPS, ids=str)


@on_each
@pytest.mark.parametrize("variant", ["bare", "cancel"])
@pytest.mark.parametrize("protocol", PHASES)
def test_without_send_timeout_the_handler_waits_for_a_stalled_client(
    stalls: Stalls, protocol: str, variant: str
) -> None:
    assert stalls.outcome(protocol, variant).seen == (BLOCKED, TO_THE_END)


@on_each
@pytest.mark.parametrize("variant", SEEN)
@pytest.mark.parametrize("protocol", PHASES)
def test_with_send_timeout_a_stalled_client_has_gone(stalls: Stalls, protocol: str, variant: str) -> None:
    """The handler is told, the hook called once, and the app ends as its policy has it."""
    assert stalls.outcome(protocol, variant).seen == (PHASES[protocol], *SEEN[variant])
    assert stalls.outcome(protocol, variant).ends == ("returned",)


@on_each
def test_a_client_that_reads_on_too_late_can_tell_that_its_response_is_cut(stalls: Stalls) -> None:
    whole = [variant for variant in SEEN if stalls.clients["http", variant].result()[1].endswith(LAST_CHUNK)]
    assert whole == []


@on_each
def test_each_stalled_client_gets_its_line_in_the_log(stalls: Stalls) -> None:
    assert stalls.told == len(SEEN) * len(PHASES)


@on_each
def test_the_server_complains_once_of_a_cut_response_or_never(stalls: Stalls, stalling: Setup) -> None:
    assert list(stalls.errors) == COMPLAINTS.get(stalling.server, []) * len(SEEN)


@pytest.mark.parametrize("stalling", [NEVER_WAITS], ids=str)
@pytest.mark.parametrize("protocol", PHASES)
def test_where_the_server_never_waits_no_client_stalls(stalls: Stalls, protocol: str) -> None:
    seen = {variant: stalls.outcome(protocol, variant).seen for variant in SEEN}
    assert seen == dict.fromkeys(SEEN, ("no send is blocked", TO_THE_END))
