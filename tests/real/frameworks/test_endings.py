"""How apps end that are not to be cancelled, that cancel themselves, or that are one too many."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..servers.clients import Client
from ..servers.server import Server, Visit
from ..servers.setups import INSTALLED, Setup
from .playing import errors_of, leave_each, require, serving

SETUP = Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio")

THREADS = 2
"""Of the WSGI app."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    require(SETUP)
    with serving(SETUP, "endings") as server:
        yield server


@pytest.mark.parametrize("policy", ["mute", "cancel", "raise", "finish", "mute-grace", "cancel-grace"])
def test_a_wsgi_app_in_a_thread_is_closed_and_its_threads_come_free(server: Server, policy: str) -> None:
    """A cancellation, or an exception of `send`, would leave each thread waiting for ever, and the app answers nobody
    once all of them wait.
    """
    require(SETUP, "a2wsgi")

    def leave(visit: Visit) -> None:
        with Client(server.port) as client:
            client.request(visit.path)
            visit.until("working")
            client.leave("fin")

    visits = [server.visit("wsgi", policy) for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(leave, visits))
    for visit in visits:
        run = visit.path.rpartition("/")[2]
        server.wait(lambda event: event.get("run") == run and "over" in event, "close() of the WSGI iterable")
    with Client(server.port) as client:
        client.request(f"/wsgi-alive/{policy}/alive")
        client.hear(b"alive")


@pytest.mark.parametrize("policy", ["mute", "cancel", "raise", "finish"])
def test_a_middleware_that_polls_and_cancels_by_itself_does_so_without_an_error(server: Server, policy: str) -> None:
    since = server.count
    cells = leave_each(server, [("recipe", policy)], "rst")
    assert cells["recipe", policy].end == "returned"
    assert errors_of(server.events(since)) == []


def test_at_most_so_many_orphans_go_on_and_the_oldest_that_is_not_shielded_is_cancelled(server: Server) -> None:
    """Two may go on. The first is shielded, so that the third and the fourth end the second and the third."""
    visits = [server.visit("orphan", variant) for variant in ("shielded", "finish", "finish", "finish")]
    runs = [visit.path.rpartition("/")[2] for visit in visits]
    for visit, run in zip(visits, runs, strict=True):
        with Client(server.port) as client:
            client.request(visit.path)
            visit.until("working")
            client.leave("fin")
        server.wait(lambda event: event.get("run") == run and "told" in event, "word of the disconnect")
    for run in runs[1:3]:
        server.wait(lambda event: event.get("run") == run and "end" in event, "end of an orphan")
    for run in (runs[0], runs[3]):
        server.ask(f"/signal/{run}/enough")
    assert [visit.outcome().seen for visit in visits] == [
        ("went on to its end", "cleaned up"),
        ("was cancelled", "cleaned up"),
        ("was cancelled", "cleaned up"),
        ("went on to its end", "cleaned up"),
    ]
