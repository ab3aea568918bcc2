"""Today's uvicorn over real sockets: a client that leaves is not an error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import pytest

from .clients import Hang
from .scenarios import HTTP, SCENARIOS, STARLETTE, WEBSOCKET, Scenario
from .servers import Server, Setup

HAS_UVLOOP = sys.platform != "win32" and sys.implementation.name == "cpython"
LOOPS = ("asyncio", "uvloop") if HAS_UVLOOP else ("asyncio",)
SETUPS = [
    Setup(http, ws, loop)
    for loop in LOOPS
    for http, ws in (("h11", "websockets"), ("httptools", "wsproto"), ("h11", "websockets-sansio"))
]


class Standing:
    """Keeps one server up, a new one after a hang: the rest of the tests are not to blame."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._server: Server | None = None
        self.complaints: list[str] = []

    def play(self, scenario: Scenario) -> None:
        if self._server is None:
            self._server = Server(sys.executable, self._setup).__enter__()
        try:
            outcome, story = scenario.play(self._server)
        except Hang:
            self.stop()
            raise
        assert outcome == scenario.expected, story

    def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            server.__exit__(None, None, None)
            self.complaints += server.complaints()


class Servers(dict[Setup, Standing]):
    def __missing__(self, setup: Setup) -> Standing:
        self[setup] = Standing(setup)
        return self[setup]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Those that the tests of this module need, each started once."""
    servers = Servers()
    yield servers
    for standing in servers.values():
        standing.stop()
    assert {str(setup): standing.complaints for setup, standing in servers.items() if standing.complaints} == {}


def of_each_setup(scenarios: Iterable[Scenario]) -> pytest.MarkDecorator:
    """Every scenario on every setup; those of HTTP not again where only the WebSocket implementation is another."""
    return pytest.mark.parametrize(
        ("setup", "scenario"),
        [
            pytest.param(setup, scenario, id=f"{scenario.name}-{setup}")
            for setup in SETUPS
            for scenario in scenarios
            if scenario.is_websocket or setup.ws != "websockets-sansio"
        ],
    )


@of_each_setup(HTTP)
def test_an_http_client_that_leaves_is_no_error(servers: Servers, setup: Setup, scenario: Scenario) -> None:
    servers[setup].play(scenario)


@of_each_setup(WEBSOCKET)
def test_a_websocket_client_that_leaves_is_no_error(servers: Servers, setup: Setup, scenario: Scenario) -> None:
    servers[setup].play(scenario)


@of_each_setup(STARLETTE)
def test_starlette_ends_in_good_order_without_its_client(servers: Servers, setup: Setup, scenario: Scenario) -> None:
    servers[setup].play(scenario)


def test_every_scenario_has_a_name_of_its_own() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
