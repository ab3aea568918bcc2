"""Request bodies: a client that stays loses nothing of its own, and one that leaves is noticed in spite of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import pytest

from ..servers.clients import PATIENCE, Client, Hang
from ..servers.server import Server
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not
from .playing import Cells, errors_of, require, serving, upload_each

UVICORN = Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio")
GUNICORN = Setup("gunicorn", INSTALLED, "asyncio", worker="asgi")
SETUPS = [UVICORN, GUNICORN, Setup("hypercorn", INSTALLED, "asyncio"), Setup("granian", INSTALLED, "asyncio")]

POLICIES = ("mute", "raise", "cancel", "finish")
STACKS = ("alone", "behind-two", "nested", "copied")
CLAIMS = ("", "-claimed")
"""What the server claims: its own version, or 2.4."""

WAYS = [f"{policy}-{stack}{claim}" for policy, stack, claim in product(POLICIES, STACKS, CLAIMS)]
REPLAYED = [way for way in WAYS if way.endswith("claimed") or not way.startswith("mute")]
"""Where a version below 2.4 is claimed, Starlette's listener spins on a body that is replayed, as bare."""

LATE_WAYS = ["bare", *WAYS]

BEGUN = [*product(("mute", "mute-behind", "finish", "finish-behind"), ("fin", "rst", "half"))]
"""With BaseHTTPMiddleware outside, and without."""

LARGE = 200_000

LATE = 2_000_000
"""More than is read ahead."""

HUGE = 12_000_000
"""More than the buffers of a connection take: the client cannot send all of it unless somebody reads."""

FINISHED = ("went on to its end", "cleaned up")
CLEANED_UP = ("was cancelled", "cleaned up")


def echoed(server: Server, way: str) -> bytes:
    """What a client gets back that sends its body in two pieces, and waits for the first to come back."""
    visit = server.visit("echo", way)
    with Client(server.port) as client:
        client.request(visit.path, b"Hello, ", chunked=True)
        try:
            client.hear(b"Hello, ")
            client.say(b"6\r\nworld!\r\n")
            client.hear(b"world!")
            client.say(b"0\r\n\r\n")
            client.hear(b"\r\n0\r\n\r\n")
        except Hang:
            return b"<hangs>"
        head, _, body = client.came.partition(b"\r\n\r\n")
    return body


def replayed(server: Server, way: str) -> int:
    """How many chunks a client gets, behind middleware that replays its body."""
    visit = server.visit("replayed", way)
    with Client(server.port) as client:
        client.request(visit.path, b"hi")
        try:
            client.hear(b"\r\n0\r\n\r\n")
        except Hang:
            pass
        return client.came.count(b"chunk ")


def read_late(server: Server, way: str) -> bytes:
    """What a client gets from an app that answers first, and reads the body later."""
    visit = server.visit("late", way)
    with Client(server.port) as client:
        client.request(visit.path, LATE * b"x")
        try:
            client.hear(b"\r\n0\r\n\r\n")
        except Hang:
            return b"<hangs>"
        return client.came.partition(b"\r\n\r\n")[2]


def begun(server: Server, variant: str, how: str) -> bytes:
    """What a client gets that leaves between the start of an answer and its only piece."""
    visit = server.visit("begun", variant)
    with Client(server.port) as client:
        client.request(visit.path)
        visit.until("working")
        client.leave(how)
        visit.until("answered")
        limit = time.monotonic() + PATIENCE
        while how == "half" and time.monotonic() < limit and client.listen(PATIENCE):
            pass
        return client.came.partition(b"\r\n\r\n")[2]


@dataclass(frozen=True)
class Played:
    late: dict[str, bytes]
    begun: dict[tuple[str, str], bytes]
    echoed: dict[str, bytes]
    replayed: dict[str, int]
    unread: dict[int, Cells]  # by the bytes of the body
    cut: Cells
    after: Cells
    errors: list[str]


