"""A commit under shield is never cut in half, and the connections to the database all come back."""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .. import IS_FULL
from ..servers.clients import PATIENCE, Client
from ..servers.server import Event, Outcome, Server, Visit
from ..servers.setups import INSTALLED, Setup
from .places import PLACES
from .sizes import BETWEEN

SETUP = Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio")

CLIENTS_AT_ONCE = 24

LONGEST = 0.25
"""Seconds until a client leaves; most orders would take about as long."""

WAYS = ("fin", "rst")


def serving(app: str) -> Server:
    return Server(sys.executable, SETUP, f"workloads.{app}:app", (Path(__file__).parent,))


def leave_at_random(server: Server, visits: Sequence[Visit], count: int, method: str = "GET") -> None:
    """So many clients for each visit, each of which leaves somewhere in the middle, until all the apps have ended."""
    chance = random.Random(4)
    since = server.count

    def order(visit: Visit, number: int, seconds: float, how: str) -> None:
        with Client(server.port) as client:
            client.request(f"{visit.path}?number={number}", b"{}" if method == "POST" else None)
            time.sleep(seconds)
            client.leave(how)

    with ThreadPoolExecutor(CLIENTS_AT_ONCE) as threads:
        orders = [
            threads.submit(order, visit, number, chance.uniform(0, LONGEST), chance.choice(WAYS))
            for number in range(1, count + 1)
            for visit in visits
        ]
    for one in orders:
        one.result()
    runs = {run_of(visit) for visit in visits}
    ended = itertools.count(1)
    server.wait(
        lambda event: event.get("run") in runs and "end" in event and next(ended) == len(orders),
        "end of the last order",
        patience=6 * PATIENCE,  # all write to one database, one after the other
        since=since,
    )


def run_of(visit: Visit) -> str:
    return visit.path.rpartition("/")[2]


def ask(server: Server, path: str) -> Any:
    with Client(server.port) as client:
        client.request(path)
        client.hear(b"\r\n\r\n")
        head, _, _ = client.came.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(client.came) < len(head) + 4 + length:
            assert client.listen(5)
    return json.loads(client.came[len(head) + 4 :])


# Never half

ORDERS = 30 if IS_FULL else 10

APPS = ("transaction", "commits")
SHIELDED = [f"shielded-{place}" for place in PLACES]
CARELESS = ["careless-alone"]


@dataclass(frozen=True)
class Orders:
    """What became of them, by app, variant, and for those whose clients left in the middle how they did it."""

    between: dict[tuple[str, str, str], tuple[Outcome, dict[str, int]]]
    at_random: dict[tuple[str, str], dict[str, int]]
    events: list[Event]


@pytest.fixture(scope="module")
def orders() -> Orders:
    def leave_between(cell: tuple[str, str, str]) -> tuple[Outcome, dict[str, int]]:
        app, variant, how = cell
        visit = server.visit(app, variant)
        with Client(server.port) as client:
            client.request(f"{visit.path}?number={BETWEEN}", b"{}")
            visit.until("between")
            client.leave(how)
        visit.cue()
        outcome = visit.outcome()
        return outcome, ask(server, f"/rows/-/{run_of(visit)}")

    with serving("orders") as server:
        between = {cell: leave_between(cell) for cell in itertools.product(APPS, SHIELDED + CARELESS, WAYS)}
        visits = {cell: server.visit(*cell) for cell in itertools.product(APPS, SHIELDED)}
        leave_at_random(server, list(visits.values()), ORDERS, "POST")
        rows = {cell: ask(server, f"/rows/-/{run_of(visit)}") for cell, visit in visits.items()}
    assert server.complaints() == []
    return Orders(between, rows, server.events())


@pytest.mark.parametrize("app", APPS)
def test_a_client_that_leaves_between_two_rows_under_shield_leaves_both(orders: Orders, app: str) -> None:
    rows = {cell: rows for cell, (_, rows) in orders.between.items() if cell[0] == app and cell[1] in SHIELDED}
    assert rows == dict.fromkeys(rows, {str(BETWEEN): 2})


@pytest.mark.parametrize("app", APPS)
def test_without_shield_it_leaves_half(orders: Orders, app: str) -> None:
    """Of the transaction, because another one commits on the same connection."""
    rows = {cell: rows for cell, (_, rows) in orders.between.items() if cell[0] == app and cell[1] in CARELESS}
    assert rows == dict.fromkeys(rows, {str(BETWEEN): 1})


