"""What Sentry, tracing and metrics tell of a client that has left, by where the middleware stands among them.

Inside of them, or on both sides, it is a 499 and no failure. Outside alone, what `cancel` has ended is a failure, or is
not counted, and a cut upload is what it is bare.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from .. import IS_FULL
from ..servers.clients import Client
from ..servers.server import Event, Server
from ..servers.setups import INSTALLED, Setup
from .playing import events_of, require, serving
from .sizes import POSITIONS, TOOL_SITUATIONS

SETUPS = [Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio")]
if IS_FULL:
    SETUPS += [Setup("hypercorn", INSTALLED, "asyncio"), Setup("granian", INSTALLED, "asyncio")]

FRAMEWORKS = ("starlette", "fastapi", "django", "quart", "litestar", "falcon") if IS_FULL else ("starlette",)

ENDS_BY_ITSELF = ("django", "quart")
"""They end a handler whose client has left: no cancellation goes through the tools."""

COUNTERS = {
    "starlette": {"prometheus-fastapi-instrumentator", "starlette_exporter"},
    "litestar": {"Litestar"},
}
NEEDED = ("falcon", "litestar", "quart", "django", "fastapi", "sentry_sdk", "starlette_exporter")


@dataclass(frozen=True)
class Told:
    span: str  # its status
    status: int | None  # of the response, in the span
    transaction: str | None
    counted: dict[str, str]  # the status by counter
    captured: tuple[str, ...]  # exceptions that Sentry has captured
    kept: tuple[str, ...]  # and that `observe.sentry` has not dropped


Key = tuple[str, str, str]


def play(setup: Setup) -> dict[Key, Told]:
    with serving(setup, "tools") as server:
        keys = [
            (name, situation, position)
            for name in FRAMEWORKS
            for situation in TOOL_SITUATIONS
            for position in POSITIONS
        ]
        with ThreadPoolExecutor(12) as threads:
            runs = list(threads.map(lambda key: leave(server, key), keys))
        server.ask("/counted/-/-")
        server.mark("counted")
        return {key: told(events_of(server, run)) for key, run in zip(keys, runs, strict=True)}


def leave(server: Server, key: Key) -> str:
    framework, situation, position = key
    visit = server.visit(f"{framework}-{situation}", position)
    run = visit.path.rpartition("/")[2]
    with Client(server.port) as client:
        if situation == "upload":
            client.request(visit.path, bytes(20_000), length=90_000)
        else:
            client.request(visit.path)
        if (framework, situation) == ("django", "upload"):  # it reads before it calls a view
            server.ask("/counted/-/-")
        else:
            visit.until("working")
        client.leave("rst")
    for what in ("end", "span", "transaction"):
        server.wait(lambda event: event.get("run") == run and what in event, f"{what} of {key}")
    return run


def told(events: list[Event]) -> Told:
    (span,) = [event for event in events if "span" in event]
    (transaction,) = [event for event in events if "transaction" in event]
    captured = [event for event in events if "captured" in event]
    return Told(
        span["span"],
        span["status"],
        transaction["transaction"],
        {event["counted_by"]: event["counted_as"] for event in events if "counted_by" in event},
        tuple(event["captured"] for event in captured),
        tuple(event["captured"] for event in captured if event["is_kept"]),
    )


@pytest.fixture(scope="module", params=SETUPS, ids=str)
def played(request: pytest.FixtureRequest) -> Iterator[dict[Key, Told]]:
    require(request.param, *NEEDED)
    yield play(request.param)


on_each = pytest.mark.parametrize("framework", FRAMEWORKS)


@on_each
@pytest.mark.parametrize("situation", TOOL_SITUATIONS)
@pytest.mark.parametrize("position", ["inside", "both"])
def test_inside_no_tool_tells_of_a_failure(
    played: dict[Key, Told], framework: str, situation: str, position: str
) -> None:
    told = played[framework, situation, position]
    assert told.span == "UNSET"
    assert told.transaction != "internal_error"
    assert told.kept == ()
    assert set(told.counted) == COUNTERS.get(framework, set())


@on_each
@pytest.mark.parametrize("situation", ["before", "upload"])
@pytest.mark.parametrize("position", ["inside", "both"])
def test_inside_a_client_that_left_before_the_response_is_499(
    played: dict[Key, Told], framework: str, situation: str, position: str
) -> None:
    told = played[framework, situation, position]
    # Falcon takes a cut body for a whole one.
    status = 200 if (framework, situation) == ("falcon", "upload") else 499
    assert told.status == status
    assert set(told.counted.values()) <= {str(status)}


@on_each
@pytest.mark.parametrize("situation", ["before", "stream"])
def test_outside_alone_what_was_cancelled_is_a_failure_or_not_counted(
    played: dict[Key, Told], framework: str, situation: str
) -> None:
    """But for frameworks that end their handlers themselves, and for Litestar, which ends its streams."""
    told = played[framework, situation, "outside"]
    if framework in ENDS_BY_ITSELF or (framework, situation) == ("litestar", "stream"):
        assert told == played[framework, situation, "bare"]
        return
    assert told.transaction == "internal_error"
    assert "starlette_exporter" not in told.counted
    if situation == "before":
        assert told.status is None
        assert told.counted.get("prometheus-fastapi-instrumentator", "500") == "500"
        assert told.counted.get("Litestar", "200") == "200"


@on_each
def test_outside_alone_a_cut_upload_is_what_it_is_bare(played: dict[Key, Told], framework: str) -> None:
    """But that `observe.sentry` drops the event."""
    bare, outside = played[framework, "upload", "bare"], played[framework, "upload", "outside"]
    assert (outside.span, outside.status, outside.transaction) == (bare.span, bare.status, bare.transaction)
    assert (outside.counted, outside.captured) == (bare.counted, bare.captured)
    assert outside.kept == ()


@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name in ("starlette", "fastapi", "litestar")])
def test_bare_a_cut_upload_is_an_error_to_all_of_them(played: dict[Key, Told], framework: str) -> None:
    told = played[framework, "upload", "bare"]
    assert (told.span, told.transaction) == ("ERROR", "internal_error")
    assert set(told.counted.values()) <= {"500"}
    assert told.kept


@pytest.mark.skipif("fastapi" not in FRAMEWORKS, reason="played with TESTS_FULL=1")
def test_fastapis_own_span_of_an_aborted_stream_is_an_error_but_inside(played: dict[Key, Told]) -> None:
    spans = {position: played["fastapi", "stream", position].span for position in POSITIONS}
    assert spans == {"bare": "ERROR", "inside": "UNSET", "outside": "ERROR", "both": "UNSET"}
