"""WebSockets whose clients leave: what they have said comes first, consumers are told, and who only sends stops."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import pytest

from .. import IS_FULL
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not
from .playing import Cells, converse_each, errors_of, is_installed, require, serving
from .sizes import SAID

SETUPS = [
    Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets"),
    Setup("hypercorn", INSTALLED, "asyncio"),
    Setup("granian", INSTALLED, "asyncio"),
    Setup("daphne", INSTALLED),
]
if IS_FULL:
    SETUPS += [
        Setup("uvicorn", INSTALLED, "uvloop", "h11", "websockets-sansio"),
        Setup("uvicorn", INSTALLED, "asyncio", "h11", "wsproto"),
        Setup("gunicorn", INSTALLED, "asyncio", worker="asgi"),
    ]

MUTED = ("default", "mute", "finish")
TOLD = ("was told", "cleaned up")
RAISED = ("raised ClientDisconnected", "cleaned up")
CANCELLED = ("was cancelled", "cleaned up")

READ = (*SAID["read_late"], "websocket.disconnect")

CALLED = ("disconnect() was called", "cleaned up")

ENDED: dict[tuple[str, str], tuple[str, ...]] = {
    **dict.fromkeys(product(["listens"], [*MUTED, "cancel"]), TOLD),
    **dict.fromkeys(product(["only_sends", "reads_once"], ["default"]), RAISED),
    **dict.fromkeys(product(["only_sends", "reads_once"], ["cancel"]), CANCELLED),
}
"""How the apps without a framework end, by app and policy."""

VISITS = 30


@dataclass(frozen=True)
class Played:
    cells: Cells
    errors: list[str]
    of_quart: list[tuple[str, ...]]  # the transcripts of many visits of two tasks


def play(setup: Setup) -> Played:
    cells = [*ENDED, *product(["read_late"], MUTED)]
    if is_installed("channels"):
        cells += product(["channels"], MUTED)
    has_quart = is_installed("quart") and setup.server != "daphne"  # whose scope has no scheme, which Quart asks for
    with serving(setup, "sockets") as server:
        played = converse_each(server, cells)
        before = server.count
        if has_quart:
            for policy in ("default", "cancel"):
                played |= converse_each(server, product(["quart-both", "quart-sends"], [policy]))
            converse_each(server, [("quart-both", "default")] * VISITS)
        of_quart = server.events(before)
        wrapped = server.events()
        played |= converse_each(server, product(["read_late"], ["bare"]))
    lines: dict[str, tuple[str, ...]] = {}
    for event in of_quart:
        if "line" in event:
            lines[event["run"]] = (*lines.get(event["run"], ()), event["line"])
    return Played(played, errors_of(wrapped), list(lines.values()))


@pytest.fixture(scope="module")
def playing(request: pytest.FixtureRequest) -> Iterator[dict[Setup, Future[Played]]]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    setups = dict.fromkeys(params["socket_setup"] for params in chosen if "socket_setup" in params)
    with ThreadPoolExecutor(2) as threads:
        yield {setup: threads.submit(play, setup) for setup in setups if why_not(setup) is None}


@pytest.fixture
def played(playing: dict[Setup, Future[Played]], socket_setup: Setup) -> Played:
    require(socket_setup)
    return playing[socket_setup].result()


on_each = pytest.mark.parametrize("socket_setup", SETUPS, ids=str)


@on_each
def test_what_the_client_has_said_is_read_before_the_disconnect(played: Played) -> None:
    """Although the app has sent in between, to a client that had left. It is what the bare app reads."""
    bare = played.cells["read_late", "bare"].lines
    assert {policy: played.cells["read_late", policy].lines for policy in MUTED} == dict.fromkeys(MUTED, READ)
    assert bare in (READ, ())


@on_each
def test_who_listens_is_told_and_who_only_sends_stops(played: Played) -> None:
    """Be it that it has read once, and whatever the server's own `send` does."""
    assert {cell: played.cells[cell].lines for cell in ENDED} == ENDED


@on_each
def test_a_consumer_of_channels_is_disconnected_after_its_handler(played: Played, socket_setup: Setup) -> None:
    """Its groups would keep it otherwise. On uvicorn bare it is not, since `send` raises in the handler."""
    require(socket_setup, "channels")
    lines = {policy: played.cells["channels", policy].lines for policy in MUTED}
    assert lines == dict.fromkeys(MUTED, ("answered to the end", *CALLED))


@on_each
def test_two_tasks_of_quart_are_cancelled_once(played: Played, socket_setup: Setup) -> None:
    if socket_setup.server == "daphne":
        pytest.skip("Quart does not run on Daphne")
    require(socket_setup, "quart")
    assert len(played.of_quart) == VISITS + 4
    assert set(played.of_quart) == {CANCELLED}


@on_each
def test_no_departure_is_an_error(played: Played) -> None:
    assert played.errors == []
    assert {cell.end for key, cell in played.cells.items() if key[1] != "bare"} == {"returned"}
