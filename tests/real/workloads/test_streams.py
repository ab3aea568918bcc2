"""A model stops when its client leaves, and a story is finished and saved, on every server.

The servers are played side by side in threads, and so are the clients of each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from .. import IS_FULL
from ..servers.clients import Client
from ..servers.server import Server
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not
from .places import PLACES
from .sizes import SECONDS_PER_TOKEN, TOKENS

SERVERS_AT_ONCE = 2

SETUPS = [
    Setup("uvicorn", INSTALLED, "uvloop", "httptools", "wsproto"),
    Setup("hypercorn", INSTALLED, "trio"),
    Setup("gunicorn", INSTALLED, "asyncio", worker="asgi"),
]
if IS_FULL:
    SETUPS += [
        Setup("uvicorn", INSTALLED, "asyncio", "h11", "websockets-sansio"),
        Setup("hypercorn", INSTALLED, "asyncio"),
        Setup("daphne", INSTALLED),
        Setup("granian", INSTALLED, "asyncio"),
    ]
WITH_DATABASE = [setup for setup in SETUPS if setup.loop != "trio"]
"""aiosqlite is for asyncio."""

NEVER_TELLS = "gunicorn"
"""It claims that `send` raises when the client has gone, which it does not: Starlette does not listen, and goes on."""

TELLING = ("token", "left")

EVERY_TOKEN = list(range(1, TOKENS + 1))

WAYS = ("fin", "rst")
CANCELLED = [f"cancel-{place}" for place in PLACES]
MUTED = [f"mute-{place}" for place in PLACES]
BARE = ["bare", "bare-behind"]


class Cell(NamedTuple):
    app: str
    variant: str
    how: str


CELLS = [
    *map(Cell._make, product(("raw", "stream", "thread", "answer"), (*BARE, *CANCELLED), WAYS)),
    *map(Cell._make, product(("raw_story",), (*MUTED, "cancel-alone"), WAYS)),
    *map(Cell._make, product(("shielded_story",), (*MUTED, *CANCELLED), WAYS)),
    *map(Cell._make, product(("careless_story",), (*BARE, "mute-alone"), WAYS)),
]


class Stream(NamedTuple):
    """What became of one."""

    tokens: int
    late: int  # of them were produced after the client had left and the server had answered another one
    saved: list[int]
    end: str


@dataclass
class Streams:
    """What became of those of a server, and what it has logged."""

    cells: dict[Cell, Stream]
    told: int
    errors: list[str]

    def late(self, app: str, variants: list[str]) -> dict[Cell, int]:
        """How many tokens were produced for nobody, by cell."""
        return {cell: stream.late for cell, stream in self._of(app, variants).items()}

    def tokens(self, app: str, variants: list[str]) -> dict[Cell, int]:
        return {cell: stream.tokens for cell, stream in self._of(app, variants).items()}

    def saved(self, app: str, variants: list[str]) -> dict[Cell, list[int]]:
        return {cell: stream.saved for cell, stream in self._of(app, variants).items()}

    def _of(self, app: str, variants: list[str]) -> dict[Cell, Stream]:
        found = {cell: self.cells[cell] for cell in self.cells if cell.app == app and cell.variant in variants}
        assert len(found) == len(variants) * len(WAYS)
        return found


def play(setup: Setup) -> Streams:
    def leave_early(cell: Cell) -> Stream:
        visit = server.visit(cell.app, cell.variant)
        with Client(server.port) as client:
            client.request(visit.path)
            visit.until("producing")
            client.leave(cell.how)
        run = visit.path.rpartition("/")[2]
        server.ask(f"/left/-/{run}")
        server.wait(lambda event: event.get("run") == run and "left" in event, "word of the departure")
        end = server.wait(lambda event: event.get("run") == run and "end" in event, f"end of {cell}")["end"]
        if cell.app == "thread":
            time.sleep(2 * SECONDS_PER_TOKEN)  # it is given up, and what becomes of it told to nobody
        told = [event for event in server.events() if event.get("run") == run and not event.keys().isdisjoint(TELLING)]
        has_left = next(index for index, event in enumerate(told) if "left" in event)
        saved = ask(f"/saved/-/{run}") if cell.app.endswith("story") else []
        produced = ["token" in event for event in told]
        return Stream(sum(produced), sum(produced[has_left:]), saved, end)

    def ask(path: str) -> list[int]:
        with Client(server.port) as client:
            client.request(path)
            client.hear(b"]")
        return list(json.loads(client.came[client.came.index(b"[") : client.came.index(b"]") + 1]))

    cells = [cell for cell in CELLS if setup in WITH_DATABASE or not cell.app.endswith("story")]
    with Server(sys.executable, setup, "workloads.streams:app", (Path(__file__).parent,)) as server:
        with ThreadPoolExecutor(len(cells)) as threads:
            streams = dict(zip(cells, threads.map(leave_early, cells), strict=True))
        server.mark("over")
        # Not what comes at the shutdown, where granian closes a generator that the garbage collector is closing.
        events = server.events()
    return Streams(
        streams,
        sum(event.get("logger") == "disconnect_mw" and event["log"] == "INFO" for event in events),
        [event["text"] for event in events if event.get("log") in ("ERROR", "CRITICAL")] + server.complaints(),
    )


Played = dict[Setup, Future[Streams]]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[Played]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    setups = [params["streaming"] for params in chosen if "streaming" in params]
    with ThreadPoolExecutor(SERVERS_AT_ONCE) as threads:
        yield {setup: threads.submit(play, setup) for setup in dict.fromkeys(setups) if why_not(setup) is None}


@pytest.fixture
def streams(played: Played, streaming: Setup) -> Streams:
    if streaming not in played:
        pytest.skip(f"NOT tested here: {streaming}: {why_not(streaming)}")
    return played[streaming].result()


on_each = pytest.mark.parametrize("streaming", SETUPS, ids=str)
on_each_with_database = pytest.mark.parametrize("streaming", WITH_DATABASE, ids=str)


@on_each
@pytest.mark.parametrize("app", ["raw", "stream", "answer"])
def test_a_model_produces_at_most_one_token_for_nobody(streams: Streams, app: str) -> None:
    """Be it a stream, of a framework or not, or one long await, wherever in the stack the middleware stands."""
    late = streams.late(app, CANCELLED)
    assert {cell: count for cell, count in late.items() if count > 1} == {}


@on_each
def test_a_model_in_a_thread_produces_two_tokens_at_the_most(streams: Streams) -> None:
    """A thread cannot be cancelled: it comes to the end of what it has begun."""
    late = streams.late("thread", CANCELLED)
    assert {cell: count for cell, count in late.items() if count > 2} == {}


@on_each
@pytest.mark.parametrize("app", ["raw", "stream", "answer"])
def test_without_the_middleware_a_model_produces_all_the_rest_for_nobody(
    streams: Streams, streaming: Setup, app: str
) -> None:
    tokens = streams.tokens(app, BARE)
    if app == "stream" and streaming.server != NEVER_TELLS:  # Starlette listens
        assert max(tokens.values()) < TOKENS
    else:
        assert tokens == dict.fromkeys(tokens, TOKENS)


@on_each_with_database
def test_a_story_is_saved_to_its_end_under_the_default_policy(streams: Streams) -> None:
    saved = streams.saved("raw_story", MUTED)
    assert saved == dict.fromkeys(saved, EVERY_TOKEN)


@on_each_with_database
def test_a_streaming_response_under_shield_is_saved_to_its_end(streams: Streams) -> None:
    """Under `cancel` as well, and wherever in the stack the middleware stands."""
    saved = streams.saved("shielded_story", MUTED + CANCELLED)
    assert saved == dict.fromkeys(saved, EVERY_TOKEN)


@on_each_with_database
def test_what_is_neither_ignored_nor_shielded_is_lost(streams: Streams, streaming: Setup) -> None:
    saved = {
        **streams.saved("raw_story", ["cancel-alone"]),
        **streams.saved("careless_story", ["mute-alone"]),
        **(streams.saved("careless_story", BARE) if streaming.server != NEVER_TELLS else {}),
    }
    assert {cell: tokens for cell, tokens in saved.items() if tokens == EVERY_TOKEN} == {}


@on_each
def test_each_client_that_is_known_to_have_left_gets_its_line_and_nothing_is_an_error(streams: Streams) -> None:
    """Of the clients of an app that never receives, not all servers tell under the default policy."""
    wrapped = [cell for cell in streams.cells if cell.variant not in BARE]
    silent = [cell for cell in wrapped if cell.app == "raw_story" and cell.variant in MUTED]
    assert len(wrapped) - len(silent) <= streams.told <= len(wrapped)
    assert streams.errors == []
    assert {stream.end for stream in streams.cells.values()} == {"returned"}
