"""Hundreds of streams whose clients leave at once; `python -m tests.real.workloads` has thousands, and more figures."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import pytest

from .. import IS_FULL
from ..servers.test_servers import why_not
from .crowd import SETUP, WAYS, Census, Storm, census, ratio, serving, storm

if sys.platform != "win32":
    import resource

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="NOT tested here: it has no limit to raise")

COMPARES = "TESTS_WORK_STREAMS" in os.environ

SIZE = int(os.environ.get("TESTS_WORK_STREAMS", "500" if IS_FULL else "200"))

CELLS = [("sse", "bare"), ("sse", "mute"), ("sse", "cancel"), ("sse", "finish"), ("deaf", "cancel")]
"""An app and a variant. The deaf one never asks for its client: bare, it would go on. "finish" has a grace."""

WRAPPED, MEASURED = CELLS[1:], CELLS[:4]

LIMIT = 1.5
"""Times as long as the bare server's, a turn of the event loop may be."""

ROUNDS, MOST_ROUNDS = 2, 10
"""There are more of them if the limit is not kept in the first ones."""


@dataclass(frozen=True)
class Weather:
    """All storms, by app, variant and how the clients left; and what there was before some of them and after each."""

    storms: dict[tuple[str, str, str], list[Storm]]
    before: Census
    after: dict[tuple[str, str], Census]

    def ratio(self, variant: str, how: str) -> float:
        return ratio(self.storms["sse", variant, how], self.storms["sse", "bare", how])


@pytest.fixture(scope="module")
def weather() -> Weather:
    reason = why_not(SETUP)
    if reason is not None:
        pytest.skip(f"NOT tested here: {SETUP}: {reason}")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        return play()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def play() -> Weather:
    with serving() as server:
        # First, for what is made once and stays.
        storms = {(*cell, how): [storm(server, *cell, SIZE, how)] for cell in CELLS for how in WAYS}
        weather = Weather(storms, census(server, enough=0), {})
        for cell in WRAPPED:
            storm(server, *cell, SIZE, "rst")
            weather.after[cell] = census(server, weather.before.blocks + SIZE // 2)
        for number in range(2, MOST_ROUNDS + 1 if COMPARES else 2):
            for how in WAYS:
                for _, variant in MEASURED:
                    storms["sse", variant, how].append(storm(server, "sse", variant, SIZE, how))
            ratios = [weather.ratio(variant, how) for _, variant in MEASURED for how in WAYS]
            if number >= ROUNDS and max(ratios) <= LIMIT:
                break
    assert server.complaints() == []
    assert [event["text"] for event in server.events() if event.get("log") in ("ERROR", "CRITICAL")] == []
    return weather


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(("app", "variant"), CELLS)
def test_every_handler_ends(weather: Weather, app: str, variant: str, how: str) -> None:
    assert {(storm.streams, storm.left) for storm in weather.storms[app, variant, how]} == {(SIZE, 0)}


@pytest.mark.parametrize(("app", "variant"), WRAPPED)
def test_the_memory_comes_back(weather: Weather, app: str, variant: str) -> None:
    """Of the more than a hundred objects that each stream is made of, not one in two streams leaves one behind."""
    before, after = weather.before, weather.after[app, variant]
    assert after.objects - before.objects < SIZE / 2
    assert after.blocks - before.blocks < SIZE
    assert (after.streams, after.tasks) == (0, before.tasks)


@pytest.mark.skipif(not COMPARES, reason="NOT tested here: a ratio of times, unless TESTS_WORK_STREAMS is set")
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("variant", ["mute", "cancel", "finish"])
def test_no_turn_of_the_loop_takes_half_as_long_again_as_the_longest_of_the_bare_server(
    weather: Weather, variant: str, how: str
) -> None:
    assert weather.ratio(variant, how) <= LIMIT
