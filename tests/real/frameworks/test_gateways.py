"""A gateway gives back each connection to its upstream server when its client leaves, and goes on answering."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from .. import IS_FULL
from ..servers.clients import Client, Hang
from ..servers.server import Server
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not
from .playing import ask, errors_of, leave_each, require, serving, upload_each
from .sizes import GATEWAY_POLICIES, POOL

SETUPS = [Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio")]
if IS_FULL:
    SETUPS += [Setup("hypercorn", INSTALLED, "asyncio"), Setup("granian", INSTALLED, "asyncio")]

VARIANTS = ("bare", *GATEWAY_POLICIES)

SECONDS_TO_CLOSE = 5.0


@dataclass(frozen=True)
class Played:
    opened: dict[str, int]  # connections to the upstream server after all departures of an app, beyond idle ones
    alive: dict[str, bool]  # by variant
    errors: list[str]


def play(setup: Setup) -> Played:
    opened: dict[str, int] = {}
    with serving(setup, "gateways") as server:
        for name in ("first_token", "download", "upload"):
            for _ in range(POOL + 1):  # one more than the pool has connections
                cells = [(name, variant) for variant in VARIANTS if name != "upload" or variant != "bare"]
                if name == "upload":
                    upload_each(server, cells, 3, 9_000)
                else:
                    leave_each(server, cells, "rst")
            opened[name] = still_opened(server)
        alive = {variant: is_alive(server, variant) for variant in VARIANTS}
    return Played(opened, alive, errors_of(server.events()))


def still_opened(server: Server) -> int:
    """How many are, after at most some seconds."""
    deadline = time.monotonic() + SECONDS_TO_CLOSE
    while (opened := ask(server, "/opened/-/-")["opened"]) and time.monotonic() < deadline:
        time.sleep(0.05)  # nothing tells of it
    return opened


def is_alive(server: Server, variant: str) -> bool:
    with Client(server.port) as client:
        client.request(server.visit("alive", variant).path)
        try:
            client.hear(b"ok")
        except (AssertionError, Hang):
            return False
    return True


@pytest.fixture(scope="module")
def playing(request: pytest.FixtureRequest) -> Iterator[dict[Setup, Future[Played]]]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    setups = dict.fromkeys(params["gateway_setup"] for params in chosen if "gateway_setup" in params)
    with ThreadPoolExecutor(2) as threads:
        yield {setup: threads.submit(play, setup) for setup in setups if why_not(setup) is None}


@pytest.fixture
def played(playing: dict[Setup, Future[Played]], gateway_setup: Setup) -> Played:
    require(gateway_setup, "httpx")
    return playing[gateway_setup].result()


on_each = pytest.mark.parametrize("gateway_setup", SETUPS, ids=str)


@on_each
@pytest.mark.parametrize("name", ["first_token", "download", "upload"])
def test_no_stream_of_the_upstream_server_goes_on_for_nobody(played: Played, name: str) -> None:
    assert played.opened[name] == 0


@on_each
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pool_has_lost_no_connection(played: Played, variant: str) -> None:
    assert played.alive[variant]


@on_each
def test_nothing_of_that_is_an_error(played: Played) -> None:
    assert played.errors == []