def play(setup: Setup) -> Played:
    ways = ["-".join(way) for way in product(POLICIES, STACKS)]
    with serving(setup, "bodies") as server:
        with ThreadPoolExecutor(4) as threads:
            lates = dict(zip(LATE_WAYS, threads.map(lambda way: read_late(server, way), LATE_WAYS), strict=True))
            begins = dict(zip(BEGUN, threads.map(lambda cell: begun(server, *cell), BEGUN), strict=True))
        with ThreadPoolExecutor(len(WAYS)) as threads:
            echoes = dict(zip(WAYS, threads.map(lambda way: echoed(server, way), WAYS), strict=True))
            replays = dict(zip(REPLAYED, threads.map(lambda way: replayed(server, way), REPLAYED), strict=True))
        unread = {
            size: upload_each(server, product(["unread"], [way for way in ways if "finish" not in way]), size, size)
            for size in (2_000, LARGE, HUGE)
            if size < HUGE or setup != GUNICORN  # which claims 2.4: bare, nobody reads there
        }
        cut = upload_each(server, product(["raw_upload", "upload"], ways), 3, 9_000)
        after = upload_each(server, product(["after_upload"], ways), 2_000, 2_000)
    return Played(lates, begins, echoes, replays, unread, cut, after, errors_of(server.events()))


@pytest.fixture(scope="module")
def playing(request: pytest.FixtureRequest) -> Iterator[dict[Setup, Future[Played]]]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    setups = dict.fromkeys(params["body_setup"] for params in chosen if "body_setup" in params)
    with ThreadPoolExecutor(2) as threads:
        yield {setup: threads.submit(play, setup) for setup in setups if why_not(setup) is None}


@pytest.fixture
def played(playing: dict[Setup, Future[Played]], body_setup: Setup) -> Played:
    require(body_setup)
    return playing[body_setup].result()


on_each = pytest.mark.parametrize("body_setup", SETUPS, ids=str)


@on_each
def test_a_body_that_is_streamed_back_while_it_comes_is_whole(played: Played) -> None:
    """No listener takes what the stream is about to read, whatever the server claims, in whatever stack."""
    answers = {way: (b"Hello, " in body, b"world!" in body) for way, body in played.echoed.items()}
    assert answers == dict.fromkeys(WAYS, (True, True))


@on_each
def test_a_body_that_is_read_late_is_whole(played: Played) -> None:
    """P0: nothing of it is read away for an app that answers by itself, whoever looks at the version."""
    answers = {way: b"read %d" % LATE in body for way, body in played.late.items()}
    assert answers == dict.fromkeys(LATE_WAYS, True)


@on_each
def test_a_body_goes_out_whose_start_the_server_has_had(played: Played, body_setup: Setup) -> None:
    """P11: Hypercorn delivers it to a client that has only half-closed, and h11 does not complain of its length."""
    got = {variant: body for (variant, how), body in played.begun.items() if how == "half"}
    if body_setup.server == "hypercorn":
        assert got == dict.fromkeys(got, b"payload")


@on_each
def test_behind_middleware_that_replays_the_body_a_stream_ends(played: Played) -> None:
    """No listener spins on it, and the worker goes on."""
    assert played.replayed == dict.fromkeys(REPLAYED, 3)


@on_each
@pytest.mark.parametrize("size", [2_000, LARGE, HUGE])
def test_an_endless_stream_stops_although_nobody_reads_the_body(played: Played, body_setup: Setup, size: int) -> None:
    """Under every policy but `finish`, which lets it go on; and the client can send all of the body, as bare."""
    if size == HUGE and body_setup == GUNICORN:
        pytest.skip("gunicorn's asgi worker claims 2.4: bare, Starlette does not read the body away")
    lines = {variant: cell.lines for (_, variant), cell in played.unread[size].items()}
    assert [variant for variant, ended in lines.items() if "went on to its end" in ended] == []


@on_each
def test_an_app_cleans_up_after_a_cut_upload(played: Played) -> None:
    """It is told by its own reading, under every policy, and is not cancelled besides."""
    lines = {variant: cell.lines for (name, variant), cell in played.cut.items() if name == "raw_upload"}
    assert lines == dict.fromkeys(lines, ("http.disconnect", "cleaned up"))
    lines = {variant: cell.lines for (name, variant), cell in played.cut.items() if name == "upload"}
    assert lines == dict.fromkeys(lines, ("raised starlette.ClientDisconnect", "cleaned up"))


@on_each
def test_after_the_whole_upload_the_policy_decides(played: Played) -> None:
    lines = {variant: cell.lines for (_, variant), cell in played.after.items() if not variant.endswith("behind-two")}
    assert lines == {variant: CLEANED_UP if variant.startswith("cancel") else FINISHED for variant in lines}


@on_each
def test_nothing_of_that_is_an_error(played: Played) -> None:
    assert played.errors == []
