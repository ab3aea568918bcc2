"""What an app awaits when its client leaves, by place, policy, and kind of shield: does it come to its end?

A table, and the rule behind it. Who cancels?

- Nobody under `finish`, under `raise` in a handler, and within a grace.
- asyncio, once: `cancel`, where no anyio group of a framework's is between us and the app. It cuts the await that it
  meets, unless that is within `client.shield()`; the clean-up may await. An anyio shield is none against it.
- anyio, again and again, the clean-up too: Starlette's listener under `mute`; server-sent events at all times;
  a `BaseHTTPMiddleware` inside of us. `anyio.CancelScope(shield=True)` helps, and so does `client.shield()`: but not in
  the clean-up of an async generator's own frame, which can have no scope of anyio's.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import pytest

from .. import IS_FULL
from ..servers.setups import INSTALLED, Setup
from .playing import Cell, errors_of, is_installed, leave_each, require, serving
from .sizes import KINDS, PLACES, STACK_NAMES

SETUP = Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio")

POLICIES = ("mute", "raise", "cancel", "finish", "grace")

DURING = ("handler", "body")
"""The client leaves during the await. In the other places it leaves before, and the await is in the clean-up."""

OWN_FRAME = ("stream_finally", "sse_finally")
"""The shield stands in the async generator, not in a coroutine that it awaits."""


def who_cancels(place: str, policy: str, stack: str) -> str:
    """Return who: "nobody", "asyncio" or "anyio"."""
    if policy == "finish" or (policy == "grace" and place in DURING) or place.endswith("dependency"):
        return "nobody"  # FastAPI closes its dependencies outside of what is cancelled
    if place.startswith(("events", "sse")):
        return "anyio"
    if policy == "mute":
        return "nobody" if place.startswith("handler") else "anyio"
    if policy == "raise":  # in the send of the next chunk
        return "anyio" if stack == "outside" and place.endswith("_finally") and place[0] != "h" else "nobody"
    return "anyio" if stack == "outside" else "asyncio"


def comes_to_its_end(place: str, policy: str, stack: str, kind: str) -> bool:
    who = who_cancels(place, policy, stack)
    if who == "nobody" or (who == "asyncio" and place not in DURING):
        return True
    if place in DURING:
        return kind == "client" or (kind == "anyio" and who == "anyio")
    return kind == "anyio" or (kind == "client" and place not in OWN_FRAME)


@dataclass(frozen=True)
class Played:
    cells: dict[tuple[str, str], Cell]
    errors: list[str]


@pytest.fixture(scope="module")
def playing() -> Iterator[Future[Played]]:
    def play() -> Played:
        cells: dict[tuple[str, str], Cell] = {}
        with serving(SETUP, "shields") as server:
            places = [place for place in PLACES if is_installed("sse_starlette") or not place.startswith("sse")]
            for some in (places[at : at + PLACES_AT_ONCE] for at in range(0, len(places), PLACES_AT_ONCE)):
                cells |= leave_each(server, [(place, "-".join(way)) for place in some for way in WAYS])
        return Played(cells, errors_of(server.events()) + server.complaints())

    require(SETUP)
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(play)


STACKS = STACK_NAMES if IS_FULL else ("alone", "outside", "both")

WAYS = list(product(POLICIES, STACKS, KINDS))

PLACES_AT_ONCE = 2


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("place", PLACES)
def test_a_shield_holds_where_the_table_says_so(playing: Future[Played], place: str, stack: str) -> None:
    if place.startswith("sse"):
        require(SETUP, "sse_starlette")
    cells = playing.result().cells
    ways = [way for way in WAYS if way[1] == stack]
    completed = {way: "completed" in cells[place, "-".join(way)].lines for way in ways}
    assert completed == {way: comes_to_its_end(place, *way) for way in ways}


def test_a_shield_of_ours_holds_in_every_coroutine() -> None:
    """The one row of the table that the documentation promises without an exception."""
    places = [place for place in PLACES if place not in OWN_FRAME]
    assert all(comes_to_its_end(place, *way, "client") for place in places for way in product(POLICIES, STACK_NAMES))


def test_every_call_of_the_app_ends_quietly(playing: Future[Played]) -> None:
    played = playing.result()
    assert {cell.end for cell in played.cells.values()} == {"returned"}
    assert played.errors == []
