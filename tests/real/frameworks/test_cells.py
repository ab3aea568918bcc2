"""A part of the play of the frameworks, and its judge. `python -m tests.real.frameworks` plays all."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from .. import IS_FULL
from . import setups
from .cells import FILTERED, Cell, Column, faults, play
from .playing import require

UVICORN = setups.SERVERS["uvicorn"]

PLAYED = {
    "starlette": ("before", "stream", "upload", "ws_receive", "bug"),
    "litestar": ("upload", "ws_both", "bug"),
}


@pytest.mark.parametrize("framework", PLAYED if IS_FULL else ("litestar",))
def test_no_departure_is_an_error_and_nothing_is_worse_than_bare(framework: str) -> None:
    require(UVICORN, framework)
    column = Column(framework, UVICORN)
    play(column, sys.executable, PLAYED[framework], ("bare", "cancel"), ("fin",))
    assert [fault for _, fault in faults(column)] == []
    bare = {situation: cell for (situation, variant, _), cell in column.cells.items() if variant == "bare"}
    assert bare["upload"].errors and bare["bug"].is_bug_told, "the play sees what is logged"
    filtered = [cell for (_, variant, _), cell in column.cells.items() if variant.endswith(FILTERED)]
    assert bool(filtered) == (framework == "litestar"), "which logs inside of the middleware"


# The judge

FINE = Cell("cancelled", clean_up="whole", ran=("teardown",))


def judged(situation: str, variant: str, bare: Cell, cell: Cell, filtered: Cell | None = None) -> list[str]:
    column = Column("framework", UVICORN)
    column.cells = {(situation, "bare", "fin"): bare, (situation, variant, "fin"): cell}
    if filtered is not None:
        column.cells[situation, f"{variant} {FILTERED}", "fin"] = filtered
    return [fault.rpartition("fin: ")[2] for _, fault in faults(column)]


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (FINE, None),
        (dataclasses.replace(FINE, work="finishes"), "it goes on, where bare is cancelled"),
        (dataclasses.replace(FINE, clean_up="cut"), "its clean-up is cut, where bare is whole"),
        (dataclasses.replace(FINE, clean_up=""), "its clean-up is missing, where bare is whole"),
        (dataclasses.replace(FINE, ran=()), "teardown did not run, where bare did"),
        (dataclasses.replace(FINE, left=("reads",)), "it leaves reads"),
        (dataclasses.replace(FINE, work="lost", clean_up="whole"), "the work is lost, where bare cancelled"),
    ],
)
def test_a_cell_that_is_worse_than_bare_is_a_fault(cell: Cell, fault: str | None) -> None:
    assert judged("before", "mute", FINE, cell) == ([] if fault is None else [fault])


def test_an_error_is_a_fault_unless_the_filter_takes_it() -> None:
    noisy = dataclasses.replace(FINE, errors=("litestar: ClientDisconnected",))
    with_filter = "an error is logged, with the filter too: litestar: ClientDisconnected"
    without = "an error is logged without the filter, that bare does not log: litestar: ClientDisconnected"
    assert judged("before", "mute", noisy, noisy) == [with_filter]
    assert judged("before", "mute", noisy, noisy, noisy) == [with_filter]
    assert judged("before", "mute", noisy, noisy, FINE) == []
    assert judged("before", "mute", FINE, noisy, FINE) == [without]


def test_a_bug_must_be_told_where_bare_tells_it_and_in_spite_of_the_filter() -> None:
    told = dataclasses.replace(FINE, is_bug_told=True)
    untold = dataclasses.replace(FINE, is_bug_told=False)
    assert judged("bug", "mute", told, untold) == ["the bug is not told, where bare told it"]
    assert judged("bug", "mute", untold, untold) == []
    assert judged("bug", "mute", told, told, untold) == ["the filter has lost a bug"]


def test_each_policy_must_keep_its_promise() -> None:
    endless = dataclasses.replace(FINE, work="finishes")
    assert judged("stream", "cancel", endless, endless) == ["it goes on"]
    assert judged("stream", "mute", endless, endless) == []
    assert judged("before", "finish", endless, FINE) == ["it is stopped: cancelled"]
    cut = dataclasses.replace(FINE, clean_up="cut")
    assert judged("before", "finish", cut, dataclasses.replace(endless, clean_up="cut")) == ["its clean-up is cut"]


def test_errors_of_no_exchange_are_compared_with_bare() -> None:
    column = Column("framework", UVICORN)
    column.strays = {"bare": ["asyncio: never retrieved"], "mute": ["asyncio: never retrieved", "left: reads"]}
    assert [fault for _, fault in faults(column)] == ["framework on uvicorn: mute: errors of no exchange: left: reads"]
