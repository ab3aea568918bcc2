"""Each policy is what it says, in a handler and in a stream of every framework, on every server.

The clients of a server leave side by side, in the middle of their handler's or stream's steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import pytest

from .. import IS_FULL
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not
from .playing import Cell, errors_of, is_installed, leave_each, require, serving
from .sizes import SECONDS_OF_GRACE, STEPS

SETUPS = [
    Setup("uvicorn", INSTALLED, "uvloop", "httptools", "websockets-sansio"),
    Setup("hypercorn", INSTALLED, "asyncio"),
]
if IS_FULL:
    SETUPS += [
        Setup("granian", INSTALLED, "asyncio"),
        Setup("uvicorn", INSTALLED, "asyncio", "h11", "websockets"),
        Setup("gunicorn", INSTALLED, "asyncio", worker="asgi", is_patient=True),  # the grace is longer than its own
    ]

Ended = tuple[str, ...]

FINISHED = "went on to its end", "cleaned up"
CANCELLED = "was cancelled", "cleaned up"
CLOSED = "was closed", "cleaned up"
CUT = "was cancelled", "its clean-up was cut"
"""By an anyio group, which cancels each await anew: bare as well."""

BACKGROUND = ("ran its background task",)

GRACES = ("cancel-grace", "mute-grace")
POLICIES = ("mute", "raise", "cancel", "finish", *GRACES)


@dataclass(frozen=True)
class Framework:
    """How the work of one of its apps ends under each policy."""

    app: str
    mute: Ended
    cancel: Ended
    raising: Ended
    finish: Ended = FINISHED
    mute_grace: Ended = ()  # as under mute, unless it says otherwise
    module: str = "starlette"

    def __str__(self) -> str:
        return self.app

    def ended(self, policy: str) -> Ended:
        return {
            "mute": self.mute,
            "raise": self.raising,
            "cancel": self.cancel,
            "finish": self.finish,
            "cancel-grace": self.cancel,
            "mute-grace": self.mute_grace or self.mute,
        }[policy]


DEPENDENT = (*CANCELLED, "its dependency was cancelled", "cleaned up")

FRAMEWORKS = [
    Framework("handler", FINISHED + BACKGROUND, CANCELLED, FINISHED, FINISHED + BACKGROUND, CANCELLED),
    Framework("stream", CUT + BACKGROUND, CANCELLED, CLOSED, FINISHED + BACKGROUND),
    Framework("handler-behind-two", FINISHED + BACKGROUND, CUT, FINISHED, FINISHED + BACKGROUND, CUT),
    Framework("stream-behind-two", CUT + BACKGROUND, CUT, CUT, FINISHED + BACKGROUND),
    Framework(
        "dependent",
        (*FINISHED, "cleaned up"),
        DEPENDENT,
        (*FINISHED, "its dependency raised disconnect_mw.ClientDisconnected", "cleaned up"),
        (*FINISHED, "cleaned up"),
        DEPENDENT,
    ),
    Framework("events", CUT, CUT, CUT),
    Framework("sse", CUT, CUT, CUT, module="sse_starlette"),
    Framework("django-view", CANCELLED, CANCELLED, CANCELLED, module="django"),
    Framework("django-stream", CANCELLED, CANCELLED, CANCELLED, module="django"),
    Framework("quart-view", CANCELLED, CANCELLED, CANCELLED, module="quart"),
    Framework("quart-stream", CANCELLED, CANCELLED, CANCELLED, module="quart"),
]

INSIDE = Framework("stream-behind-two", CUT + BACKGROUND, CANCELLED, CLOSED, FINISHED + BACKGROUND)
"""Where the middleware stands inside of the two: no group of theirs is between it and the stream."""


@dataclass(frozen=True)
class Played:
    cells: dict[tuple[str, str], Cell]
    errors: list[str]
    told: int  # lines in the log


def play(setup: Setup) -> Played:
    apps = [framework.app for framework in FRAMEWORKS if is_installed(framework.module)]
    cells = [*product(apps, POLICIES), *((INSIDE.app, f"{policy}-inside") for policy in POLICIES)]
    with serving(setup, "policies") as server:
        played = leave_each(server, cells)
        wrapped = server.events()
        played |= leave_each(server, product(apps, ["bare"]))
    return Played(
        played,
        errors_of(wrapped),
        sum(event.get("logger") == "disconnect_mw" and event["log"] == "INFO" for event in wrapped),
    )


@pytest.fixture(scope="module")
def playing(request: pytest.FixtureRequest) -> Iterator[dict[Setup, Future[Played]]]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    setups = dict.fromkeys(params["setup"] for params in chosen if {"setup", "framework"} <= params.keys())
    with ThreadPoolExecutor(2) as threads:
        yield {setup: threads.submit(play, setup) for setup in setups if why_not(setup) is None}


@pytest.fixture
def played(playing: dict[Setup, Future[Played]], setup: Setup) -> Played:
    require(setup)
    return playing[setup].result()


on_each = pytest.mark.parametrize("setup", SETUPS, ids=str)
on_all = pytest.mark.parametrize("framework", FRAMEWORKS, ids=str)


def cells_of(played: Played, framework: Framework, variants: tuple[str, ...] = POLICIES) -> dict[str, Cell]:
    """Return what became of its app, by policy."""
    require(SETUPS[0], framework.module)
    return {variant: played.cells[framework.app, variant] for variant in variants}


@on_each
@on_all
def test_each_policy_ends_the_work_as_it_says(played: Played, setup: Setup, framework: Framework) -> None:
    """Whom we cancel, or the framework once, cleans up to the end."""
    cells = cells_of(played, framework)
    assert {policy: cell.lines for policy, cell in cells.items()} == {
        policy: framework.ended(policy) for policy in POLICIES
    }
    assert {cell.end for cell in cells.values()} == {"returned"}


@on_each
def test_inside_of_other_middleware_a_stream_is_cancelled_once(played: Played, setup: Setup) -> None:
    lines = {policy: played.cells[INSIDE.app, f"{policy}-inside"].lines for policy in POLICIES}
    assert lines == {policy: INSIDE.ended(policy) for policy in POLICIES}


@on_each
@on_all
def test_under_finish_every_step_is_saved(played: Played, setup: Setup, framework: Framework) -> None:
    assert cells_of(played, framework)["finish"].saved == STEPS


@on_each
@on_all
def test_under_cancel_with_a_grace_the_work_goes_on_for_so_long(
    played: Played, setup: Setup, framework: Framework
) -> None:
    """The clock of the cell starts when the hook is called, a little after that of the grace."""
    cell = cells_of(played, framework)["cancel-grace"]
    assert cell.seconds is not None
    assert cell.seconds > 0.8 * SECONDS_OF_GRACE


@on_each
@on_all
def test_under_mute_who_listens_is_told_at_once_whatever_the_grace(
    played: Played, setup: Setup, framework: Framework
) -> None:
    """Who does not listen goes on until the grace is over."""
    cell = cells_of(played, framework)["mute-grace"]
    assert cell.seconds is not None
    if framework.mute[0] == "was cancelled":
        assert cell.seconds < 0.8 * SECONDS_OF_GRACE
    else:
        assert cell.seconds > 0.8 * SECONDS_OF_GRACE


@on_each
@on_all
def test_under_mute_a_framework_does_what_it_does_bare(played: Played, setup: Setup, framework: Framework) -> None:
    """But for Starlette on gunicorn, whose claim keeps it from listening, while nothing tells it."""
    if setup.server == "gunicorn":
        pytest.skip("gunicorn's asgi worker claims 2.4, and its send is silent")
    cells = cells_of(played, framework, ("bare", "mute"))
    assert cells["mute"].lines == cells["bare"].lines


@on_each
def test_every_departure_is_told_once_and_is_no_error(played: Played, setup: Setup) -> None:
    wrapped = {cell: outcome for cell, outcome in played.cells.items() if cell[1] != "bare"}
    assert {cell: outcome.told for cell, outcome in wrapped.items() if len(outcome.told) != 1} == {}
    assert played.told == len(wrapped)
    assert played.errors == []
