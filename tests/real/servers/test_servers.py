"""Each server that is installed here: a client that leaves is no error, and it is the same on all.

The servers are played side by side in threads, like those of `python -m tests.real.servers`; each test waits for its
own verdict. Each scenario is played on two servers (over HTTP/2 on one), or with `TESTS_FULL=1` on every one.
"""

from __future__ import annotations

import importlib.metadata
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .. import IS_FULL
from .conformance import GOOD, HANGS, Column, play_all
from .limits import limit_of
from .scenarios import HTTP1, HTTP2, SCENARIOS, WEBSOCKET, Scenario
from .setups import VERSIONS, Setup, setups_of

SERVERS_AT_ONCE = 6  # they wait for the most part

SECONDS_FOR_A_SERVER = 300


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def why_not(setup: Setup) -> str | None:
    """Why this server cannot be played here, if it cannot."""
    if not setup.runs_here:
        return "it does not run on this platform"
    needed = [setup.server, *(package for package in (setup.loop, setup.http, setup.ws) if package in _PACKAGES)]
    if setup.worker.startswith("uvicorn_worker"):
        needed.append("uvicorn-worker")
    missing = [package for package in needed if version_of(package) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


_PACKAGES = ("h11", "httptools", "rloop", "trio", "uvloop", "websockets", "wsproto")

SELDOM = ("anycorn-trio", "granian-rloop")
"""Played where all of them are played: each takes a second to start, and they are as their kin."""

SETUPS = [setup for server in VERSIONS for setup in setups_of(server) if IS_FULL or str(setup) not in SELDOM]
PLAYED = [setup for setup in SETUPS if why_not(setup) is None]


SERVERS_FOR_A_SCENARIO = {HTTP1: 2, WEBSOCKET: 2, HTTP2: 1}
"""By its protocol, unless all of them are played."""


def shows(setup: Setup, scenario: Scenario) -> bool:
    """Can this server show anything of it?"""
    version = version_of(setup.server)
    assert version is not None
    limit = limit_of(scenario, setup, version) if scenario.suits(setup) else None
    return scenario.suits(setup) and (limit is None or limit.allows is not None)


def drawn(scenario: Scenario, setups: list[Setup]) -> list[Setup]:
    """One set-up of each of a few servers, by lot: always the same ones for a scenario, others for the next."""
    by_server: dict[str, Setup] = {}
    for setup in sorted(setups, key=lambda setup: zlib.crc32(f"{scenario.name} {setup}".encode())):
        by_server.setdefault(setup.server, setup)
    return list(by_server.values())[: SERVERS_FOR_A_SCENARIO[scenario.protocol]]


def chosen() -> dict[Setup, list[Scenario]]:
    """What is played on each server."""
    found: dict[Setup, list[Scenario]] = {setup: [] for setup in PLAYED}
    for scenario in SCENARIOS:
        setups = [setup for setup in PLAYED if shows(setup, scenario)]
        for setup in setups if IS_FULL else drawn(scenario, setups):
            found[setup].append(scenario)
    return found


CHOSEN = chosen()


class Run:
    """All that was selected, playing in the background."""

    def __init__(self, selected: dict[Setup, list[Scenario]]) -> None:
        self._news = threading.Condition()
        self._ended: set[tuple[Setup, bool]] = set()
        self._parts: dict[tuple[Setup, bool], list[Scenario]] = {}
        for setup, scenarios in selected.items():
            for scenario in scenarios:
                self._parts.setdefault((setup, scenario.protocol == HTTP2), []).append(scenario)
        self.columns = {part: Column(part[0], part[0].version) for part in self._parts}
        self._pool = ThreadPoolExecutor(SERVERS_AT_ONCE)
        for part in sorted(self._parts, key=lambda part: not part[1]):  # HTTP/2 takes longest
            self._pool.submit(self._play, part)

    def _play(self, part: tuple[Setup, bool]) -> None:
        def heard(scenario: Scenario, verdict: str) -> None:
            with self._news:
                self._news.notify_all()

        try:
            play_all(sys.executable, self.columns[part], self._parts[part], on_verdict=heard)
        except Exception as failure:
            self.columns[part].troubles.append(repr(failure))
        with self._news:
            self._ended.add(part)
            self._news.notify_all()

    def verdict(self, setup: Setup, scenario: Scenario) -> tuple[str, str]:
        part = setup, scenario.protocol == HTTP2
        column = self.columns[part]
        with self._news:
            self._news.wait_for(lambda: scenario.name in column.cells or part in self._ended, SECONDS_FOR_A_SERVER)
        verdict = column.cells.get(scenario.name, HANGS)
        return verdict, column.stories.get(scenario.name, "\n".join(column.troubles))

    def end(self) -> None:
        self._pool.shutdown()


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    selected: dict[Setup, list[Scenario]] = {}
    for item in request.session.items:
        parameters = getattr(item, "callspec", None)
        if parameters is not None and {"setup", "scenario"} <= set(parameters.params):
            selected.setdefault(parameters.params["setup"], []).append(parameters.params["scenario"])
    run = Run(selected)
    yield run
    run.end()
    troubles = {column.title: column.troubles for column in run.columns.values() if column.troubles}
    assert troubles == {}


@pytest.mark.parametrize(
    ("setup", "scenario"),
    [
        pytest.param(setup, scenario, id=f"{setup}-{scenario.name}")
        for setup, scenarios in CHOSEN.items()
        for scenario in scenarios
    ],
)
def test_a_client_that_leaves_is_the_same_on_every_server(run: Run, setup: Setup, scenario: Scenario) -> None:
    verdict, story = run.verdict(setup, scenario)
    assert verdict in GOOD, story


def test_every_server_is_played() -> None:
    missing = [f"{setup} was NOT played: {why_not(setup)}" for setup in SETUPS if setup not in PLAYED]
    if missing:
        pytest.skip("; ".join(missing))


def test_every_scenario_that_shows_something_is_played_and_every_server() -> None:
    played = {scenario for scenarios in CHOSEN.values() for scenario in scenarios}
    assert played == {scenario for scenario in SCENARIOS if any(shows(setup, scenario) for setup in PLAYED)}
    assert all(CHOSEN.values())


def test_a_scenario_is_drawn_for_different_servers() -> None:
    for scenario in SCENARIOS:
        servers = [setup.server for setup in drawn(scenario, [one for one in PLAYED if scenario.suits(one)])]
        assert len(servers) == len(set(servers)) == SERVERS_FOR_A_SCENARIO[scenario.protocol]


def test_every_scenario_has_a_name_of_its_own() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