@pytest.mark.parametrize("app", APPS)
def test_clients_that_leave_at_random_points_leave_both_rows_or_none(orders: Orders, app: str) -> None:
    halves = {
        (cell, number): count
        for cell, rows in orders.at_random.items()
        if cell[0] == app
        for number, count in rows.items()
        if count != 2
    }
    assert halves == {}
    assert any(rows for cell, rows in orders.at_random.items() if cell[0] == app)


def test_no_app_goes_on_after_the_shield(orders: Orders) -> None:
    shielded = {(event["run"], event["shielded"]) for event in orders.events if "shielded" in event}
    ended = {(event["run"], event["came_to_its_end"]) for event in orders.events if "came_to_its_end" in event}
    assert len(shielded) >= len(APPS) * len(SHIELDED) * len(WAYS)
    assert shielded & ended == set()


def test_orders_that_are_cancelled_are_no_error(orders: Orders) -> None:
    assert [event["text"] for event in orders.events if event.get("log") in ("ERROR", "CRITICAL")] == []


# The pool


@dataclass(frozen=True)
class Use:
    """How a pool is used: by which apps, in which variant, by how many clients of each."""

    apps: tuple[str, ...]
    variant: str
    count: int

    def __str__(self) -> str:
        return f"{self.variant}-{'-'.join(self.apps)}"


HANDLERS = ("session", "connection", "report")
MANY, FEWER, FEWEST = (167, 75, 50) if IS_FULL else (50, 30, 20)
GOOD_USES = [
    Use(HANDLERS, "alone", MANY),
    Use(HANDLERS, "inside", FEWEST),
    Use(HANDLERS, "both", FEWEST),
    Use(("guarded", "report"), "outside", FEWER),
]
BAD_USE = Use(("connection",), "anyio", 100)

POOLS_AT_ONCE = 2


@dataclass(frozen=True)
class Pool:
    checked_out: int
    seconds: float  # for as many connections as there are
    rows: dict[str, dict[str, int]]
    told: int
    errors: list[str]


def use_pool(use: Use) -> Pool:
    with serving("pool") as server:
        visits = {app: server.visit(app, use.variant) for app in use.apps}
        leave_at_random(server, list(visits.values()), use.count)
        found = {app: ask(server, f"/rows/-/{run_of(visit)}") for app, visit in visits.items()}
        server.mark("collected")  # what is garbage
        server.mark("told")  # and all that follows from that
    events = server.events()
    first = found[use.apps[0]]
    return Pool(
        first["checked out"],
        first["seconds"],
        {app: of["rows"] for app, of in found.items()},
        sum(event.get("logger") == "disconnect_mw" and event["log"] == "INFO" for event in events),
        [
            event["text"]
            for event in events
            if event.get("log") in ("ERROR", "CRITICAL") or "garbage collector" in event.get("text", "")
        ]
        + server.complaints(),
    )


@pytest.fixture(scope="module")
def pools(request: pytest.FixtureRequest) -> Iterator[dict[Use, Future[Pool]]]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    uses = dict.fromkeys(params["use"] for params in chosen if "use" in params)
    with ThreadPoolExecutor(POOLS_AT_ONCE) as threads:
        yield {use: threads.submit(use_pool, use) for use in uses}


@pytest.fixture
def pool(pools: dict[Use, Future[Pool]], use: Use) -> Pool:
    return pools[use].result()


well_used = pytest.mark.parametrize("use", GOOD_USES, ids=str)


@well_used
def test_no_connection_to_the_database_is_lost(pool: Pool) -> None:
    """Each one can be had at once when the clients have left."""
    assert pool.checked_out == 0
    assert pool.seconds < 1


@well_used
def test_nothing_is_left_to_the_garbage_collector_and_nothing_is_an_error(pool: Pool) -> None:
    assert pool.errors == []


@well_used
def test_no_order_is_written_by_half(pool: Pool, use: Use) -> None:
    halves = {app: {number: count for number, count in rows.items() if count != 2} for app, rows in pool.rows.items()}
    assert halves == dict.fromkeys(use.apps, {})
    assert pool.told > use.count  # most of them left in time


@pytest.mark.parametrize("use", [BAD_USE], ids=str)
def test_a_cancellation_by_anyio_leaves_something_to_the_garbage_collector(pool: Pool) -> None:
    """It cancels each await of a clean-up anew. (So does Starlette, for a stream, or a `BaseHTTPMiddleware` inside.)"""
    assert pool.errors != []
