"""Plays the scenarios on a server and compares each outcome with the expected one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .clients import Hang
from .limits import limit_of, stops_late
from .scenarios import Scenario
from .server import Crash, Outcome, Server
from .setups import Setup

FAILURES_TO_GIVE_UP = 3
"""So many hangs and crashes end the play on a server: each needs a new process."""

SAME, LIMIT, DIFFERS, HANGS, CRASHES, NOT_PLAYED = "same", "limit", "differs", "hangs", "crashes", "not played"
GOOD = (SAME, LIMIT)


@dataclass
class Column:
    """The verdicts on one server."""

    setup: Setup
    version: str
    cells: dict[str, str] = field(default_factory=dict)  # a verdict for each scenario, by name
    stories: dict[str, str] = field(default_factory=dict)  # of the scenarios whose verdict is not good
    troubles: list[str] = field(default_factory=list)  # of the server, whatever the scenario
    limits: dict[str, int] = field(default_factory=dict)  # each limit, and for how many scenarios
    seconds: float = 0

    @property
    def title(self) -> str:
        return f"{self.setup.server} {self.version} {self.setup.kind}"

    @property
    def is_good(self) -> bool:
        return not self.troubles and set(self.cells.values()) <= set(GOOD)


def play_all(
    python: str,
    column: Column,
    scenarios: Sequence[Scenario],
    bare: bool = False,
    on_verdict: Callable[[Scenario, str], None] = lambda scenario, verdict: None,
) -> None:
    """Play every scenario on the server of `column`, with a new process after each hang or crash."""
    left, failures, began = list(scenarios), 0, time.monotonic()

    def note(scenario: Scenario, verdict: str, story: str) -> None:
        column.cells[scenario.name] = verdict
        if verdict not in GOOD:
            column.stories[scenario.name] = story
        on_verdict(scenario, verdict)

    while left and failures < FAILURES_TO_GIVE_UP:
        server = Server(python, column.setup)
        verdict = ""
        try:
            with server:
                column.version = server.version
                while left:
                    scenario = left.pop(0)
                    verdict, story = judge(column, scenario, server, bare)
                    note(scenario, verdict, story)
                    if verdict in (HANGS, CRASHES):
                        failures += 1
                        raise Hang(story)
        except (AssertionError, OSError) as failure:
            if verdict not in (HANGS, CRASHES):
                column.troubles.append(f"the server itself: {failure}")
                failures = FAILURES_TO_GIVE_UP
        else:
            if server.hung_at_the_end and not stops_late(column.setup, server.version):
                column.troubles.append("the server did not stop in time")
            column.troubles += [f"on stderr: {line}" for line in server.complaints()]
    for scenario in left:
        note(scenario, NOT_PLAYED, "\n".join(("not played after too many failures", *column.troubles)))
    column.seconds = time.monotonic() - began


def judge(column: Column, scenario: Scenario, server: Server, bare: bool) -> tuple[str, str]:
    """Play `scenario`; return the verdict, and the story to read if it is not good."""
    limit = limit_of(scenario, column.setup, server.version)
    outcome: Outcome | None = None
    story = ""
    verdict = LIMIT
    if limit is None or limit.allows is not None:
        try:
            outcome, story = scenario.play(server, bare)
        except Hang as failure:
            verdict, story = HANGS, str(failure)
        except (Crash, ConnectionError) as failure:  # a ConnectionError: the server does not listen any more
            verdict, story = CRASHES, f"{failure}\n{server.last_words()}"
        except AssertionError as failure:
            verdict, story = DIFFERS, str(failure)
        else:
            if outcome == scenario.expected:
                verdict = SAME
            elif limit is None or limit.allows is None or not limit.allows(outcome, scenario.expected):
                verdict = DIFFERS
    if verdict == LIMIT and limit is not None:
        column.limits[limit.reason] = column.limits.get(limit.reason, 0) + 1
    return verdict, f"expected {scenario.expected}\ngot      {outcome}\n{story}"
